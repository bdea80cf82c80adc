"""Maps in 8 bits, as a browser gets them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.viewer.tensors import Array, TensorFile

LEVELS = 127  # the value of the strongest pixel of a map
NOT_FINITE = -128  # all values of a map that had values that were not finite

Bytes = NDArray[np.int8]


def quantise(maps: Array) -> Bytes:
    """Round signed maps ``(..., h, w)`` in [-1, 1] to 8 bits.

    Returns:
        int8 of the same shape: ±127 at ±1, and -128 throughout a map with NaN or infinity.
    """
    if maps.dtype == np.int8:
        return maps
    values = maps.astype(np.float32)
    broken = ~np.isfinite(values).all(axis=(-2, -1))
    values[broken] = 0
    quantised: Bytes = np.rint(values.clip(-1, 1) * LEVELS).astype(np.int8)
    quantised[broken] = NOT_FINITE
    return quantised


def read_maps(
    file: TensorFile, name: str, images: Sequence[int] | None, columns: Sequence[int] | None
) -> Bytes:
    """Read some maps of an observation; only their bytes are read.

    Args:
        file: The file of the observation.
        name: The name of a tensor ``(N, K, h, w)``.
        images: Numbers of images; ``None`` for all of them.
        columns: Numbers of targets, each of which is a column of K; ``None`` for all of them.

    Returns:
        int8 ``(images, columns, h, w)``, as :func:`quantise` makes them.

    Raises:
        IndexError: There is no such image or column.
    """
    count, width, height, breadth = file.entries[name].shape
    rows = range(count) if images is None else images
    wanted = range(width) if columns is None else columns
    if not all(0 <= i < count for i in rows) or not all(0 <= k < width for k in wanted):
        raise IndexError("no such map")
    size = height * breadth
    # One image at a time: in floating point, all maps at once would take four times the memory.
    result = np.empty((len(rows), len(wanted), height, breadth), np.int8)
    for place, image in enumerate(rows):
        if columns is None:
            values = file.read_rows(name, image * width, width, size)
        else:
            parts = [file.read_rows(name, image * width + k, 1, size) for k in wanted]
            values = np.concatenate(parts) if parts else np.empty((0, size), np.int8)
        result[place] = quantise(values.reshape(len(wanted), height, breadth))
    return result
