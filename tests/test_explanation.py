"""`explain` with all kinds of targets, outputs, precisions and chunks; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_saliency import Explanation, SaliencyError, explain
from lightning_saliency.attribution.rules import RULES
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.functional.maps import REDUCTIONS, reduce_channels

N, CLASSES = 5, 4


class Net(nn.Module):
    """Return four logits, wrapped by ``out``."""

    def __init__(self, out: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6, CLASSES), out

    def forward(self, images: Tensor) -> Any:
        return self.out(self.head(self.conv(images).relu().mean(dim=(2, 3))))


def images(count: int = N, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)


@pytest.fixture(scope="module")
def every_class() -> Explanation:
    return explain(Net(), images(), rules=RULES)


# --- targets


def ranked() -> Tensor:
    """Sort the classes of each image from the strongest to the weakest."""
    return Net()(images()).argsort(dim=1, descending=True)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        pytest.param("all", torch.arange(CLASSES).expand(N, -1), id="all"),
        pytest.param("predicted", ranked()[:, :1], id="predicted"),
        pytest.param(2, torch.full((N, 1), 2), id="one-for-all"),
        pytest.param(
            torch.tensor([3, 0, 1, 2, 3]), torch.tensor([[3], [0], [1], [2], [3]]), id="N"
        ),
        pytest.param(torch.tensor([[1, 3]] * N), torch.tensor([[1, 3]] * N), id="N-K"),
        pytest.param(torch.tensor([2] * N, dtype=torch.uint8), torch.full((N, 1), 2), id="bytes"),
        pytest.param(torch.full((N, 3), -1), ranked()[:, :3], id="the-three-strongest"),
        pytest.param(
            torch.stack([ranked()[:, 0], torch.full((N,), -1)], dim=1),
            ranked()[:, :2],
            id="the-strongest-besides-the-named-one",
        ),
    ],
)
def test_targets(targets: Any, expected: Tensor, every_class: Explanation):
    found = explain(Net(), images(), targets, rules=RULES)
    assert torch.equal(found.targets, expected)
    rows = torch.arange(N)[:, None]
    for rule in RULES:
        torch.testing.assert_close(found[rule], every_class[rule][rows, expected])


def test_nan_is_never_the_strongest():
    def spoiled(logits: Tensor) -> Tensor:
        return torch.cat([logits[:, :1] * torch.nan, logits[:, 1:]], dim=1)

    with pytest.warns(SaliencyWarning, match="NaN"):
        found = explain(Net(spoiled), images(), torch.full((N, CLASSES), -1))
    assert (found.targets[:, -1] == 0).all()
    assert torch.equal(found.targets.sort(dim=1).values, torch.arange(CLASSES).expand(N, -1))


# --- outputs


@pytest.mark.parametrize(
    "out",
    [
        pytest.param(lambda logits: (logits, "features"), id="tuple"),
        pytest.param(lambda logits: [logits], id="list"),
        pytest.param(lambda logits: {"loss": 0, "logits": logits}, id="dict"),
        pytest.param(lambda logits: SimpleNamespace(logits=logits), id="object"),
    ],
)
def test_logits_are_found(out: Callable[[Tensor], Any], every_class: Explanation):
    found = explain(Net(out), images(), rules=RULES)
    assert torch.equal(found.logits, every_class.logits)
    assert torch.equal(found["guided_backprop"], every_class["guided_backprop"])


def test_logits_are_found_by_a_forward_of_the_user(every_class: Explanation):
    model = Net(lambda logits: {"deep": {"inside": logits}})
    found = explain(model, images(), forward=lambda m, x: m(x)["deep"]["inside"])
    assert torch.equal(found["guided_backprop"], every_class["guided_backprop"])


@pytest.mark.parametrize(
    "out",
    [
        pytest.param(lambda logits: logits[:, 1:2], id="(N, 1)"),
        pytest.param(lambda logits: logits[:, 1], id="(N,)"),
    ],
)
@pytest.mark.parametrize("targets", ["all", "predicted", 0])
def test_a_model_of_one_logit_has_the_target_0(
    out: Callable[[Tensor], Tensor], targets: Any, every_class: Explanation
):
    found = explain(Net(out), images(), targets)
    assert found.targets.tolist() == [[0]] * N
    assert found.logits.shape == (N, 1)
    torch.testing.assert_close(found["guided_backprop"], every_class["guided_backprop"][:, 1:2])


def test_logits_are_explained_not_probabilities():
    """Logits this large would saturate a softmax, and its gradient would vanish."""
    found = explain(Net(lambda logits: 1000 * logits), images(), 0, rules=("gradient",))
    expected = explain(Net(), images(), 0, rules=("gradient",))
    torch.testing.assert_close(found["gradient"], 1000 * expected["gradient"])


# --- what converts without doubt


@pytest.mark.parametrize(
    "convert",
    [
        pytest.param(lambda x: x.numpy(), id="array"),
        pytest.param(lambda x: x.double().numpy(), id="array-of-float64"),
        pytest.param(lambda x: x.numpy().astype(">f4"), id="array-of-other-byte-order"),
        pytest.param(lambda x: x.numpy()[:, :, ::-1].copy()[:, :, ::-1], id="reversed-array"),
        pytest.param(lambda x: x.double(), id="float64"),
        pytest.param(lambda x: x.as_subclass(Tagged), id="subclass"),
    ],
)
def test_images_become_tensors_in_the_precision_of_the_model(
    convert: Callable[[Tensor], Any], every_class: Explanation
):
    found = explain(Net(), convert(images()))
    assert type(found["guided_backprop"]) is Tensor
    assert torch.equal(found["guided_backprop"], every_class["guided_backprop"])


def test_images_are_cast_to_half_precision_if_the_model_is():
    model = Net().to(torch.bfloat16)
    found, expected = (explain(model, images().to(d)) for d in (torch.float32, torch.bfloat16))
    assert torch.equal(found["guided_backprop"], expected["guided_backprop"])


def test_a_model_of_several_precisions_gets_the_images_in_single_precision():
    model = Net()
    expected = explain(model, images())
    model.extra = nn.Parameter(torch.zeros(1, dtype=torch.float16))
    found = explain(model, images(dtype=torch.float64))
    assert found.logits.dtype == torch.float32
    torch.testing.assert_close(found.logits, expected.logits)


def test_images_of_whole_numbers_are_not_converted():
    with pytest.raises(TypeError, match=r"must be floating point.*got torch.uint8"):
        explain(Net(), (images() * 50).abs().to(torch.uint8).numpy())


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(np.array([3, 0, 1, 2, 3]), id="array"),
        pytest.param(np.array([[3], [0], [1], [2], [3]], dtype=np.int16), id="columns"),
        pytest.param([3, 0, 1, 2, 3], id="list"),
        pytest.param((3, 0, 1, 2, np.int64(3)), id="tuple"),
        pytest.param([[3], [0], [1], [2], [3]], id="list-of-rows"),
        pytest.param([torch.tensor(3), 0, 1, 2, 3], id="list-with-a-tensor"),
    ],
)
def test_targets_may_be_arrays_and_lists(targets: Any):
    assert explain(Net(), images(), targets).targets.flatten().tolist() == [3, 0, 1, 2, 3]


@pytest.mark.parametrize("target", [np.int64(2), np.array(2), torch.tensor(2)])
def test_one_class_may_be_an_integer_of_any_kind(target: Any):
    assert explain(Net(), images(), target).targets.tolist() == [[2]] * N


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        pytest.param([0.5] * N, TypeError, "got torch.float32", id="floats"),
        pytest.param([True] * N, TypeError, "got torch.bool", id="bools"),
        pytest.param(["cat"] * N, TypeError, "got list", id="names"),
        pytest.param([[1], [1, 2]], TypeError, "got list", id="ragged"),
        pytest.param(np.float64(1), TypeError, "got float", id="a-float"),
        pytest.param([], ValueError, r"got \(0,\)", id="empty"),
        pytest.param([1, 2], ValueError, r"have shape \(5,\) .* got \(2,\)", id="too-few"),
        pytest.param(np.int64(-2), ValueError, "at least 0, got -2", id="negative"),
    ],
)
def test_targets_that_do_not_convert_are_refused(
    targets: Any, error: type[Exception], message: str
):
    with pytest.raises(error, match=f"^`targets` must .*{message}"):
        explain(Net(), images(), targets)


class Tagged(Tensor):
    """A tensor with metadata, such as MONAI's ``MetaTensor``."""


