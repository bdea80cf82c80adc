"""The pictures of a run: a mosaic an image and observation, a film strip an image and run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.grid import Picture, Style, Tile, paint, photo, sharp_size, sheet
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.snapshot import Snapshot

Scale: TypeAlias = Literal["map"] | float

_LEGENDS: dict[Style, str] = {
    "signed": "red raises the logit, blue lowers it",
    "magnitude": "the brighter, the stronger",
    "overlay": "the hotter, the stronger",
}
_COLUMNS = 4  # four tiles of 96 pixels are as wide as TensorBoard's Images tab shows a picture


class Artist:
    """Draws what snapshots saw of a probe.

    Args:
        probe: The images and the names of their classes.
        style: How a map is coloured; see :func:`grid.paint`.
        scale: ``"map"``: each map saturates at its own peak; a number: all saturate there, in
            logits per input unit, so that strengths can be compared over the whole run.
        size: Pixels a side of a tile, at most.
        rule: Named in each picture.
        one_logit: Whether the model has a single one, which stands for class 1 against class 0.
    """

    def __init__(
        self,
        probe: ProbeBatch,
        *,
        style: Style,
        scale: Scale,
        size: int,
        rule: str,
        one_logit: bool = False,
    ) -> None:
        self._probe, self._binary = probe, one_logit and not probe.multi_label
        self.size = sharp_size(probe.images.shape[-2], probe.images.shape[-1], size)
        self._style, self._scale = style, scale
        self._aside = rule.replace("_", " ") + ("" if scale == "map" else f" ±{scale:g}")
        self._photos = [photo(image, self.size) for image in probe.displayed().numpy()]

    def photos(self) -> Tensor:
        """The images as they are drawn, ``(N, size, size, 3)`` uint8."""
        return torch.from_numpy(np.stack(self._photos))

    def mosaic(self, snapshot: Snapshot, image: int) -> Picture:
        """Image number ``image`` and a tile a target, the true class framed."""
        tiles = [self._photo(image)]
        tiles += [self._tile(snapshot, image, k) for k in range(snapshot.targets.shape[1])]
        columns = min(_COLUMNS, len(tiles))
        rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
        return sheet(rows, title=snapshot.caption, aside=self._aside, foot=_LEGENDS[self._style])

    def filmstrip(self, snapshots: Sequence[Snapshot], image: int) -> Picture:
        """A row a target and a column a snapshot, under the image itself."""
        columns = torch.stack([s.targets[image] for s in snapshots], dim=1)  # (K, snapshots)
        steady = [len(set(row)) == 1 for row in columns.tolist()]
        rows = [
            [self._tile(s, image, k, named=not steady[k]) for s in snapshots]
            for k in range(len(steady))
        ]
        return sheet(
            rows,
            title=self._probe.image_name(image),
            aside=self._aside,
            foot=f"{_LEGENDS[self._style]}; framed: the true class; bold: the predicted class",
            lead=self._photo(image),
            column_names=[s.caption for s in snapshots],
            row_names=[self._row_name(k, columns[k], steady[k]) for k in range(len(rows))],
        )

    def _row_name(self, k: int, targets: Tensor, steady: bool) -> str:
        """The class of a row; where it changes from one snapshot to the next, its rank."""
        if steady:
            return self._probe.class_name(self._class_of(int(targets[0])))
        return f"top {k + 1}" if self._probe.labels is None else f"other {k}"

    def _photo(self, image: int) -> Tile:
        true = sorted(self._probe.true_classes(image))
        name = ", ".join(self._probe.class_name(c) for c in true)
        return Tile(self._photos[image], name or "input", framed=bool(true))

    def _tile(self, snapshot: Snapshot, image: int, k: int, *, named: bool = True) -> Tile:
        target = self._class_of(int(snapshot.targets[image, k]))
        chance = float(snapshot.probabilities[image, k])
        predicted = chance >= 0.5 if self._binary else target == int(snapshot.predicted[image])
        values = snapshot.maps[image, k].float().numpy()
        if self._scale != "map":
            values = values * (float(snapshot.peaks[image, k]) / self._scale)
        finite = bool(np.isfinite(values).all())
        return Tile(
            paint(values, self.size, self._style, self._photos[image]),
            self._probe.class_name(target) if named else "",
            percent(chance) if finite else "not finite",
            framed=target in self._probe.true_classes(image),
            strong=predicted,
        )

    def _class_of(self, target: int) -> int:
        """The class that a target stands for: of one logit, class 1."""
        return 1 if self._binary else target


def percent(probability: float) -> str:
    """A probability as it fits under a tile.

    Example:
        >>> percent(0.973), percent(0.9996), percent(0.0004)
        ('97%', '100%', '<1%')
    """
    return "<1%" if 0 < probability < 0.005 else f"{probability:.0%}"
