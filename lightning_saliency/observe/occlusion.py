"""Hiding a place in images: whether a model leans on it, in one forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.logits import Forward, find_device, find_logits
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.check.verdict import Growth, Occluded, Verdict
from lightning_saliency.functional.measures import cell_mask
from lightning_saliency.functional.probabilities import gather_probabilities
from lightning_saliency.isolation.module import undisturbed
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Measured


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


def confirmed(verdict: Verdict, measured: Measured, after: Tensor) -> Verdict:
    """``verdict`` with the probabilities ``(N,)`` that hiding the place leaves."""
    before = float(measured.probabilities.mean())
    return replace(verdict, occluded=Occluded(before=before, after=float(after.mean())))


def probabilities_without(
    growth: Growth,
    model: nn.Module,
    probe: ProbeBatch,
    classes: Tensor,
    options: PassOptions,
    shard: Callable[[Tensor], Tensor],
) -> Tensor:
    """The probability of the measured class of each image without what gained most.

    Args:
        growth: What gained most.
        model: Left as it is found.
        probe: The images.
        classes: ``(N,)``, the measured class of each image.
        options: How the model is called.
        shard: Takes the rows of a tensor that this process computes.

    Returns:
        This process's rows of ``(N,)``, on the device of the model.
    """
    images = shard(hidden(probe.images, place_of(growth, probe)))
    logits = _logits(model, torch.split(images, options.chunk_size or len(images)), options.forward)
    return gather_probabilities(logits, shard(classes), multi_label=probe.multi_label)


def _logits(model: nn.Module, chunks: Sequence[Tensor], forward: Forward) -> Tensor:
    """The model's output for the images, ``(N, num_classes)`` on its device."""
    device = find_device(model, chunks[0])
    found = []
    with undisturbed(model), torch.no_grad():
        for images in (chunk.to(device) for chunk in chunks):
            found.append(find_logits(forward(model, images), len(images)).float())
    return torch.cat(found)
