"""From attributions to saliency maps: pure functions of tensors, on any device."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

Reduce: TypeAlias = Literal["abs_max", "max", "abs_sum", "square"]
REDUCTIONS: tuple[Reduce, ...] = ("abs_max", "max", "abs_sum", "square")


def reduce_channels(attribution: Tensor, reduce: Reduce = "abs_max") -> Tensor:
    """Reduce the channels of a signed attribution to one saliency map.

    Args:
        attribution: ``(..., C, H, W)``, logits per input unit.
        reduce: ``"abs_max"``, the largest magnitude (Simonyan et al. 2013,
            https://arxiv.org/abs/1312.6034); ``"max"``, the largest signed value, which is what
            FlashTorch draws; ``"abs_sum"``, the sum of magnitudes; ``"square"``, the sum of
            squares.

    Returns:
        ``(..., H, W)``; non-negative except for ``"max"``.

    Raises:
        ValueError: ``reduce`` is none of these.

    Example:
        >>> attribution = torch.tensor([[[1.0, -4.0]], [[3.0, 2.0]]])  # two channels, 1×2 pixels
        >>> reduce_channels(attribution, "abs_max")
        tensor([[3., 4.]])
        >>> reduce_channels(attribution, "max")
        tensor([[3., 2.]])
    """
    match reduce:
        case "abs_max":
            return attribution.abs().amax(dim=-3)
        case "max":
            return attribution.amax(dim=-3)
        case "abs_sum":
            return attribution.abs().sum(dim=-3)
        case "square":
            return attribution.square().sum(dim=-3)
    raise ValueError(f"`reduce` must be one of {', '.join(REDUCTIONS)}, got {reduce!r}.")


def contributions(attribution: Tensor, images: Tensor) -> Tensor:
    """How far, to first order, the logit falls where a pixel takes the mean colour of its image.

    |Σ over channels of gradient · (pixel − mean)|: unlike the gradient, it does not depend on how
    the channels were normalised, and what has the mean colour contributes nothing.

    Args:
        attribution: ``(N, C, H, W)``, one class an image.
        images: ``(N, C, H, W)``, what was explained.

    Returns:
        ``(N, H, W)``, non-negative, in logits.

    Example:
        >>> attribution, images = torch.tensor([[[[2.0, 2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
        >>> contributions(attribution, images)
        tensor([[[2., 2.]]])
    """
    contrast = images - images.mean(dim=(-2, -1), keepdim=True)
    return (attribution * contrast).sum(dim=-3).abs()


def strongest_channel(attribution: Tensor) -> Tensor:
    """The signed value of the channel with the largest magnitude at each pixel.

    Args:
        attribution: ``(..., C, H, W)``, signed.

    Returns:
        ``(..., H, W)``, signed; its magnitude is ``reduce_channels(attribution, "abs_max")``.

    Example:
        >>> strongest_channel(torch.tensor([[[1.0, -4.0]], [[3.0, 2.0]]]))
        tensor([[ 3., -4.]])
    """
    # Thirty times as fast as a gather at the argmax of the magnitudes.
    highest, lowest = attribution.amax(dim=-3), attribution.amin(dim=-3)
    return torch.where(highest >= -lowest, highest, lowest)


def exactly(maps: Tensor) -> Tensor:
    """``maps`` where they can be measured: Apple's GPUs have no float64, and pool wrongly."""
    return maps.cpu() if maps.device.type == "mps" else maps


def shrink(signed: Tensor, size: int) -> Tensor:
    """Bring maps down to at most ``size`` pixels a side, keeping the strongest value of each block.

    An average would cancel the alternating signs that gradients are made of, and show nothing.

    Args:
        signed: ``(..., H, W)``.
        size: Longest side of the result, in pixels; smaller maps stay as they are.

    Returns:
        ``(..., h, w)`` with the aspect ratio kept.

    Example:
        >>> shrink(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 1)
        tensor([[-3.]])
    """
    *batch, height, width = signed.shape
    scale = size / max(height, width)
    if scale >= 1:
        return signed
    flat = signed.reshape(-1, 1, height, width)
    shape = (max(1, round(height * scale)), max(1, round(width * scale)))
    _, where = F.adaptive_max_pool2d(flat.abs(), shape, return_indices=True)
    return flat.flatten(2).gather(2, where.flatten(2)).reshape(*batch, *shape)
