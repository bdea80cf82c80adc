"""The picture of a verdict: where good runs look, next to where this run looks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lightning_saliency.check.evaluate import Candidate
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.draw.canvas import Tile, sheet
from lightning_saliency.draw.colours import Picture, colorize, photo

_ROWS = 8
_SIZE = 96  # pixels per side of a tile


def draw(candidate: Candidate, reference: Reference, verdict: Verdict) -> Picture:
    """Draw one row per image for the eight images that moved most, in that order.

    A row shows the image, where the good runs look, where this run looks, and the difference of
    the profiles that are judged, which is red where this run has more. The two maps of a row share
    one scale, and so do all differences.

    Args:
        candidate: The run that was judged.
        reference: The good runs that it was compared with.
        verdict: What :func:`evaluate` returned for them.

    Returns:
        uint8 ``(height, width, 3)``.
    """
    worst = [move.index for move in verdict.images[:_ROWS]]
    before, after = reference.image_profiles(), candidate.measured.profiles
    changes = [(after[i] - before[i]).nan_to_num().numpy() for i in worst]
    scale = max((float(np.abs(change).max()) for change in changes), default=0.0) or 1.0
    rows = []
    for move, change in zip(verdict.images, changes, strict=False):
        i = move.index
        label = candidate.info.class_name(int(candidate.measured.classes[i]))
        then, now = _on_one_scale(reference.maps[i], candidate.measured.maps[i])
        rows.append(
            [
                Tile(photo(reference.photos[i].permute(2, 0, 1).numpy() / 255, _SIZE), label),
                Tile(colorize(then, _SIZE, "magnitude"), "good runs"),
                Tile(colorize(now, _SIZE, "magnitude"), "this run"),
                Tile(colorize(change / scale, _SIZE, "signed"), "moved", f"{move.moved:.2f}"),
            ]
        )
    return sheet(
        rows,
        title=f"{verdict.outcome}: {candidate.observation.caption}",
        aside=f"{candidate.info.rule}, {candidate.info.reduce}",
        foot="red: more of the gradient than in good runs, blue: less",
    )


def _on_one_scale(*maps: Tensor) -> list[NDArray[Any]]:
    """Give maps equal mass, then divide all of them by the strongest pixel of any.

    Their square roots are drawn, because a picture of heavy-tailed maps would show only the peaks.
    """
    equal = [(m.float() / m.float().sum().clamp(min=1e-12)).sqrt().nan_to_num() for m in maps]
    strongest = max(float(m.max()) for m in equal) or 1.0
    return [(m / strongest).numpy() for m in equal]
