"""Compare every classification model of torchvision, and forty of timm, with the reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import timm
import torch
import torchvision
from networks import roughen
from oracle import oracle, relative_error
from torch import nn

from lightning_saliency import explain
from lightning_saliency.attribution.rules import Rule

# Images are tiny: threads would wait for each other, and for whatever else the machine does.
pytestmark = pytest.mark.usefixtures("one_thread")

Tell: TypeAlias = Callable[[str, object], None]  # pytest's `record_property`

# The side, in pixels, of the smallest image that a model takes, if it is not 32.
SIZES = {"alexnet": 63, "inception_v3": 75, "maxvit_t": 224, "vit_h_14": 28}
# Models of over 100 million parameters, each of which takes minutes and gigabytes in float64.
HUGE = {
    *("vgg11", "vgg11_bn", "vgg13", "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn"),
    *("wide_resnet101_2", "regnet_y_128gf", "regnet_x_32gf", "regnet_y_32gf", "convnext_large"),
    *("efficientnet_v2_l", "vit_l_16", "vit_l_32", "vit_h_14"),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": False},
    "inception_v3": {"init_weights": False},
    **{n: {"image_size": SIZES.get(n, 32)} for n in torchvision.models.list_models(include="vit*")},
}

TIMM = (
    *("test_resnet", "test_byobnet", "test_efficientnet", "test_convnext", "test_nfnet"),
    *("test_vit", "test_mambaout", "resnet18d", "resnet26t", "resnetv2_18", "seresnet18"),
    *("regnetx_002", "regnety_002", "regnetz_005", "mobilenetv3_small_050", "lcnet_050"),
    *("tf_mobilenetv3_small_minimal_100", "mobilenetv4_conv_small_050", "mnasnet_small"),
    *("fbnetc_100", "semnasnet_075", "tinynet_e", "ghostnet_050", "mixnet_s", "hardcorenas_a"),
    *("efficientnet_lite0", "efficientvit_b0", "repvgg_a0", "mobileone_s0", "fastvit_t8"),
    *("edgenext_xx_small", "poolformer_s12", "dla46_c", "res2net50d", "selecsls42"),
    *("convnext_atto", "convnextv2_atto", "cspresnet50", "ese_vovnet19b_dw", "pvt_v2_b0"),
    *("gernet_s", "levit_128s", "repghostnet_050", "skresnet18", "xcit_nano_12_p16_224"),
)
SCRAMBLED = {"levit_128s", "xcit_nano_12_p16_224"}  # by torch, if there is a single image
TIMM_SIZES = {"levit_128s": 224, "xcit_nano_12_p16_224": 224, "test_vit": 160}


def worst_error(
    model: nn.Module, images: torch.Tensor, rules: tuple[Rule, ...], tell: Tell, copies: int
) -> float:
    """Return the largest difference from the reference, relative to its largest value."""
    targets = torch.tensor([[3]])
    found = explain(model, images, targets, rules=rules)
    assert found.coverage.followed > 0
    assert found.coverage.hidden == {}
    tell("activations", " ".join({**found.coverage.guided, **found.coverage.extended}))
    expected = oracle(model, images, targets, rules, copies)
    assert all(bool(e.abs().max() > 0) for e in expected.values())
    return max(relative_error(found[rule], expected[rule]) for rule in rules)


def check(model: nn.Module, size: int, tell: Tell, copies: int = 1) -> None:
    """Check both rules in float64, then guided backprop in float32, which people use.

    In single precision, what is rounded in another way may turn units on or off whose input is
    almost zero, so the reference explains ``copies`` of the image only if it has to.
    """
    model = roughen(model).double().eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(1, 3, size, size, generator=generator, dtype=torch.float64)
    double = worst_error(model, images, ("guided_backprop", "gradient"), tell, 2)
    tell("float64", double)
    assert double <= 1e-9
    single = worst_error(model.float(), images.float(), ("guided_backprop",), tell, copies)
    tell("float32", single)
    assert single <= 1e-5


def _named(names: list[str], huge: set[str]) -> list[Any]:
    return [pytest.param(n, marks=[pytest.mark.slow] if n in huge else []) for n in names]


@pytest.mark.parametrize("name", _named(torchvision.models.list_models(torchvision.models), HUGE))
def test_torchvision(name, record_property):
    torch.manual_seed(0)
    options = {"weights": None, "num_classes": 5, **OPTIONS.get(name, {})}
    check(torchvision.models.get_model(name, **options), SIZES.get(name, 32), record_property)


@pytest.mark.parametrize("name", TIMM)
def test_timm(name, record_property):
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=5)
    copies = 2 if name in SCRAMBLED else 1
    check(model, TIMM_SIZES.get(name, 64), record_property, copies)


@pytest.mark.parametrize("act", ["elu", "celu", "selu", "prelu", "mish", "relu6", "leaky_relu"])
def test_timm_with_other_activations(act, record_property):
    """No network of timm has these activations by default, but each can be built with them."""
    torch.manual_seed(0)
    model = timm.create_model("test_resnet", pretrained=False, num_classes=5, act_layer=act)
    check(model, 64, record_property)
