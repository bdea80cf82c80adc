"""How a map or an image becomes a square of coloured pixels.

To change a colour map, look at :func:`colorize`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Picture: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
Style: TypeAlias = Literal["signed", "magnitude", "overlay"]
STYLES: tuple[Style, ...] = ("signed", "magnitude", "overlay")

# Exponent of a map's strength in an overlay. Below 1, it brings up what is faint; much lower, it
# would bring up the noise too.
OVERLAY_GAMMA = 0.7
OVERLAY_DIMMED = 0.6  # brightness of the image under a map, as a fraction


def colorize(
    values: NDArray[Any], size: int, style: Style, image: Picture | None = None
) -> Picture:
    """Colour a signed map.

    Args:
        values: ``(h, w)``, the map in units of its scale: ±1 saturates.
        size: Pixels per side of the square to fill.
        style: ``"signed"``: red where the logit rises with the input, blue where it falls, white
            at zero; ``"magnitude"``: from black to yellow; ``"overlay"``: the magnitude blended
            with ``image``.
        image: ``(size, size, 3)`` uint8, for an overlay; without it the magnitude is drawn.

    Returns:
        ``(size, size, 3)`` uint8; a hatched tile if the map has values that are not finite.
    """
    if not np.isfinite(values).all():
        return _hatched(size)
    values = fit(values.astype(np.float32), size)
    if style == "signed":
        return _coloured(values / 2 + 0.5, "RdBu_r")
    strength = np.abs(values)
    if style == "magnitude" or image is None:
        return _coloured(strength, "inferno")
    weight = strength.clip(0, 1)[..., None] ** OVERLAY_GAMMA
    grey = image.mean(axis=2, keepdims=True) * OVERLAY_DIMMED
    overlay: Picture = (grey * (1 - weight) + _coloured(strength, "hot") * weight).astype(np.uint8)
    return overlay


def _coloured(values: NDArray[Any], colours: str) -> Picture:
    """``values`` ``(h, w)``, clipped to [0, 1], in the colours of a colour map of matplotlib."""
    picture: Picture = np.take(_colour_table(colours), _to_bytes(values), axis=0)
    return picture


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    """``values``, clipped to [0, 1], as 0 to 255."""
    scaled: NDArray[np.uint8] = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return scaled


@cache
def _colour_table(name: str) -> Picture:
    """The 256 colours of a colour map, ``(256, 3)``."""
    # Matplotlib takes a moment to import, and only few commands draw.
    from matplotlib import colormaps

    table: Picture = colormaps[name](np.linspace(0, 1, 256), bytes=True)
    return np.ascontiguousarray(table[:, :3])


def _hatched(size: int) -> Picture:
    y, x = np.mgrid[:size, :size]
    stripes = np.where((x + y) // 6 % 2 == 0, 214, 240).astype(np.uint8)
    return np.repeat(stripes[..., None], 3, axis=2)


def fit(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Scale ``values`` to fill a square, keeping the aspect ratio.

    Args:
        values: ``(h, w)`` or ``(h, w, 3)``. At half of ``size`` or less, its pixels stay squares
            with sharp edges; otherwise they are interpolated.
        size: Pixels per side of the square.

    Returns:
        ``(size, size)`` or ``(size, size, 3)``, ``values`` in its centre and zero around it.
    """
    height, width = values.shape[:2]
    longest = max(height, width)
    sharp = longest * 2 <= size
    shape = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
    if shape == (height, width) == (size, size):
        return values
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.BICUBIC
    scaled = np.asarray(Image.fromarray(values).resize(shape, method))
    square = np.zeros((size, size, *values.shape[2:]), dtype=values.dtype)
    top, left = (size - shape[1]) // 2, (size - shape[0]) // 2
    square[top : top + shape[1], left : left + shape[0]] = scaled
    return square


def photo(image: NDArray[Any], size: int) -> Picture:
    """Draw an image ``(C, H, W)`` in [0, 1] as ``(size, size, 3)`` uint8.

    Any number of channels other than three is shown as their mean, in grey.
    """
    channels = image if len(image) == 3 else image.mean(axis=0, keepdims=True).repeat(3, axis=0)
    return fit(np.ascontiguousarray(_to_bytes(channels.transpose(1, 2, 0))), size)


def sharp_size(height: int, width: int, size: int) -> int:
    """The largest tile, up to ``size``, in which all pixels of a small image are equally large.

    An image of more than half of ``size`` is interpolated anyway, so that it gets all of it.

    Example:
        >>> sharp_size(28, 28, 96), sharp_size(224, 224, 96)
        (84, 96)
    """
    longest = max(height, width)
    return size // longest * longest if 2 * longest <= size else size
