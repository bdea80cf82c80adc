"""From attributions to saliency maps, on any device."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor

from lightning_saliency.functional.arguments import check_choice

Reduce: TypeAlias = Literal["abs_max", "max", "abs_sum", "square"]
Mass: TypeAlias = Literal["sensitivity", "contribution", "square", "abs_sum", "abs_max"]
MassReduce: TypeAlias = Literal["joint", Mass]

REDUCTIONS: tuple[Reduce, ...] = get_args(Reduce)
MASS_REDUCTIONS: tuple[MassReduce, ...] = get_args(MassReduce)
JOINT: tuple[Mass, ...] = ("sensitivity", "contribution")

# How the channels of an attribution become one map. To add a reduction, extend `Reduce`, this table
# and `TITLES`.
_REDUCTIONS: dict[Reduce, Callable[[Tensor], Tensor]] = {
    "abs_max": lambda attribution: attribution.abs().amax(dim=-3),
    "max": lambda attribution: attribution.amax(dim=-3),
    "abs_sum": lambda attribution: attribution.abs().sum(dim=-3),
    "square": lambda attribution: attribution.square().sum(dim=-3),
}
TITLES: dict[Reduce, str] = {
    "abs_max": "max magnitude",
    "max": "max, signed",
    "abs_sum": "sum of magnitudes",
    "square": "sum of squares",
}


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
        ValueError: ``reduce`` is unknown.

    Example:
        >>> attribution = torch.tensor([[[1.0, -4.0]], [[3.0, 2.0]]])  # two channels, 1×2 pixels
        >>> reduce_channels(attribution, "abs_max")
        tensor([[3., 4.]])
        >>> reduce_channels(attribution, "max")
        tensor([[3., 2.]])
    """
    check_choice("reduce", reduce, REDUCTIONS)
    return _REDUCTIONS[reduce](attribution)


def masses(attribution: Tensor, images: Tensor, reduce: MassReduce) -> Tensor:
    """Reduce a signed attribution to non-negative maps, whose shares and profiles make sense.

    Args:
        attribution: ``(N, C, H, W)``, one class per image.
        images: ``(N, C, H, W)``, the images that were explained.
        reduce: ``"sensitivity"``, see :func:`sensitivities`; ``"contribution"``, see
            :func:`contributions`; ``"square"``, ``"abs_sum"`` or ``"abs_max"`` as in
            :func:`reduce_channels`; or ``"joint"`` for the first two together.

    Returns:
        ``(N, V, H, W)``, non-negative: V is 2 for ``"joint"``, otherwise 1.

    Raises:
        ValueError: ``reduce`` is unknown.

    Example:
        >>> attribution = torch.tensor([[[[1.0, -4.0]], [[3.0, 2.0]]]])
        >>> masses(attribution, torch.zeros(1, 2, 1, 2), "square")
        tensor([[[[10., 20.]]]])
    """
    views = JOINT if reduce == "joint" else (reduce,)
    return torch.stack([_mass(attribution, images, view) for view in views], dim=1)


def _mass(attribution: Tensor, images: Tensor, view: Mass) -> Tensor:
    if view == "contribution":
        return contributions(attribution, images)
    if view == "sensitivity":
        return sensitivities(attribution)
    return reduce_channels(attribution, view)


def sensitivities(attribution: Tensor) -> Tensor:
    """Measure how much the logit would change with a pixel: √(Σ over channels of |gradient|).

    Gradients are heavy-tailed. The root keeps a few strong pixels from making up the whole map, so
    that maps of one training agree with those of the next.

    Args:
        attribution: ``(N, C, H, W)``, one class per image.

    Returns:
        ``(N, H, W)``, non-negative.

    Example:
        >>> sensitivities(torch.tensor([[[[1.0, -4.0]], [[3.0, 5.0]]]]))
        tensor([[[2., 3.]]])
    """
    return attribution.abs().sum(dim=-3).sqrt()


def contributions(attribution: Tensor, images: Tensor) -> Tensor:
    """Estimate how much the logit changes if a pixel takes the mean colour of its image.

    The first-order estimate is |Σ over channels of gradient · (pixel − mean)|. Unlike the gradient,
    it does not depend on how the channels were normalised, and pixels of the mean colour contribute
    nothing.

    Args:
        attribution: ``(N, C, H, W)``, one class per image.
        images: ``(N, C, H, W)``, the images that were explained.

    Returns:
        ``(N, H, W)``, non-negative, in logits.

    Example:
        >>> attribution, images = torch.tensor([[[[2.0, 2.0]]]]), torch.tensor([[[[1.0, 3.0]]]])
        >>> contributions(attribution, images)
        tensor([[[2., 2.]]])
    """
    images = images.to(attribution)
    contrast = images - images.mean(dim=(-2, -1), keepdim=True)
    return (attribution * contrast).sum(dim=-3).abs()


def strongest_channel(attribution: Tensor) -> Tensor:
    """Select, at each pixel, the signed value of the channel with the largest magnitude.

    Args:
        attribution: ``(..., C, H, W)``, signed.

    Returns:
        ``(..., H, W)``, signed; its magnitude is ``reduce_channels(attribution, "abs_max")``. If
        two channels have the same magnitude and opposite signs, it is the positive value.

    Example:
        >>> strongest_channel(torch.tensor([[[1.0, -4.0]], [[3.0, 2.0]]]))
        tensor([[ 3., -4.]])
    """
    # This is thirty times as fast as gathering at the argmax of the magnitudes.
    highest, lowest = attribution.amax(dim=-3), attribution.amin(dim=-3)
    return torch.where(highest >= -lowest, highest, lowest)


