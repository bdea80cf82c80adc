"""The pictures of a run: one mosaic per image and observation, one film strip per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.draw.canvas import RowName, Tile, sheet
from lightning_saliency.draw.colours import Picture, Style, colorize, photo, sharp_size
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
FILMSTRIP_COLUMNS = 12  # at most; runs with more observations show some of them
# Four tiles of 96 pixels are as wide as TensorBoard's Images tab shows a picture.
_COLUMNS = 4


class MosaicRenderer:
    """Draws the snapshots of one probe.

    Args:
        probe: The images and the names of their classes.
        style: How a map is coloured; see :func:`colours.colorize`.
        scale: ``"map"``: each map saturates at its own peak. A number: all saturate there, in
            logits per input unit, so that strengths can be compared over the whole run.
        size: Most pixels per side of a tile; see :func:`colours.sharp_size`.
        one_logit: Whether the model has a single logit, which stands for class 1 against class 0.

    Attributes:
        size: Pixels per side of a tile.
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
        self.size = sharp_size(*probe.drawn_size, size)
        self._style, self._scale = style, scale
        self._photos = [photo(image, self.size) for image in probe.displayed().numpy()]

    def photos(self) -> Tensor:
        """The images as they are drawn, ``(N, size, size, 3)`` uint8."""
        return torch.from_numpy(np.stack(self._photos))

    def mosaic(self, snapshot: Snapshot, image: int) -> Picture:
        """Draw image number ``image`` and its maps, each true class framed.

        The maps of one rule flow around the image. The maps of several rules stand in blocks
        under the image: one row per rule, which its heading names, and one column per class.
        """
        if len(snapshot.rules) > 1:
            return self._blocks(snapshot, image)
        (rule,) = snapshot.rules
        count = snapshot.targets.shape[1]
        tiles = [self._photo(image)]
        tiles += [self._tile(snapshot, rule, image, k) for k in range(count)]
        return sheet(
            _in_rows(tiles),
            title=snapshot.caption,
            aside=self._name_rule(rule),
            foot="; ".join(self._legends()),
        )

    def _blocks(self, snapshot: Snapshot, image: int) -> Picture:
        """The mosaic of several rules."""
        rules, blocks = snapshot.rules, _in_rows(range(snapshot.targets.shape[1]))
        # A column has one class, so that its name stands once in a block, under the last row.
        rows = [
            [self._tile(snapshot, rule, image, k, captioned=rule == rules[-1]) for k in block]
            for block in blocks
            for rule in rules
        ]
        return sheet(
            rows,
            title=snapshot.caption,
            lead=self._photo(image),
            notes=self._notes(rules),
            whole_notes=True,
            row_heads=[_in_words(rule) for _ in blocks for rule in rules],
            block=len(rules),
        )

    def filmstrip(self, snapshots: Sequence[Snapshot], image: int) -> Picture:
        """Draw one row per target and rule and one column per snapshot, under the image itself.

        Args:
            snapshots: One or more of one run, in the order in which they were taken.
            image: The number of the image.
        """
        columns = torch.stack([s.targets[image] for s in snapshots], dim=1)  # (K, snapshots)
        rules = snapshots[0].rules
        several = len(rules) > 1
        rows, names = [], []
        for k, classes in enumerate(columns.tolist()):
            steady = len(set(classes)) == 1
            for rule in rules:
                # The rows of a class form a block, in which its name and probabilities stand once.
                last = rule == rules[-1]
                row = [
                    self._tile(s, rule, image, k, named=not steady, captioned=last)
                    for s in snapshots
                ]
                name = self._row_name(k, classes[0], steady) if rule == rules[0] else ""
                rows.append(row)
                names.append(RowName(name, _in_words(rule) if several else ""))
        return sheet(
            rows,
            title=self._probe.image_name(image),
            lead=self._photo(image),
            notes=self._notes(rules),
            whole_notes=several,
            column_names=[s.caption for s in snapshots],
            row_names=names,
            block=len(rules) if several else None,
        )

    def _legends(self) -> list[str]:
        """What the colours mean and, of volumes, what of them is drawn."""
        projection = self._probe.projection
        return [_LEGENDS[self._style]] + ([] if projection is None else [str(projection)])

    def _notes(self, rules: Sequence[str]) -> list[str]:
        """What a reader of several maps must know, one line each."""
        marks = ["framed: the true class", "bold: the predicted class"]
        if self._probe.multi_label:
            marks = ["framed: a true label", "bold: a predicted label, of at least 50%"]
        notes = [*self._legends(), *marks]
        if len(rules) == 1:
            return [self._name_rule(rules[0]), *notes]
        # Several rules are named next to their rows.
        return notes if self._scale == "map" else [*notes, f"colours end at ±{self._scale:g}"]

    def _name_rule(self, rule: str) -> str:
        """The rule, and the scale if the maps share one."""
        return _in_words(rule) + ("" if self._scale == "map" else f" ±{self._scale:g}")

    def _row_name(self, k: int, target: int, steady: bool) -> str:
        """The class of a row; its rank if the class changes from one snapshot to the next."""
        if steady:
            return self._probe.class_name(self._find_class(target))
        return f"top {k + 1}" if self._probe.labels is None else f"other {k}"

    def _photo(self, image: int) -> Tile:
        true = sorted(self._probe.true_classes(image))
        name = ", ".join(self._probe.class_name(c) for c in true)
        if len(true) > 3:
            name = f"{len(true)} labels"
        return Tile(self._photos[image], name or "input", framed=bool(true))

    def _tile(
        self,
        snapshot: Snapshot,
        rule: str,
        image: int,
        k: int,
        *,
        named: bool = True,
        captioned: bool = True,
    ) -> Tile:
        """The map of target number ``k`` by ``rule``.

        Args:
            snapshot: Holds the map.
            rule: One of the snapshot's rules.
            image: The number of the image.
            k: The column of the image's targets.
            named: Whether the caption has the name of the class.
            captioned: Whether there is a caption. Maps that are not finite say so without one.
        """
        target = self._find_class(int(snapshot.targets[image, k]))
        probability = float(snapshot.probabilities[image, k])
        values = snapshot.maps[rule][image, k].float().numpy()
        if self._scale != "map":
            values = values * (float(snapshot.peaks[rule][image, k]) / self._scale)
        finite = bool(np.isfinite(values).all())
        note = percent(probability) if captioned else ""
        return Tile(
            colorize(values, self.size, self._style, self._photos[image]),
            self._probe.class_name(target) if named and captioned else "",
            note if finite else "not finite",
            framed=target in self._probe.true_classes(image),
            strong=self._is_predicted(snapshot, image, target, probability),
        )

    def _is_predicted(
        self, snapshot: Snapshot, image: int, target: int, probability: float
    ) -> bool:
        if self._binary or self._probe.multi_label:
            return probability >= 0.5
        return snapshot.predicted is not None and target == int(snapshot.predicted[image])

    def _find_class(self, target: int) -> int:
        """The class that a target stands for: with a single logit, class 1."""
        return 1 if self._binary else target


def _in_words(rule: str) -> str:
    return rule.replace("_", " ")


def _in_rows(items: Sequence[T]) -> list[Sequence[T]]:
    """Split ``items`` into rows of at most four."""
    return [items[start : start + _COLUMNS] for start in range(0, len(items), _COLUMNS)]
