"""The gradient of batch norm for a single image, which torch scrambles for some memory formats.

The reference is the difference quotient, because every gradient of torch's passes the same code.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency import explain
from lightning_saliency.attribution import graph


def as_tokens(x: Tensor) -> Tensor:
    """Turn an activation into tokens, as vision transformers do."""
    return x.flatten(2).transpose(1, 2)


def from_tokens(x: Tensor) -> Tensor:
    """Turn tokens into an activation, whose channels lie last in memory in an unusual way."""
    tokens = as_tokens(x).contiguous()
    return tokens.transpose(1, 2).view(len(x), tokens.shape[2], 6, 6)


CONV = nn.Conv2d(3, 8, 3, padding=1)
BEFORE = {
    "convolution": CONV,
    "tokens": lambda x: from_tokens(CONV(x)),
    "sum with tokens": lambda x: F.silu(CONV(x) + from_tokens(CONV(x))),
    "sum": lambda x: F.silu(CONV(x) + CONV(x).sigmoid()),
    "joined": lambda x: torch.cat((CONV(x)[:, :4], from_tokens(CONV(x))[:, 4:]), dim=1),
}
AFTER = {
    "nothing": lambda x: x,
    "tokens": as_tokens,
    "silu and tokens": lambda x: as_tokens(F.silu(x)),
    "convolution": nn.Conv2d(8, 8, 3, padding=1),
    "linear": lambda x: F.linear(as_tokens(x).contiguous(), torch.eye(8).to(x)),
}


class Net(nn.Module):
    """A norm between two operations that lay their results out in memory."""

    def __init__(self, before: str, norm: nn.Module, after: str) -> None:
        super().__init__()
        self.before, self.norm, self.after = BEFORE[before], norm, AFTER[after]
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weights", torch.randn(8 * 6 * 6, 2, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.norm(self.before(images))).flatten(1) @ self.weights


def build_norm(kind: str) -> nn.Module:
    if kind == "instance norm":
        return nn.InstanceNorm2d(8, affine=True)
    norm = nn.BatchNorm2d(8, track_running_stats=kind == "batch norm")
    nn.init.uniform_(norm.weight)
    if norm.running_mean is not None:
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    return norm


def difference_quotient(net: nn.Module, image: Tensor, step: float = 1e-5) -> Tensor:
    """The gradient of logit 0 ``(1, C, H, W)``, from two forward passes per pixel."""
    steps = step * torch.eye(image.numel()).to(image).view(-1, *image.shape)
    with torch.no_grad():
        slopes = [net(image + s)[0, 0] - net(image - s)[0, 0] for s in steps]
    return torch.stack(slopes).view(image.shape) / (2 * step)


@pytest.mark.parametrize("kind", ["batch norm", "batch norm of the batch", "instance norm"])
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", AFTER)
def test_the_gradient_of_one_image_is_right(before, kind, after):
    torch.manual_seed(0)
    net = Net(before, build_norm(kind), after).double().eval()
    CONV.double()
    image = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    found = explain(net, image, 0, rules=("gradient",))["gradient"][:, 0]
    torch.testing.assert_close(found, difference_quotient(net, image), rtol=1e-6, atol=1e-7)


def test_torch_is_wrong_without_it(monkeypatch):
    """Once this fails, torch may have been mended, and the package needs no more than a bound."""
    monkeypatch.setattr(graph.SingleBatchNorms, "attach", lambda _: iter(()))
    torch.manual_seed(0)
    net = Net("convolution", build_norm("batch norm"), "tokens").double().eval()
    CONV.double()
    image = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    found = explain(net, image, 0, rules=("gradient",))["gradient"][:, 0]
    assert (found - difference_quotient(net, image)).abs().max() > 0.1 * found.abs().max()
