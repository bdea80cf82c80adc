"""Maps agree with the rules as the papers define them, on any network."""

from __future__ import annotations

import networks
import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import ACTIVATIONS, RandomNetwork, Small, roughen
from oracle import oracle, relative_error
from torch import nn

from lightning_saliency import explain
from lightning_saliency.attribution.rules import RULES
from lightning_saliency.errors import SaliencyWarning

pytestmark = [
    pytest.mark.filterwarnings("ignore:no rectifier"),
    pytest.mark.usefixtures("one_thread"),
]


def worst_error(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> float:
    """Return the largest error of any rule, relative to the largest value of the reference."""
    explanation = explain(model, images, targets, rules=RULES)
    expected = oracle(model, images, targets, RULES)
    return max(relative_error(explanation[rule], expected[rule]) for rule in RULES)


# A few models with all rules and two classes per image. `test_zoo.py` has all models, but with two
# rules and one class.
@pytest.mark.parametrize("name", ["googlenet", "densenet121", "mobilenet_v3_small", "swin_v2_t"])
def test_torchvision_models_in_float64(name):
    torch.manual_seed(0)
    extra = {"init_weights": False} if name == "googlenet" else {}
    model = roughen(torchvision.models.get_model(name, weights=None, num_classes=8, **extra))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    targets = torch.tensor([[0, 5], [3, 1]])
    assert worst_error(model.double(), images, targets) <= 1e-9


@pytest.mark.parametrize(
    "network",
    [
        pytest.param(lambda: networks.Mixed(), id="functional-in-place-and-reused"),
        pytest.param(lambda: networks.Residual(F.relu), id="residual-that-uses-the-input-twice"),
        pytest.param(lambda: networks.Residual(F.silu), id="residual-of-silu"),
        pytest.param(lambda: networks.Gated(F.relu), id="gates"),
        pytest.param(lambda: networks.Normalised(F.relu), id="F.normalize"),
        pytest.param(lambda: networks.Bounded(F.relu), id="clamped-input"),
        pytest.param(lambda: networks.ParameterSide(), id="rectifier-on-a-parameter"),
    ],
)
def test_small_networks_in_float64(network):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    targets = torch.tensor([[0, 1, 2], [2, 1, 0]])
    assert worst_error(roughen(network().double()), images, targets) <= 1e-9


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_each_activation_in_float64(name):
    torch.manual_seed(0)
    model = roughen(Small(ACTIVATIONS[name]).double())
    images = 2 * torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert worst_error(model, images, torch.tensor([[0, 1], [2, 0]])) <= 1e-9


@pytest.mark.parametrize("block", range(10))
def test_random_graphs(block):
    for seed in range(50 * block, 50 * block + 50):
        torch.manual_seed(seed)
        model = RandomNetwork(seed).double()
        images = torch.randn(2, 3, 5, 5, dtype=torch.float64)
        error = worst_error(model, images, torch.tensor([[0, 2], [1, 0]]))
        assert error <= 1e-9, (seed, error, model.steps)


# The slope of each rectifier at -2 and at 1, derived by hand. Guided backprop turns a gradient of
# +1 into max(slope, 0), and a gradient of -1 into 0.
SIGMOID_1, SIGMOID_M2 = 0.7310585786300049, 0.11920292202211755
PHI_1, PHI_M2 = (
    0.8413447460685429,
    0.022750131948179195,
)  # standard normal distribution
DENSITY_1, DENSITY_M2 = 0.24197072451914337, 0.05399096651318806
SLOPES = {
    "relu": (0, 1),
    "relu6": (0, 1),
    "hardtanh 0..2": (0, 1),
    "threshold": (0, 1),
    "leaky_relu": (0.01, 1),
    "leaky_relu, negative slope": (-0.3, 1),
    "prelu, negative slope": (-0.3, 1),
    "rrelu": ((1 / 8 + 1 / 3) / 2, 1),
    "elu": (0.1353352832366127, 1),  # e^-2
    "celu": (0.05743261926761735, 1),  # e^(-2 / 0.7)
    "selu": (1.7580993408473766 * 0.1353352832366127, 1.0507009873554805),  # λα·e^-2 and λ
    "gelu": (PHI_M2 - 2 * DENSITY_M2, PHI_1 + DENSITY_1),  # Φ(x) + x·φ(x)
    "silu": (SIGMOID_M2 * (1 - 2 * (1 - SIGMOID_M2)), SIGMOID_1 * (1 + (1 - SIGMOID_1))),
    "hardswish": ((2 * -2 + 3) / 6, (2 * 1 + 3) / 6),
    "softplus": (SIGMOID_M2, SIGMOID_1),
    "clamp(min=0)": (0, 1),
    "clamp_(0)": (0, 1),
    "clamp_min(0)": (0, 1),
    "clip(0)": (0, 1),
}


@pytest.mark.parametrize("name", SLOPES)
def test_rectifiers_by_hand(name):
    """With one pixel and one activation, the map is the rule itself."""

    class One(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            y = ACTIVATIONS[name](images.flatten(1))
            return torch.cat([y, -y], dim=1)  # the gradient is +1 for class 0 and -1 for class 1

    images = torch.tensor([-2.0, 1.0], dtype=torch.float64).view(2, 1, 1, 1)
    found = explain(One(), images, rules=RULES)
    slopes = torch.tensor(SLOPES[name], dtype=torch.float64)
    zero = torch.zeros(2, dtype=torch.float64)
    expected = {
        "gradient": torch.stack([slopes, -slopes], dim=1),
        "guided_backprop": torch.stack([slopes.clamp(min=0), zero], dim=1),
        "deconvnet": torch.stack([zero + 1, zero], dim=1),
    }
    for rule, values in expected.items():
        torch.testing.assert_close(found[rule].view(2, 2), values, rtol=1e-6, atol=1e-12)


def test_two_layers_by_hand():
    """Work out all three rules for two pixels, two hidden units and two classes.

    x = (1, 2), W = [[1, 1], [1, -1]], so h = (3, -1) and relu(h) = (3, 0).
    V = [[2, 1], [-1, 1]], so the logits are (6, -3).
    The gradient that arrives at relu(h) is (2, 1) for class 0 and (-1, 1) for class 1.
      gradient:        masked by h > 0 → (2, 0) and (-1, 0); times W → (2, 2) and (-1, -1)
      guided backprop: and by R > 0    → (2, 0) and (0, 0);  times W → (2, 2) and (0, 0)
      deconvnet:       by R > 0 only   → (2, 1) and (0, 1);  times W → (3, 1) and (1, -1)
    """
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2, bias=False)
    )
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))
        model[3].weight.copy_(torch.tensor([[2.0, 1.0], [-1.0, 1.0]]))
    found = explain(model, torch.tensor([1.0, 2.0]).view(1, 1, 1, 2), rules=RULES)
    assert found.logits.tolist() == [[6.0, -3.0]]
    assert found["gradient"].view(2, 2).tolist() == [[2.0, 2.0], [-1.0, -1.0]]
    assert found["guided_backprop"].view(2, 2).tolist() == [[2.0, 2.0], [0.0, 0.0]]
    assert found["deconvnet"].view(2, 2).tolist() == [[3.0, 1.0], [1.0, -1.0]]


def test_a_rectifier_on_a_parameter_is_not_counted():
    with pytest.warns(SaliencyWarning, match="no rectifier lies between the images and the logits"):
        explanation = explain(networks.ParameterSide(), torch.randn(1, 3, 8, 8))
    assert explanation.coverage.followed == 0
    assert explanation.coverage.left_alone == {"Tanh": 2}
