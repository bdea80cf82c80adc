"""Hiding a place in images: whether a model leans on it, in one forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_saliency.attribution import Forward, find_logits
from lightning_saliency.isolation import undisturbed
from lightning_saliency.measures import cell_mask
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.snapshot import probabilities
from lightning_saliency.verdict import Growth


def place_of(growth: Growth, probe: ProbeBatch) -> Tensor:
    """The pixels of what gained most, bool ``(N, H, W)``."""
    if growth.region is not None:
        return probe.masks[growth.region]
    count, _, height, width = probe.images.shape
    return cell_mask(growth.row, growth.column, height, width).expand(count, -1, -1)


def hidden(images: Tensor, place: Tensor) -> Tensor:
    """``images`` with ``place`` filled with the mean colour of what is left of each.

    Args:
        images: ``(N, C, H, W)``.
        place: ``(N, H, W)`` bool.

    Example:
        >>> hidden(torch.tensor([[[[9.0, 1.0, 3.0]]]]), torch.tensor([[[True, False, False]]]))
        tensor([[[[2., 1., 3.]]]])
    """
    left = (~place).unsqueeze(1).to(images.dtype)
    count = left.sum(dim=(2, 3), keepdim=True)
    mean = (images * left).sum(dim=(2, 3), keepdim=True) / count.clamp(min=1)
    return torch.where(place.unsqueeze(1), mean, images)


def chances(
    model: nn.Module, images: Tensor, classes: Tensor, forward: Forward, *, multi_label: bool
) -> Tensor:
    """The probability of a class in each image, with the model left as it was found.

    Args:
        model: Any module.
        images: ``(N, C, H, W)``.
        classes: ``(N,)`` int64.
        forward: ``forward(model, images)`` returns the logits.
        multi_label: Whether an image may have several classes.

    Returns:
        ``(N,)`` float32 on the CPU.
    """
    device = next((p.device for p in model.parameters()), images.device)
    with undisturbed(model), torch.no_grad():
        logits = find_logits(forward(model, images.to(device)), len(images))
    known = probabilities(logits.float(), multi_label=multi_label).cpu()
    return known.gather(1, classes.cpu()[:, None])[:, 0]
