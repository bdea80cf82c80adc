"""Hide a place in images: one forward pass shows whether a model relies on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.heads import is_multi_label
from lightning_saliency.attribution.logits import fit_to_model, run_forward
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.check.verdict import Growth, Occluded, Verdict
from lightning_saliency.functional.measures import cell_mask
from lightning_saliency.functional.probabilities import gather_probabilities
from lightning_saliency.isolation.module import undisturbed
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Measured


def find_place(growth: Growth, probe: ProbeBatch) -> Tensor:
    """Find the pixels of what gained most, bool, of the shape of the images without channels."""
    if growth.region is not None:
        return probe.masks[growth.region]
    cell = cell_mask(growth.row, growth.column, *probe.drawn_size)
    if probe.depth_axis is not None:
        cell = cell.unsqueeze(probe.depth_axis)  # The cell goes through the whole volume.
    return cell.expand(len(probe), *probe.images.shape[2:])


def hidden(images: Tensor, place: Tensor) -> Tensor:
    """Fill ``place`` with the mean colour of each image.

    The mean is that of the whole image. In the mean colour of the rest, an object would vanish
    along with its background.

    Args:
        images: ``(N, C, H, W)`` or ``(N, C, D, H, W)``.
        place: Bool of the same shape without channels, the pixels to fill.

    Returns:
        The images, in their shape.

    Example:
        >>> hidden(torch.tensor([[[[8.0, 1.0, 3.0]]]]), torch.tensor([[[True, False, False]]]))
        tensor([[[[4., 1., 3.]]]])
    """
    mean = images.mean(dim=tuple(range(2, images.ndim)), keepdim=True)
    return torch.where(place.unsqueeze(1), mean, images)


def confirmed(verdict: Verdict, measured: Measured, after: Tensor) -> Verdict:
    """Add to ``verdict`` the mean probability before and after the place was hidden.

    Args:
        verdict: What is confirmed.
        measured: The measurements before.
        after: ``(N,)``, the probabilities of the measured classes afterwards.
    """
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
    """Compute the probability of each measured class without what gained most.

    Args:
        growth: What gained most.
        model: Any module; it is left as it was found.
        probe: The images.
        classes: ``(N,)``, the measured class of each image.
        options: How the model is called.
        shard: Picks the rows of a tensor that this process computes.

    Returns:
        This process's rows of ``(N,)``, on the device of the model.
    """
    images = fit_to_model(model, shard(hidden(probe.images, find_place(growth, probe))))
    extras = {name: shard(rows) for name, rows in probe.extras.items()}
    size = options.chunk_size or len(images)
    found, multi_label = [], False
    with undisturbed(model):
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            further = {name: extra[rows] for name, extra in extras.items()}
            # The graph of the pass shows whether the output is logits or probabilities.
            run = run_forward(options.forward, model, images[rows], further, options.classes)
            found.append(run.logits.float())
            activation = None if run.head is None else run.head.activation
            multi_label = is_multi_label(activation, run.logits, probe.multi_label)
            del run
    return gather_probabilities(torch.cat(found), shard(classes), multi_label=multi_label)
