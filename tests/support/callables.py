"""Rules that are callables, good ones and one that tidies nothing up."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def slope(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The plain gradient, as a user would write it."""
    chosen = model(images).gather(1, targets[:, None]).sum()
    return torch.autograd.grad(chosen, images)[0]


def hiding(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """How far the logit falls if the left half is hidden, which takes no gradient."""
    with torch.no_grad():
        hidden = images.clone()
        hidden[..., :4] = 0
        fall = (model(images) - model(hidden)).gather(1, targets[:, None])
    return fall[:, :, None, None].expand(-1, 1, *images.shape[-2:])


def noisy(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Noise of every stream, and nothing of the model."""
    drawn = torch.randn(images.shape) + float(np.random.rand()) + random.random()
    return drawn.to(images.device)


def nasty(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient, by someone who tidies nothing up."""
    found = slope(model, images, targets)
    live = model.model
    live.train()
    live.register_forward_hook(lambda module, inputs, output: output * 0)
    model.register_forward_hook(lambda module, inputs, output: output * 0)
    model.train()
    for parameter in live.parameters():
        parameter.requires_grad_(False)
        parameter.grad = torch.ones_like(parameter)
        parameter.data.mul_(3)
    for buffer in live.buffers():
        buffer.add_(1)
    images.data.zero_()
    targets.zero_()
    live.note = "was here"
    torch.rand(5), np.random.rand(), random.random()
    torch.set_grad_enabled(False)
    return found


def of_captum(method: str, **options: Any) -> Any:
    """A rule of Captum, which is imported when the rule is first called."""

    def call(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        import captum.attr

        from lightning_saliency.captum import rule

        return rule(getattr(captum.attr, method), **options)(model, images, targets)

    call.name = method
    return call
