"""Everything that a computation may disturb is given back, including rare kinds of state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.probe.transforms import to_tensor


def _read_a_dataset() -> None:
    ProbeBatch.from_dataset([(torch.rand(1, 4, 4), 0), (torch.rand(1, 4, 4), 1)])


def _read_a_photo() -> None:
    from PIL import Image

    to_tensor(Image.new("RGB", (8, 8)), transform=lambda _: torch.rand(3, 8, 8))


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="nothing is queued once CUDA is in use")
@pytest.mark.parametrize("read", [_read_a_dataset, _read_a_photo])
def test_the_seed_that_cuda_will_start_from_is_left_alone(read: Callable[[], None]):
    torch.manual_seed(42)
    queue = torch.cuda._lazy_seed_tracker.get_calls()
    read()
    assert torch.cuda._lazy_seed_tracker.get_calls() == queue


def test_the_stream_of_cuda_is_seeded_if_it_is_in_use(monkeypatch: pytest.MonkeyPatch):
    called: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["state"])
    monkeypatch.setattr(torch.cuda, "manual_seed_all", called.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", called.append)
    with random_streams_kept(7):
        assert called == [7]
    assert called == [7, ["state"]]


def test_the_stream_of_mps_is_seeded_and_restored_if_there_is_one(monkeypatch: pytest.MonkeyPatch):
    stream = torch.Generator().manual_seed(1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", stream.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", stream.set_state)
    monkeypatch.setattr(torch.mps, "manual_seed", stream.manual_seed)
    before = stream.get_state()
    with random_streams_kept(7):
        inside = torch.rand((), generator=stream)
    assert torch.equal(inside, torch.rand((), generator=torch.Generator().manual_seed(7)))
    assert torch.equal(stream.get_state(), before)


def test_mps_is_not_touched_if_it_is_not_available(monkeypatch: pytest.MonkeyPatch):
    def touched(*_: Any) -> Tensor:
        raise AssertionError("a device that does not exist was used")

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("get_rng_state", "set_rng_state", "manual_seed"):
        monkeypatch.setattr(torch.mps, name, touched)
    with random_streams_kept(7):
        torch.rand(())


class Remembering(nn.Module):
    """Store something of each forward pass in every place that a module has for it."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)
        self.register_buffer("cache", None)
        self.register_buffer("seen", torch.zeros(()))
        self.total = torch.zeros(())
        self.maps = [torch.zeros(2), torch.zeros(())]
        self.by_name = {"last": torch.zeros(2)}
        self.state = (torch.zeros(2),)
        self.parts = torch.zeros(3, 2)[:, 0]

    def forward(self, images: Tensor) -> Tensor:
        logits = self.head(images.flatten(1))
        if self.cache is None:
            self.cache = logits.detach()
            self.register_buffer("late", logits.detach(), persistent=False)
        self.seen += images.mean()  # keeps the graph
        self.total += images.sum()
        self.maps[0].copy_(logits[0])
        self.maps[1] += 1
        self.by_name["last"] += logits.detach()[0]
        self.state[0].add_(1)
        self.parts.data.add_(1)
        return logits

    def remembered(self) -> dict[str, Tensor]:
        """Name every tensor that exists before the first forward pass."""
        kept = {"total": self.total, "seen": self.seen, "parts": self.parts, "state": self.state[0]}
        return {**kept, "0": self.maps[0], "1": self.maps[1], "last": self.by_name["last"]}


IMAGES = torch.ones(3, 1, 4, 4)


def test_what_a_forward_pass_stored_is_undone():
    model = Remembering()
    before = {name: (t, t.clone()) for name, t in model.remembered().items()}
    explain(model, IMAGES, rules=("gradient",))
    assert dict(model._buffers).keys() == {"cache", "seen"}
    assert model.cache is None
    assert model._non_persistent_buffers_set == set()
    for name, tensor in model.remembered().items():
        found, value = before[name]
        assert tensor is found
        assert not tensor.requires_grad, name
        torch.testing.assert_close(tensor, value, rtol=0, atol=0)


def test_inference_tensors_can_be_explained_and_are_put_back():
    model = Remembering()
    with torch.inference_mode():
        model.total, model.maps = torch.zeros(()), [torch.zeros(2), torch.zeros(())]
    total, mapped = model.total, model.maps[0]
    explain(model, IMAGES, rules=("gradient",))
    assert model.total is total
    assert model.maps[0] is mapped
    assert total.is_inference()
    assert total.item() == 0


def test_a_graph_that_needs_an_attribute_is_not_broken():
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.scale = nn.Linear(16, 2), torch.ones(2, requires_grad=True)
            self.twice = [self.scale * 2]

        def forward(self, images: Tensor) -> Tensor:
            return self.head(images.flatten(1)) * self.twice[0]

    model = Scaled()
    loss = (model.twice[0] ** 2).sum()
    explain(model, IMAGES, rules=("gradient",))
    loss.backward()
    assert model.scale.grad.tolist() == [8, 8]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(torch.eye(3).to_sparse(), id="sparse"),
        pytest.param(torch.zeros(3, device="meta"), id="meta"),
        pytest.param(torch.zeros(1).expand(3), id="expanded"),
        pytest.param(torch.tensor([float("nan")]), id="nan"),
        pytest.param(nn.Parameter(torch.zeros(2)), id="parameter-in-a-list"),
    ],
)
def test_tensors_of_any_kind_may_be_attributes(odd: Tensor):
    model = Remembering()
    model.odd, model.odds = odd if not isinstance(odd, nn.Parameter) else None, [odd]
    explain(model, IMAGES, rules=("gradient",))
    assert model.odds[0] is odd
    assert model.total.item() == 0


def test_the_buffers_of_a_script_are_kept():
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(16, 2)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, images: Tensor) -> Tensor:
            self.calls += 1
            return self.head(images.flatten(1))

    model = torch.jit.script(Counting())
    explain(model, IMAGES, rules=("gradient",))
    assert model.calls.item() == 0
