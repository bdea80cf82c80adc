"""Hiding a place in images: whether a model leans on it, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import Forward, find_logits
from lightning_saliency.isolation import undisturbed
from lightning_saliency.measures import cell_mask
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.record import Measured
from lightning_saliency.snapshot import chances_of
from lightning_saliency.verdict import Growth, Occluded, Verdict


def place_of(growth: Growth, probe: ProbeBatch) -> Tensor:
    """The pixels of what gained most, bool ``(N, H, W)``."""
    if growth.region is not None:
        return probe.masks[growth.region]
    count, _, height, width = probe.images.shape
    return cell_mask(growth.row, growth.column, height, width).expand(count, -1, -1)


def hidden(images: Tensor, place: Tensor) -> Tensor:
    """``images`` with ``place`` filled with the mean colour of each.

    Of all of it: in the colour of what is left, a background would hide its object too.

    Args:
        images: ``(N, C, H, W)``.
        place: ``(N, H, W)`` bool.

    Example:
        >>> hidden(torch.tensor([[[[8.0, 1.0, 3.0]]]]), torch.tensor([[[True, False, False]]]))
        tensor([[[[4., 1., 3.]]]])
    """
    return torch.where(place.unsqueeze(1), images.mean(dim=(2, 3), keepdim=True), images)


def confirm(
    verdict: Verdict,
    model: nn.Module,
    probe: ProbeBatch,
    measured: Measured,
    forward: Forward | None = None,
) -> Verdict:
    """Hide what gained most, where a verdict is not clean: does the model lean on it?

    Args:
        verdict: A failure, or one with warnings; any other is given back as it is.
        model: Left as it is found.
        probe: The images.
        measured: What was measured of them.
        forward: ``forward(model, images)`` returns the logits.
    """
    if verdict.growth is None or not doubtful(verdict):
        return verdict
    return told_of(
        verdict, measured, chances_without(verdict.growth, model, probe, measured, forward)
    )


def doubtful(verdict: Verdict) -> bool:
    """Whether a verdict is worth a forward pass: a failure, or one with warnings."""
    return verdict.growth is not None and (verdict.outcome == "fail" or bool(verdict.warnings))


def told_of(verdict: Verdict, measured: Measured, after: Tensor) -> Verdict:
    """``verdict`` with the probabilities ``(N,)`` that hiding the place leaves."""
    before = float(measured.chances.mean())
    return replace(verdict, occluded=Occluded(before=before, after=float(after.mean())))


def chances_without(
    growth: Growth,
    model: nn.Module,
    probe: ProbeBatch,
    measured: Measured,
    forward: Forward | None = None,
    *,
    chunk_size: int | None = None,
    part: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The probability of the measured class of each image without what gained most.

    Args:
        growth: What gained most.
        model: Left as it is found.
        probe: The images.
        measured: What was measured of them.
        forward: ``forward(model, images)`` returns the logits.
        chunk_size: Images in one forward pass; all by default.
        part: Takes the rows of a tensor that this process computes; all by default.

    Returns:
        ``(N,)``, this process's, on the device of the model.
    """
    images, classes = hidden(probe.images, place_of(growth, probe)), measured.classes
    if part is not None:
        images, classes = part(images), part(classes)
    logits = _logits(model, torch.split(images, chunk_size or len(images)), forward)
    return chances_of(logits, classes, multi_label=probe.multi_label)


def _logits(model: nn.Module, chunks: Sequence[Tensor], forward: Forward | None) -> Tensor:
    """What ``model`` says of the images, ``(N, num_classes)`` on its device."""
    device = next((p.device for p in model.parameters()), chunks[0].device)
    found = []
    with undisturbed(model), torch.no_grad():
        for images in (chunk.to(device) for chunk in chunks):
            output = model(images) if forward is None else forward(model, images)
            found.append(find_logits(output, len(images)).float())
    return torch.cat(found)