def test_a_subclass_of_tensors_does_not_hide_activations_in_place():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    expected = explain(model, images())
    for found in (
        explain(model, images().as_subclass(Tagged)),
        explain(model, images(), forward=lambda m, x: m(x).as_subclass(Tagged)),
    ):
        assert found.coverage.guided == {"Relu": 1}
        assert found.coverage.hidden == {}
        assert type(found.logits) is Tensor
        assert torch.equal(found["guided_backprop"], expected["guided_backprop"])


class Lazy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 4, 3), nn.LazyBatchNorm2d(), None

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(x)).relu().mean(dim=(2, 3))
        if self.head is None:
            self.head = nn.Linear(4, CLASSES)
        return self.head(x)


def test_a_model_without_weights_is_refused_and_the_remedy_works():
    model = Lazy()
    for _ in range(2):  # the first one leaves it as it was
        with pytest.raises(SaliencyError, match=r"^Lazy makes weights in its first .*head.bias"):
            explain(model, images())
    model(images())
    assert explain(model, images()).coverage.guided == {"Relu": 1}


# --- chunks


@pytest.mark.parametrize("size", [1, 2, 5, 9])
@pytest.mark.parametrize("targets", ["all", "predicted", torch.tensor([3, 0, 1, 2, 3])], ids=str)
def test_chunks_change_nothing(size: int, targets: Any):
    whole, found = (explain(Net(), images(), targets, chunk_size=s) for s in (None, size))
    assert torch.equal(found.targets, whole.targets)
    torch.testing.assert_close(found.logits, whole.logits)
    torch.testing.assert_close(found["guided_backprop"], whole["guided_backprop"])


