"""Calling a model, and finding the logits in its output."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lightning_saliency.errors import SaliencyError
from lightning_saliency.isolation.module import undisturbed

Forward: TypeAlias = Callable[[nn.Module, Tensor], Any]


def call_plainly(model: nn.Module, images: Tensor) -> Any:
    """Call ``model`` with the images as its only argument; the default ``forward``."""
    return model(images)


def find_device(model: nn.Module, images: Tensor) -> torch.device:
    """Return the device of the model's first parameter, or of ``images`` if it has none."""
    return next((p.device for p in model.parameters()), images.device)


def count_classes(
    model: nn.Module, images: Tensor, forward: Forward | None = None, *, batch: int = 2
) -> int:
    """Count the logits of ``model`` by running it on two of ``images``.

    The model is left as it was found. Two, because a model that squeezes its output is right for
    any batch but that of a single image; if there is only one image, it is passed twice.

    Args:
        model: Any module.
        images: ``(N, C, H, W)``, on any device.
        forward: ``forward(model, images)`` returns the logits.
        batch: How many images to run it on instead.

    Raises:
        SaliencyError: The model's output contains no logits.
    """
    with undisturbed(model):
        tried = images[:batch] if len(images) >= batch else images[:1].repeat(batch, 1, 1, 1)
        output = (forward or call_plainly)(model, tried.to(find_device(model, images)))
        return find_logits(output, batch).shape[1]


def find_logits(output: Any, count: int) -> Tensor:
    """Find the logits in whatever a model returned.

    Args:
        output: A tensor, a mapping with the key ``"logits"``, an object with the attribute
            ``.logits``, or a tuple or list whose first item is the tensor.
        count: The number of images that the model was called with.

    Returns:
        ``(count, num_classes)``, floating point. A vector ``(count,)`` becomes ``(count, 1)``.

    Raises:
        SaliencyError: There are no logits, or they have another shape.
    """
    found = output
    if isinstance(output, Mapping):
        found = output.get("logits")
    elif not isinstance(output, Tensor):
        found = getattr(output, "logits", None)
        if found is None and isinstance(output, tuple | list) and output:
            found = output[0]
    if not isinstance(found, Tensor) or not found.is_floating_point():
        raise SaliencyError(
            f"no logits found in the model's output, a {type(output).__name__}. Pass "
            "`forward=lambda model, images: …` that returns a floating-point tensor "
            "(N, num_classes)."
        )
    logits = found.unsqueeze(1) if found.ndim == 1 else found
    if logits.ndim != 2 or len(logits) != count or logits.shape[1] == 0:
        if count == 1 and found.ndim < 2:
            raise SaliencyError(
                "the logits of 1 image must have shape (1, num_classes), got "
                f"{tuple(found.shape)}: does the model squeeze its output? That drops the batch "
                "axis of a single image. Use `squeeze(-1)` or `flatten(1)` there, or explain two "
                "images at a time."
            )
        raise SaliencyError(
            f"the logits of {count} image(s) must have shape ({count}, num_classes), got "
            f"{tuple(found.shape)}. Pass `forward=lambda model, images: …` that reduces them, for "
            "example by a mean over positions."
        )
    return logits
