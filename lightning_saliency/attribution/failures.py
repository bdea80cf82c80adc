"""What to do if a model cannot be called with the images that are to be explained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.logits import Extras, Forward, call_plainly
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import looks_channels_last

# What calling a model with arguments that do not fit it raises. Other errors are of its own making.
_MISFITS = (TypeError, ValueError, LookupError, AttributeError, AssertionError, RuntimeError)


def saying_what_failed(forward: Forward | None, *, of_probe: bool = True) -> Forward:
    """Wrap ``forward`` so that an error in it says what the model was called with, and what to do.

    Errors of this package and of memory have remedies of their own and are not touched, nor are
    those that no argument explains, such as an interrupt.

    Args:
        forward: ``forward(model, images, **extras)``; ``None`` to call the model plainly.
        of_probe: Whether the images are those of a probe.
    """
    call = forward or call_plainly

    def called(model: nn.Module, images: Tensor, **extras: Tensor) -> Any:
        try:
            return call(model, images, **extras)
        except (SaliencyError, torch.OutOfMemoryError):
            raise
        except _MISFITS as error:
            name = type(model).__name__
            raise describe_failure(name, images, extras, error, of_probe=of_probe) from error

    return called


def describe_failure(
    name: str, images: Tensor, extras: Extras, error: Exception, *, of_probe: bool = True
) -> SaliencyError:
    """Describe the failure of a model with images, and what may help.

    Args:
        name: The name of the model.
        images: ``(N, C, H, W)``, the images that it was called with.
        extras: Its further inputs.
        error: What it raised.
        of_probe: Whether the images are those of a probe.
    """
    shape = tuple(images.shape[1:])
    what = f"images of the probe, {shape}" if of_probe else f"images of shape {shape}"
    further = f" with {', '.join(extras)}" if extras else ""
    advice = []
    if looks_channels_last(images.shape):
        advice.append("The images seem to have their channels last: `images.permute(0, 3, 1, 2)`.")
    others = "`probe=ProbeBatch(images, labels)`" if of_probe else "those"
    advice.append(
        "If it takes something other than images, pass `forward=lambda model, images: …` that "
        f"returns the logits; if it takes other images, pass {others}."
    )
    if not extras:
        ages = 'extras={"age": ages}'
        place = f"`ProbeBatch(images, labels, {ages})`" if of_probe else f"`{ages}`"
        advice.append(
            f"A second input with one row per image belongs in {place}: `forward` may be called "
            "with some of the images at a time, and gets their rows as `age`."
        )
    return SaliencyError(
        f"trying {name} on {what} {images.dtype}{further}, failed: {type(error).__name__}: "
        f"{error}\n{' '.join(advice)}"
    )
