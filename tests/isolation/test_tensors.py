"""Parameters and other tensors get back their memory, their bits and their count of writes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from lightning_saliency.isolation.module import undisturbed
from lightning_saliency.isolation.tensors import (
    _Held,
    is_uninitialised,
    named_weights,
    tensors_kept,
)


def _renormed(weight: Tensor) -> None:
    weight.data = weight.data.renorm(2, 0, 0.1)


def _halved(weight: Tensor) -> None:
    weight.data = weight.data.half()


def _copied(weight: Tensor) -> None:
    with torch.no_grad():
        weight.copy_(torch.zeros_like(weight))


def _through_numpy(weight: Tensor) -> None:
    weight.detach().numpy()[:] = 0


def _reshaped(weight: Tensor) -> None:
    weight.data = weight.data.reshape(-1)


def _resized(weight: Tensor) -> None:
    weight.data.resize_(100).zero_()


WRITES = [
    pytest.param(_renormed, id="new-memory"),
    pytest.param(_halved, id="another-precision"),
    pytest.param(_reshaped, id="another-shape"),
    pytest.param(_resized, id="another-size"),
    pytest.param(lambda w: w.data.clamp_(-0.01, 0.01), id="alias"),
    pytest.param(_copied, id="in-place"),
    pytest.param(_through_numpy, id="numpy"),
    pytest.param(lambda w: w.data.neg_(), id="sign-of-zero"),
    pytest.param(lambda w: w.data.fill_(torch.nan), id="nan"),
]


@pytest.mark.parametrize("write", WRITES)
def test_what_is_written_to_a_weight_is_undone(write: Callable[[Tensor], object]):
    layer = nn.Linear(4, 3)
    with torch.no_grad():
        layer.weight[0] = 0  # negated, it differs in its bits alone
    weight, version = layer.weight, layer.weight._version
    memory = weight.untyped_storage()._cdata
    bits = weight.detach().clone().view(torch.int32)
    loss = (layer(torch.ones(2, 4).requires_grad_()) ** 2).sum()  # its graph saves the weight
    with undisturbed(layer):
        write(layer.weight)
    assert layer.weight is weight
    assert weight.untyped_storage()._cdata == memory
    assert weight.shape == (3, 4)
    assert weight._version == version
    assert weight.dtype == torch.float32
    assert torch.equal(weight.detach().view(torch.int32), bits)
    loss.backward()
    assert weight.grad is not None


def test_a_weight_that_was_not_written_to_is_not_written_to():
    """Another process or stream may be reading it."""
    weight = nn.Parameter(torch.zeros(3))
    with tensors_kept([weight]):
        alias = weight.data
    assert alias._version == weight._version == 0


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.complex64, torch.bfloat16])
def test_tensors_of_every_kind_are_restored(dtype: torch.dtype):
    found = torch.ones(4, 3, dtype=dtype).t()
    with tensors_kept([found, found[0]]):
        found.zero_()
    assert found.to(torch.complex64).real.sum() == 12


def test_a_tensor_of_a_subclass_is_restored():
    class Tagged(Tensor):
        pass

    found = torch.ones(3).as_subclass(Tagged)
    with tensors_kept([found]):
        found.zero_()
    assert type(found) is Tagged
    assert found.tolist() == [1, 1, 1]


def test_memory_that_processes_share_is_left_alone():
    shared = torch.ones(3).share_memory_()
    with tensors_kept([shared]):
        shared.zero_()  # by the other process
    assert shared.tolist() == [0, 0, 0]


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = (
            nn.LazyConv2d(4, 3),
            nn.LazyBatchNorm2d(),
            nn.LazyLinear(3),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).relu().mean(dim=(2, 3)))


@pytest.mark.parametrize("fails", [False, True])
def test_lazy_layers_are_uninitialised_again(fails: bool):
    model = Lazy()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = [(type(m), set(m.__dict__)) for m in model.modules()]
    torch.manual_seed(1)
    try:
        with undisturbed(model):
            model(torch.rand(2, 3, 8, 8))
            assert not is_uninitialised(model)
            if fails:
                raise RuntimeError("as planned")
    except RuntimeError:
        pass
    assert is_uninitialised(model)
    assert named_weights(model) == set()
    assert [(type(m), set(m.__dict__)) for m in model.modules()] == before
    assert type(model.norm.running_mean) is UninitializedBuffer
    assert all(type(p) is UninitializedParameter for p in model.parameters())
    # Training goes on as if nothing had been.
    torch.manual_seed(1)
    model(torch.ones(2, 3, 8, 8)).sum().backward()
    torch.manual_seed(1)
    fresh = Lazy()
    fresh(torch.ones(2, 3, 8, 8))
    assert torch.equal(model.head.weight, fresh.head.weight)
    optimizer.step()
    assert not torch.equal(model.head.bias, fresh.head.bias)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_restoring_one_tensor_leaves_the_others_restored(error, monkeypatch):
    tensors, restore = [torch.zeros(2) for _ in range(3)], _Held.restore

    def restore_all_but_one(held: _Held) -> None:
        if held.tensor is tensors[1]:
            raise error
        restore(held)

    monkeypatch.setattr(_Held, "restore", restore_all_but_one)
    with pytest.raises(error), tensors_kept(tensors):
        torch._foreach_add_(tensors, 1)
    assert [float(tensor.sum()) for tensor in tensors] == [0, 2, 0]