def exactly(maps: Tensor) -> Tensor:
    """Move ``maps`` off Apple GPUs, which have no float64 and pool wrongly, to be measured."""
    return maps.cpu() if maps.device.type == "mps" else maps


def shrink(signed: Tensor, size: int) -> Tensor:
    """Shrink maps to at most ``size`` pixels per side, keeping the strongest value of each block.

    Gradients alternate in sign from pixel to pixel, so that averages would cancel out.

    Args:
        signed: ``(..., H, W)``.
        size: The longest side of the result, in pixels. Smaller maps are returned as they are.

    Returns:
        ``(..., h, w)`` with the same aspect ratio, up to rounding; no side is below one pixel.

    Example:
        >>> shrink(torch.tensor([[1.0, -3.0], [2.0, 0.5]]), 1)
        tensor([[-3.]])
    """
    return _strongest_of_blocks(signed, signed, size)


def shrink_strongest_channel(attribution: Tensor, size: int) -> Tensor:
    """Do the same as ``shrink(strongest_channel(attribution), size)``, four times as fast.

    Example:
        >>> attribution = torch.tensor([[[1.0, -3.0], [2.0, 0.5]], [[0.0, 4.0], [0.0, 0.0]]])
        >>> shrink_strongest_channel(attribution, 1)
        tensor([[4.]])
    """
    return _strongest_of_blocks(attribution.amax(dim=-3), attribution.amin(dim=-3), size)


def shrink_mass(maps: Tensor, size: int) -> Tensor:
    """Do the same as :func:`shrink` for maps that are not negative, in half the time.

    Example:
        >>> shrink_mass(torch.tensor([[1.0, 3.0], [2.0, 0.5]]), 1)
        tensor([[3.]])
    """
    shape = _fit_shape(maps, size)
    return maps if shape == maps.shape[-2:] else _pool(maps, shape, torch.maximum)


def _fit_shape(maps: Tensor, size: int) -> tuple[int, int]:
    """The height and width of ``maps``, shrunk so that neither is above ``size``."""
    *_, height, width = maps.shape
    scale = min(1.0, size / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _strongest_of_blocks(highest: Tensor, lowest: Tensor, size: int) -> Tensor:
    """Select the value of largest magnitude in each block, given the extremes of each pixel."""
    shape = _fit_shape(highest, size)
    if shape != highest.shape[-2:]:
        highest = _pool(highest, shape, torch.maximum)
        lowest = _pool(lowest, shape, torch.minimum)
    return torch.where(highest >= -lowest, highest, lowest)


def _pool(
    maps: Tensor, shape: tuple[int, int], stronger: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Join the pixels of each block by ``stronger``; the blocks are those of adaptive pooling."""
    # Whole rows are copied quickly, and columns are rows of the transposed maps.
    for count in shape:
        first, *others = _list_rows(maps.shape[-2], count, maps.device)
        maps = maps.contiguous()
        joined = maps.index_select(-2, first)
        for rows in others:
            joined = stronger(joined, maps.index_select(-2, rows))
        maps = joined.mT
    return maps


@lru_cache(maxsize=64)
def _list_rows(length: int, count: int, device: torch.device) -> list[Tensor]:
    """The first row of each of ``count`` blocks, the second, and so on; the last one repeats."""
    # Tensors of inference mode could not be used by gradients later.
    with torch.inference_mode(False):
        block = torch.arange(count, device=device)
        first, last = block * length // count, -(-(block + 1) * length // count) - 1
        most = -(-length // count) + (length % count > 0)
        return [torch.minimum(first + row, last) for row in range(most)]


# Maps are kept in 8 bits, the depth of the colours: their values in units of their peak.
_LEVELS = 127
_BROKEN = -128  # throughout a map that has a value that is not finite


def to_8_bits(maps: Tensor) -> Tensor:
    """Round maps to 8 bits.

    Args:
        maps: ``(..., h, w)`` in [-1, 1]. A map with a value that is not finite is lost as a whole.

    Returns:
        int8, of the same shape: the values times 127; -128 throughout a map that is lost.

    Example:
        >>> to_8_bits(torch.tensor([[[1.0, -0.5]], [[0.0, torch.nan]]])).tolist()
        [[[127, -64]], [[-128, -128]]]
    """
    broken = ~torch.isfinite(maps).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    # In place, for new memory takes longer than the arithmetic.
    levels = (maps.float() * _LEVELS).round_().clamp_(-_LEVELS, _LEVELS)
    return levels.masked_fill_(broken, _BROKEN).to(torch.int8)


def from_8_bits(levels: Tensor) -> Tensor:
    """Restore what :func:`to_8_bits` rounded: float16 in [-1, 1], NaN where a map was lost.

    Example:
        >>> from_8_bits(torch.tensor([[127, -128]], dtype=torch.int8))
        tensor([[1., nan]], dtype=torch.float16)
    """
    return (levels.float() / _LEVELS).masked_fill(levels == _BROKEN, torch.nan).half()
