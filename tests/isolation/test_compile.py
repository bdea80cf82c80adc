"""Compiled code runs eagerly while it is explained, and is not recompiled because of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from lightning_saliency import SaliencyError, explain


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 16, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(images)).flatten(1))


class Holder(nn.Module):
    """A module with a compiled attribute or method."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def _module(net: Net, backend: object) -> nn.Module:
    return torch.compile(net, backend=backend)


def _attribute(net: Net, backend: object) -> nn.Module:
    return Holder(torch.compile(net, backend=backend))


def _in_place(net: Net, backend: object) -> nn.Module:
    net.compile(backend=backend)
    return net


def _method(net: Net, backend: object) -> nn.Module:
    holder = Holder(net)
    holder.forward = torch.compile(holder.forward, backend=backend)
    return holder


@pytest.mark.parametrize("warm", [pytest.param(True, id="warm"), pytest.param(False, id="cold")])
@pytest.mark.parametrize("style", [_module, _attribute, _in_place, _method])
def test_maps_of_compiled_code_are_those_of_eager_code(style, warm):
    torch._dynamo.reset()
    torch.manual_seed(0)
    net, images = Net(), torch.randn(2, 1, 4, 4)
    expected = explain(net, images)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = style(net, counter)
    if warm:
        compiled(images).sum().backward()
    graphs = counter.frame_count
    for _ in range(3):
        explanation = explain(compiled, images)
        assert explanation.coverage.guided == {"Relu": 1}
        assert explanation.coverage.hidden == {}
        torch.testing.assert_close(
            explanation["guided_backprop"], expected["guided_backprop"], rtol=0, atol=0
        )
        if warm:
            compiled(images).sum().backward()
    assert counter.frame_count == graphs == (1 if warm else 0)


def test_a_reentrant_checkpoint_is_refused_with_the_remedy():
    from torch.utils.checkpoint import checkpoint

    net = Net()
    with pytest.raises(SaliencyError, match="use_reentrant=False"):
        explain(
            net,
            torch.randn(2, 1, 4, 4),
            forward=lambda model, images: checkpoint(model, images, use_reentrant=True),
        )
    plain = explain(net, images := torch.randn(2, 1, 4, 4))
    recomputed = explain(
        net, images, forward=lambda model, x: checkpoint(model, x, use_reentrant=False)
    )
    assert recomputed.coverage.guided == {"Relu": 1}
    torch.testing.assert_close(
        recomputed["guided_backprop"], plain["guided_backprop"], rtol=0, atol=0
    )
