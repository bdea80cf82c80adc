"""All photos of a probe in one picture, so that a page needs one request for them."""

from __future__ import annotations

import io

import numpy as np

from lightning_saliency.viewer.tensors import Array

_WIDEST = 4096  # pixels; browsers draw pictures much wider than this slowly, or not at all


def draw_sprite(photos: Array, image_format: str = "PNG") -> bytes:
    """Draw photos row by row, as many in a row as fit into 4096 pixels.

    Args:
        photos: ``(N, h, w, 3)`` uint8.
        image_format: One of Pillow's formats: ``"PNG"``, or ``"JPEG"``, which is much smaller.

    Returns:
        The encoded picture.
    """
    # Pillow takes a moment to import, and TensorBoard imports this module at every start.
    from PIL import Image

    count, height, width, _ = photos.shape
    columns = max(1, min(count, _WIDEST // width))
    rows = -(-count // columns)
    filled = np.zeros((rows * columns, height, width, 3), np.uint8)
    filled[:count] = photos
    sheet = filled.reshape(rows, columns, height, width, 3).transpose(0, 2, 1, 3, 4)
    buffer = io.BytesIO()
    picture = Image.fromarray(sheet.reshape(rows * height, columns * width, 3))
    picture.save(buffer, image_format, quality=88)
    return buffer.getvalue()
