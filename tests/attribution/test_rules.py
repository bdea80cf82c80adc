"""Which nodes of a graph count as activations, which do not, and what hides activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import ACTIVATIONS
from oracle import oracle, relative_error
from torch import Tensor, nn

from lightning_saliency import SaliencyError, explain
from lightning_saliency.attribution import activations
from lightning_saliency.attribution.activations import declare
from lightning_saliency.attribution.graph import Coverage
from lightning_saliency.attribution.rules import RULES
from lightning_saliency.errors import SaliencyWarning

# The group of `Coverage` in which each spelling is counted, and under which name.
GROUPS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("relu", "relu in place", "relu method"), ("guided", "Relu")),
    **dict.fromkeys(("relu6", "hardtanh 0..2"), ("extended", "Hardtanh")),
    "hardtanh -1..1": ("left_alone", "Hardtanh"),
    "threshold": ("extended", "Threshold"),
    **dict.fromkeys(("leaky_relu", "leaky_relu, negative slope"), ("extended", "LeakyRelu")),
    "prelu, negative slope": ("extended", "PreluKernel"),
    "rrelu": ("extended", "RreluWithNoise"),
    **dict.fromkeys(("elu", "elu in place", "selu"), ("extended", "Elu")),
    "celu": ("extended", "Celu"),
    **dict.fromkeys(("gelu", "gelu tanh"), ("extended", "Gelu")),
    **dict.fromkeys(("silu", "silu in place"), ("extended", "Silu")),
    "hardswish": ("extended", "Hardswish"),
    "mish": ("extended", "Mish"),
    "softplus": ("extended", "Softplus"),
    **dict.fromkeys(("clamp(min=0)", "clamp_(0)", "clip(0)"), ("extended", "Clamp")),
    "clamp_min(0)": ("extended", "ClampMin"),
    **dict.fromkeys(("clamp(0, 1)", "clamp(max=1)", "clamp(min=0.1)"), ("left_alone", "Clamp")),
    "clamp to a tensor": ("left_alone", "Clamp"),
    "sigmoid": ("left_alone", "Sigmoid"),
    "tanh": ("left_alone", "Tanh"),
    "hardsigmoid": ("left_alone", "Hardsigmoid"),
    "softmax": ("left_alone", "Softmax"),
}


class Applied(nn.Module):
    """Apply an activation to the images; the mean of each channel is a logit."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act

    def forward(self, images: Tensor) -> Tensor:
        return self.act(images * 1).mean(dim=(2, 3))


def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 2 * torch.randn(2, 3, 4, 4, generator=generator, dtype=torch.float64)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test declared before the next one."""
    monkeypatch.setattr(activations, "_declared", {})


@pytest.mark.filterwarnings("ignore:no rectifier")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_is_counted_where_it_belongs(name: str):
    coverage = explain(Applied(ACTIVATIONS[name]), images(), 0).coverage
    group, kind = GROUPS[name]
    assert coverage == Coverage(**{group: {kind: 1}})


@pytest.mark.parametrize(
    "clamp",
    [
        pytest.param(lambda x: torch.clamp_max(x, 1), id="clamp_max"),
        pytest.param(lambda x: torch.clamp_min(x, torch.zeros_like(x)), id="clamp_min-to-tensor"),
        pytest.param(lambda x: x.clamp(0, 1), id="clamp-of-the-input"),
        pytest.param(lambda x: F.normalize(x, dim=1), id="F.normalize"),
    ],
)
def test_a_clamp_that_bounds_is_left_alone(clamp: Callable[[Tensor], Tensor]):
    with pytest.warns(SaliencyWarning, match="no rectifier"):
        found = explain(Applied(clamp), images(), rules=RULES)
    assert sum(found.coverage.left_alone.values()) == 1
    assert torch.equal(found["guided_backprop"], found["gradient"])


def test_the_long_formulas_by_hand():
    """Compare slopes at −2 and 1 with the definitions; the others are in `test_exact.py`."""
    lam, alpha = 1.0507009873554804934, 1.6732632423543772848
    slopes = {
        "selu": (lam * alpha * math.exp(-2), lam),
        "mish": (_mish(-2.0), _mish(1.0)),
        "gelu tanh": (_gelu_tanh(-2.0), _gelu_tanh(1.0)),
    }
    x = torch.tensor([-2.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    for name, expected in slopes.items():
        found = explain(Applied(ACTIVATIONS[name]), x, rules=RULES)
        values = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(found["gradient"].flatten(), values, rtol=1e-9, atol=0)
        guided = values.clamp(min=0)
        torch.testing.assert_close(found["guided_backprop"].flatten(), guided, rtol=1e-9, atol=0)


def _mish(x: float) -> float:
    """Differentiate x·tanh(log(1 + eˣ))."""
    gate = math.tanh(math.log1p(math.exp(x)))
    return gate + x * (1 - gate**2) / (1 + math.exp(-x))


def _gelu_tanh(x: float) -> float:
    """Differentiate x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))."""
    root = math.sqrt(2 / math.pi)
    gate = math.tanh(root * (x + 0.044715 * x**3))
    return (1 + gate) / 2 + x / 2 * (1 - gate**2) * root * (1 + 3 * 0.044715 * x**2)


# --- custom functions


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return upstream * gate * (1 + x * (1 - gate))


class Double(torch.autograd.Function):
    """Double the input; a linear function, which contains no activation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return 2 * upstream