def test_chunks_are_halved_when_memory_runs_out(every_class: Explanation):
    sizes: list[int] = []

    def short_of_memory(model: nn.Module, x: Tensor) -> Tensor:
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("as planned")
        return model(x)

    with pytest.warns(SaliencyWarning, match="explaining 2 image.s. at a time. Set `chunk_size=2`"):
        found = explain(Net(), images(), forward=short_of_memory)
    assert sizes == [5, 3, 2, 2, 1]
    torch.testing.assert_close(found["guided_backprop"], every_class["guided_backprop"])


def test_memory_that_is_short_for_one_image_is_an_error():
    def never(_: nn.Module, __: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("as planned")

    with (
        pytest.warns(SaliencyWarning, match="memory ran out"),
        pytest.raises(RuntimeError, match=r"memory ran out while explaining a single|as planned"),
    ):
        explain(Net(), images(), forward=never)


# --- precision


@pytest.mark.parametrize(
    ("dtype", "gathered", "tolerance"),
    [
        pytest.param(torch.float64, torch.float64, 1e-5, id="float64"),
        pytest.param(torch.float32, torch.float32, 0, id="float32"),
        pytest.param(torch.bfloat16, torch.float32, 0.1, id="bfloat16"),
        pytest.param(torch.float16, torch.float32, 0.05, id="float16"),
    ],
)
def test_precision(
    dtype: torch.dtype, gathered: torch.dtype, tolerance: float, every_class: Explanation
):
    found = explain(Net().to(dtype), images().to(dtype), rules=("gradient",))["gradient"]
    assert found.dtype == gathered
    expected = every_class["gradient"]
    # A ReLU whose input is near zero may switch, so compare all pixels together, not one by one.
    assert (found.float() - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("scale", [1e-6, 1.0, 6e4], ids=["tiny", "usual", "huge"])
def test_gradients_in_half_precision_neither_vanish_nor_overflow(scale: float):
    class Scaled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return (images * scale).sum(dim=(2, 3)) * 0.5

    found = explain(
        Scaled(), torch.full((1, 2, 1, 1), 0.01, dtype=torch.float16), 0, rules=("gradient",)
    )
    expected = 0.5 * scale
    assert float(found["gradient"][0, 0, 0]) == pytest.approx(expected, rel=0.02)


# --- states of the caller and of the model


@pytest.mark.parametrize("state", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_it_works_in_every_grad_mode(state: Any, every_class: Explanation):
    model = Net()
    with state():
        found = explain(model, images(), rules=RULES)
    for rule in RULES:
        assert torch.equal(found[rule], every_class[rule])
        assert not found[rule].requires_grad
        assert not found[rule].is_inference()


def test_the_images_are_not_changed_by_a_model_that_writes_to_them(every_class: Explanation):
    def careless(model: nn.Module, x: Tensor) -> Tensor:
        return model(x.mul_(2).div_(2))

    given = images().requires_grad_()
    found = explain(Net(), given, forward=careless)
    torch.testing.assert_close(found["guided_backprop"], every_class["guided_backprop"])
    assert torch.equal(given, images())
    assert given.grad is None


def test_frozen_weights_are_no_obstacle(every_class: Explanation):
    found = explain(Net().requires_grad_(False), images())
    assert torch.equal(found["guided_backprop"], every_class["guided_backprop"])


def test_a_frozen_transformer_does_not_take_its_fused_path():
    """Without gradients, a layer in eval mode runs as one fused operation, which hides its ReLU."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval().requires_grad_(False)

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return model(x.flatten(2).unflatten(2, (4, 16)).flatten(1, 2)[:, :, :12]).mean(dim=1)

    found = explain(model, images(), 1, forward=forward)
    assert found.coverage.guided == {"Relu": 2}
    assert found.coverage.hidden == {}


# --- maps


def test_maps_are_reductions_over_the_channels(every_class: Explanation):
    for reduce in REDUCTIONS:
        found = every_class.maps("gradient", reduce)
        assert found.shape == (N, CLASSES, 8, 8)
        for n in range(N):
            expected = reduce_channels(every_class["gradient"][n], reduce)
            assert torch.equal(found[n], expected)


def test_it_is_shown_in_a_line():
    found = explain(
        nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.ReLU()), torch.ones(2, 3, 2, 2)
    )
    assert repr(found) == (
        "Explanation(attributions={guided_backprop: (2, 3, 3, 2, 2) float32}, "
        "targets=(2, 3) int64, logits=(2, 3) float32, coverage=guided: 1 Relu)"
    )
