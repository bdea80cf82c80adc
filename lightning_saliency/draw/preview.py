"""A small picture of an explanation, as a notebook shows it when nobody asked for more."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from lightning_saliency.draw.canvas import Tile, encode, sheet
from lightning_saliency.draw.colours import colorize
from lightning_saliency.functional.maps import shrink, strongest_channel

_SIZE = 96  # pixels per side of a tile
_IMAGES = 4
_CLASSES = 6


def preview(attributions: Mapping[str, Tensor], targets: Tensor, logits: Tensor) -> bytes:
    """Draw the maps of the first images by the first rule, the strongest classes first.

    Each map is divided by its own peak.

    Args:
        attributions: For each rule, ``(N, K, C, H, W)`` or ``(N, K, C, D, H, W)``, signed.
        targets: ``(N, K)`` int64, the class of each attribution.
        logits: ``(N, num_classes)``, the model's output.

    Returns:
        A PNG file.
    """
    rule, signed = next(iter(attributions.items()))
    count, width = min(_IMAGES, len(targets)), min(_CLASSES, targets.shape[1])
    rows = []
    for image in range(count):
        classes = targets[image].cpu()
        # A model of one logit has the one target 0.
        values = logits[image].detach().float().cpu()[classes]
        rows.append(
            [
                _tile(signed[image, k], int(classes[k]), float(values[k]))
                for k in values.argsort(descending=True)[:width].tolist()
            ]
        )
    shown = f"{count} of {len(targets)} images, {width} of {targets.shape[1]} classes"
    foot = f"{shown}; red raises the logit, blue lowers it"
    picture = sheet(rows, title=rule.replace("_", " "), aside="class and logit", foot=foot)
    return encode(picture, "png")


def _tile(signed: Tensor, target: int, logit: float) -> Tile:
    """The map of one class, with its logit."""
    # Of a volume, the strongest of all channels and slices is shown.
    small = shrink(strongest_channel(signed.detach().float().flatten(0, -3)), _SIZE).cpu()
    values = small / small.abs().max().clamp(min=torch.finfo(small.dtype).tiny)
    return Tile(colorize(values.numpy(), _SIZE, "signed"), f"class {target}", f"{logit:+.1f}")
