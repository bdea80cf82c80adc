"""The pictures of a run: one mosaic per image and observation, one film strip per image and run."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.draw.canvas import (
    Picture,
    RowName,
    Style,
    Tile,
    colorize,
    photo,
    sharp_size,
    sheet,
)
from lightning_saliency.functional.text import percent
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Snapshot

Scale: TypeAlias = Literal["map"] | float

T = TypeVar("T")

_LEGENDS: dict[Style, str] = {
    "signed": "red raises the logit, blue lowers it",
    "magnitude": "the brighter, the stronger",
    "overlay": "the hotter, the stronger",
}
_COLUMNS = 4  # four tiles of 96 pixels are as wide as TensorBoard's Images tab shows a picture


class MosaicRenderer:
    """Draws what snapshots saw of a probe.

    Args:
        probe: The images and the names of their classes.
        style: How a map is coloured; see :func:`canvas.colorize`.
        scale: ``"map"``: each map saturates at its own peak; a number: all saturate there, in
            logits per input unit, so that strengths can be compared over the whole run.
        size: Pixels per side of a tile, at most.
        one_logit: Whether the model has a single logit, which stands for class 1 against class 0.
    """

    def __init__(
        self,
        probe: ProbeBatch,
        *,
        style: Style,
        scale: Scale,
        size: int,
        one_logit: bool = False,
    ) -> None:
        self._probe, self._binary = probe, one_logit and not probe.multi_label
        self.size = sharp_size(probe.images.shape[-2], probe.images.shape[-1], size)
        self._style, self._scale = style, scale
        self._photos = [photo(image, self.size) for image in probe.displayed().numpy()]

    def photos(self) -> Tensor:
        """The images as they are drawn, ``(N, size, size, 3)`` uint8."""
        return torch.from_numpy(np.stack(self._photos))

    def mosaic(self, snapshot: Snapshot, image: int) -> Picture:
        """Image number ``image`` and one tile per target, the true class framed.

        The maps of one rule flow around the image. Several rules stand under each other, so that
        the maps of one class form a column: one row of tiles per rule, named.
        """
        lay_out = partial(
            sheet,
            title=snapshot.caption,
            aside=self._aside(snapshot.rules),
            foot=_LEGENDS[self._style],
        )
        count = snapshot.targets.shape[1]
        if len(snapshot.rules) == 1:
            (rule,) = snapshot.rules
            tiles = [self._photo(image)]
            tiles += [self._tile(snapshot, rule, image, k) for k in range(count)]
            return lay_out(_in_rows(tiles))
        blocks = _in_rows(range(count))
        return lay_out(
            [
                [self._tile(snapshot, rule, image, k) for k in block]
                for block in blocks
                for rule in snapshot.rules
            ],
            lead=self._photo(image),
            row_heads=[_in_words(rule) for _ in blocks for rule in snapshot.rules],
        )

    def filmstrip(self, snapshots: Sequence[Snapshot], image: int) -> Picture:
        """One row per target and rule, one column per snapshot, under the image itself."""
        columns = torch.stack([s.targets[image] for s in snapshots], dim=1)  # (K, snapshots)
        rules = snapshots[0].rules
        rows, names = [], []
        for k, classes in enumerate(columns.tolist()):
            steady = len(set(classes)) == 1
            name = self._row_name(k, classes[0], steady)
            for rule in rules:
                rows.append([self._tile(s, rule, image, k, named=not steady) for s in snapshots])
                names.append(RowName(name, _in_words(rule) if len(rules) > 1 else ""))
        return sheet(
            rows,
            title=self._probe.image_name(image),
            aside=self._aside(rules),
            foot=f"{_LEGENDS[self._style]}; framed: the true class; bold: the predicted class",
            lead=self._photo(image),
            column_names=[s.caption for s in snapshots],
            row_names=names,
        )

    def _aside(self, rules: Sequence[str]) -> str:
        """The rules, and the scale if the maps share one."""
        return " and ".join(map(_in_words, rules)) + (
            "" if self._scale == "map" else f" ±{self._scale:g}"
        )

    def _row_name(self, k: int, target: int, steady: bool) -> str:
        """The class of a row; its rank if the class changes from one snapshot to the next."""
        if steady:
            return self._probe.class_name(self._class_of(target))
        return f"top {k + 1}" if self._probe.labels is None else f"other {k}"

    def _photo(self, image: int) -> Tile:
        true = sorted(self._probe.true_classes(image))
        name = ", ".join(self._probe.class_name(c) for c in true)
        return Tile(self._photos[image], name or "input", framed=bool(true))

    def _tile(
        self, snapshot: Snapshot, rule: str, image: int, k: int, *, named: bool = True
    ) -> Tile:
        target = self._class_of(int(snapshot.targets[image, k]))
        probability = float(snapshot.probabilities[image, k])
        values = snapshot.maps[rule][image, k].float().numpy()
        if self._scale != "map":
            values = values * (float(snapshot.peaks[rule][image, k]) / self._scale)
        finite = bool(np.isfinite(values).all())
        return Tile(
            colorize(values, self.size, self._style, self._photos[image]),
            self._probe.class_name(target) if named else "",
            percent(probability) if finite else "not finite",
            framed=target in self._probe.true_classes(image),
            strong=self._is_predicted(snapshot, image, target, probability),
        )

    def _is_predicted(
        self, snapshot: Snapshot, image: int, target: int, probability: float
    ) -> bool:
        if self._binary:
            return probability >= 0.5
        return snapshot.predicted is not None and target == int(snapshot.predicted[image])

    def _class_of(self, target: int) -> int:
        """The class that a target stands for: with a single logit, class 1."""
        return 1 if self._binary else target


def _in_words(rule: str) -> str:
    return rule.replace("_", " ")


def _in_rows(items: Sequence[T]) -> list[Sequence[T]]:
    """``items`` in rows of at most four."""
    return [items[start : start + _COLUMNS] for start in range(0, len(items), _COLUMNS)]
