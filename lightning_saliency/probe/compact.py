"""Images and masks in the smallest form that gives the same ones bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# Integers that have the bits of a floating-point number, by its size in bytes.
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_NARROWER = (torch.float16, torch.bfloat16, torch.float32)
_LEVELS = 256
_SAMPLE = 65_536  # values; most of the levels are among them


def compact_images(images: Tensor) -> dict[str, Any]:
    """Encode images as tensors and primitives, without any loss.

    Photos have at most 256 values per channel, also once they are normalised. These become a
    table, and each pixel a place in it. Other images are stored in a narrower type if that holds
    them exactly, and otherwise as they are.

    Args:
        images: ``(N, C, H, W)`` or ``(N, C, D, H, W)``, floating point, on the CPU.

    Returns:
        What :func:`restore_images` takes.
    """
    levels = _find_levels(images)
    if levels is not None:
        return {"dtype": _name(images.dtype), **levels}
    for dtype in _NARROWER:
        narrow = images.to(dtype) if dtype.itemsize < images.dtype.itemsize else None
        if narrow is not None and torch.equal(_bits(narrow.to(images.dtype)), _bits(images)):
            return {"dtype": _name(images.dtype), "values": narrow}
    return {"dtype": _name(images.dtype), "values": images}


def restore_images(state: Mapping[str, Any]) -> Tensor:
    """Restore the images that :func:`compact_images` encoded.

    Raises:
        ValueError: The state is not one of images.
    """
    dtype = getattr(torch, state["dtype"], None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise ValueError(f"{state['dtype']!r} is not the type of images")
    if "values" in state:
        values: Tensor = state["values"].to(dtype)
        return values
    places, tables = state["places"], state["tables"]
    if places.dtype != torch.uint8 or places.ndim not in (4, 5):
        raise ValueError(f"its images are {places.dtype} {tuple(places.shape)}")
    if tables.shape != (places.shape[1], _LEVELS):
        raise ValueError(f"its images have tables of the shape {tuple(tables.shape)}")
    images = torch.empty(places.shape, dtype=dtype)
    for image, rows in zip(images, places, strict=True):  # one by one, to save memory
        for channel, row, table in zip(image, rows, tables, strict=True):
            channel.copy_(table[row.int()])
    return images


def _find_levels(images: Tensor) -> dict[str, Tensor] | None:
    """Encode images of few values; ``None`` if they have more, or would not get smaller."""
    tables: list[Tensor] = []
    places = torch.empty(images.shape, dtype=torch.uint8)
    for c in range(images.shape[1]):
        bits = _bits(images[:, c].contiguous())
        table = _find_table(bits)
        if table is None:
            return None
        for image, row in zip(places[:, c], bits, strict=True):  # one by one, to save memory
            image.copy_(torch.searchsorted(table, row, out_int32=True))
        tables.append(torch.nn.functional.pad(table, (0, _LEVELS - len(table))))
    stacked = torch.stack(tables).view(images.dtype)
    if places.nbytes + stacked.nbytes >= images.nbytes:
        return None
    return {"places": places, "tables": stacked}


def _find_table(bits: Tensor) -> Tensor | None:
    """Find the values in ``bits``, sorted; ``None`` if they are more than 256."""
    flat = bits.flatten()
    table = torch.unique(flat[:: max(1, len(flat) // _SAMPLE)])
    for image in bits:
        while len(table) <= _LEVELS:
            row = image.flatten()
            near = torch.searchsorted(table, row, out_int32=True).clamp_(max=len(table) - 1)
            missing = row[table[near] != row]
            if not len(missing):
                break
            table = torch.unique(torch.cat([table, missing[:_SAMPLE]]))
    return table if len(table) <= _LEVELS else None


def _bits(values: Tensor) -> Tensor:
    """``values`` as integers, so that zeros of either sign differ."""
    return values.contiguous().view(_BITS[values.dtype.itemsize])


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def compact_mask(mask: Tensor) -> dict[str, Any]:
    """Encode a bool mask in one bit per pixel."""
    packed = np.packbits(mask.contiguous().numpy().ravel())
    return {"shape": list(mask.shape), "bits": torch.from_numpy(packed)}


def restore_mask(state: Mapping[str, Any]) -> Tensor:
    """Restore the mask that :func:`compact_mask` encoded.

    Raises:
        ValueError: There are not as many bits as the shape says.
    """
    shape, packed = torch.Size(state["shape"]), state["bits"]
    if packed.dtype != torch.uint8 or len(packed) != -(-shape.numel() // 8):
        raise ValueError(f"a mask of the shape {tuple(shape)} has {len(packed)} bytes")
    bits = np.unpackbits(packed.numpy(), count=shape.numel())
    return torch.from_numpy(bits).bool().reshape(shape)