class Through(torch.autograd.Function):
    """A straight-through ReLU: its backward returns the very tensor that it received."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.relu()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        return upstream


class With(nn.Module):
    def __init__(self, act: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.act, self.after = nn.Conv2d(3, 6, 1), nn.Linear(6, 3), act, after

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.after(self.act(self.conv(x))).mean(dim=(2, 3)))


def with_swish(act: Callable[[Tensor], Tensor], after: Callable[[Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return With(act, after).double()


def test_a_function_declared_an_activation_follows_the_rule():
    declare(Swish, "activation")
    found = explain(with_swish(Swish.apply, F.relu), images(), rules=RULES)
    assert found.coverage == Coverage(guided={"Relu": 1}, extended={"Swish": 1})
    targets = torch.arange(3).expand(2, -1)
    expected = oracle(with_swish(F.silu, F.relu), images(), targets, RULES)
    for rule in RULES:
        assert relative_error(found[rule], expected[rule]) <= 1e-9, rule


def test_a_function_that_is_unknown_is_hidden():
    with pytest.warns(SaliencyWarning, match=r"hidden behind Swish \(say what it is with"):
        found = explain(with_swish(Swish.apply, F.relu), images())
    assert found.coverage.hidden == {"Swish": 1}
    with pytest.raises(SaliencyError, match="hides the activations of this model behind Swish"):
        explain(with_swish(Swish.apply, torch.tanh), images())


def test_a_function_declared_linear_keeps_its_gradient_and_is_not_counted():
    declare(Double, "linear")
    found = explain(with_swish(Double.apply, F.relu), images(), rules=RULES)
    assert found.coverage == Coverage(guided={"Relu": 1})
    expected = explain(with_swish(lambda x: 2 * x, F.relu), images(), rules=RULES)
    for rule in RULES:
        torch.testing.assert_close(found[rule], expected[rule])


def test_a_gradient_that_a_function_hands_on_is_not_written_to():
    """Both branches of a sum receive the same tensor; clamping one must not change the other."""
    declare(Through, "increasing")

    class Branched(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = x.mean(dim=(2, 3))
            return Through.apply(x) * 1 + (Through.apply(x) + x) * -1

    found = explain(Branched(), images(), 0)["guided_backprop"]
    # The first `Through` passes +1 on. The second receives −1, so it passes nothing on. The `x`
    # that is added to it still receives −1, which cancels the +1.
    torch.testing.assert_close(found, torch.zeros_like(found))


def test_declare_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="`kind` must be one of activation, increasing, linear"):
        declare(Swish, "rectifier")


# --- what hides an activation, and what only looks as if it did


class OnView(nn.Module):
    """Apply an in-place operation to half of the channels."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(3, 4, 1), act

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.act(y[:, :2])
        return y.relu().mean(dim=(2, 3))


@pytest.mark.parametrize("act", [Tensor.relu_, lambda x: F.silu(x, inplace=True)])
def test_an_activation_in_place_on_a_view_is_hidden(act: Callable[[Tensor], Tensor]):
    with pytest.warns(SaliencyWarning, match="CopySlices .apply the activation to a copy"):
        found = explain(OnView(act), images().float())
    assert found.coverage.hidden == {"CopySlices": 1}


@pytest.mark.parametrize(
    "add", [lambda x: x.add_(x.mean(dim=1, keepdim=True)), lambda x: x.mul_(3)]
)
def test_arithmetic_in_place_on_a_view_is_not(add: Callable[[Tensor], Tensor]):
    torch.manual_seed(0)
    model, targets = OnView(add).double(), torch.tensor([[0], [1]])
    found = explain(model, images(), targets)
    assert found.coverage == Coverage(guided={"Relu": 1})
    expected = oracle(model, images(), targets, ("guided_backprop",))["guided_backprop"]
    assert relative_error(found["guided_backprop"], expected) <= 1e-9


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_what_torchscript_fuses_is_hidden_and_what_it_traced_is_not():
    torch.manual_seed(0)
    model = With(F.relu, F.silu).float()
    traced, fused = torch.jit.trace(model, images().float()), torch.jit.script(Fused())
    assert explain(traced, images().float()).coverage == explain(model, images().float()).coverage
    for _ in range(3):  # TorchScript fuses after a few profiling runs
        fused(images().float().requires_grad_()).sum().backward()
    with pytest.raises(SaliencyError, match=r"DifferentiableGraph \(pass the unscripted"):
        explain(fused, images().float())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_frozen_torchscript_is_explained_until_it_fuses():
    """A frozen module has no `training` flag, because it was frozen in eval mode."""
    torch.manual_seed(0)
    model = With(F.relu, F.silu).float().eval()
    frozen = torch.jit.freeze(torch.jit.trace(model, images().float()))
    assert not hasattr(frozen, "training")
    found = explain(frozen, images().float())
    expected = explain(model, images().float())
    assert found.coverage == expected.coverage
    name = "guided_backprop"
    torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-7)
    for _ in range(3):
        frozen(images().float().requires_grad_()).sum().backward()
    with pytest.raises(SaliencyError, match=r"DifferentiableGraph \(pass the unscripted"):
        explain(frozen, images().float())


class Fused(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.silu(F.gelu(F.relu(x) + x) * x)).mean(dim=(2, 3))


def test_a_user_s_full_backward_hook_hides_nothing():
    model = with_swish(F.relu, F.relu)
    expected = explain(model, images())
    model.conv.register_full_backward_hook(lambda *_: None)
    found = explain(model, images())
    assert found.coverage == Coverage(guided={"Relu": 2})
    assert torch.equal(found["guided_backprop"], expected["guided_backprop"])


def test_coverage_in_words():
    coverage = Coverage({"Relu": 2}, {"Silu": 1, "Gelu": 3}, {"Sigmoid": 1}, {"Swish": 1})
    assert coverage.followed == 6
    assert str(coverage) == (
        "guided: 2 Relu; guided by the extended rule: 1 Silu, 3 Gelu; left alone: 1 Sigmoid; "
        "hidden: 1 Swish"
    )
    assert str(Coverage()) == "no activations"
