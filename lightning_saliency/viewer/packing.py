"""The maps of runs as text in a page, made to fit into a budget.

What is given up first is what is missed least: shades of colour, then pixels, then classes if there
are very many, then observations.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np

from lightning_saliency.viewer.maps import LEVELS, NOT_FINITE, Bytes
from lightning_saliency.viewer.record import Moment, Record
from lightning_saliency.viewer.tensors import Array

# From no loss to much: the value of a map's strongest pixel, and the most pixels of a side. With
# 15, a map has 31 different values, from -15 to 15.
_LADDER = ((LEVELS, None), (31, None), (15, None), (15, 64))
_FEW_CLASSES = 12  # of each image, if there is no room for all of them
_SAMPLES = 4  # observations that are encoded to guess how much room all of them take,
_SAMPLED_MAPS = 8  # and images, and classes of each


@dataclass(frozen=True, slots=True)
class Plan:
    """How maps are made smaller.

    Attributes:
        levels: The value of the strongest pixel of a map.
        side: The most pixels of a side; ``None`` for any number.
        classes: The most classes of an image; ``None`` for any number.
    """

    levels: int = LEVELS
    side: int | None = None
    classes: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """What a page shows of a run.

    Attributes:
        record: The run.
        plan: How its maps are made smaller.
        recorded: All observations that can be read.
        kept: Which of them are shown, by their places in ``recorded``.
        columns: For each of ``recorded``, the columns of each image that are shown, ``(N, K)``;
            empty if all are.
    """

    record: Record
    plan: Plan
    recorded: Sequence[Moment]
    kept: Sequence[int]
    columns: Sequence[Array] = ()

    @classmethod
    def of_all(cls, record: Record, moments: Sequence[Moment], plan: Plan) -> Selection:
        """Show all observations of a run as the plan says."""
        columns = _choose_columns(record, moments, plan.classes) if plan.classes else ()
        return cls(record, plan, moments, range(len(moments)), columns)

    def thin(self, share: float) -> Selection:
        """Keep a part of the observations, spread evenly; the first and the last stay."""
        last = len(self.recorded) - 1
        count = min(last + 1, max(2, int(share * (last + 1))))
        places = [round(i * last / (count - 1)) for i in range(count)] if count > 1 else [0]
        return replace(self, kept=places)

    def moments(self) -> list[Moment]:
        """The observations that are shown, without what was cut from each."""
        return [self._cut(place) for place in self.kept]

    def dropped(self) -> list[dict[str, Any]]:
        """The numbers of observations that are not shown, as :meth:`Record.thinned` has them."""
        kept = set(self.kept)
        dropped = (moment for place, moment in enumerate(self.recorded) if place not in kept)
        return [{"step": m.step, "metrics": m.metrics, "measures": m.measures} for m in dropped]

    def _cut(self, place: int) -> Moment:
        moment = self.recorded[place]
        moment = replace(moment, map=_shrink(moment.map, self.plan.side))
        if not self.columns:
            return moment
        rows = self.columns[place].tolist()

        def take(values: Sequence[Sequence[object]]) -> list[list[object]]:
            return [[row[k] for k in own] for row, own in zip(values, rows, strict=True)]

        peaks = {rule: take(each) for rule, each in moment.peaks.items()}
        cut = {"targets": take(moment.targets), "p": take(moment.p), "peaks": peaks}
        return replace(moment, **cut)  # type: ignore[arg-type]

    def encode(
        self,
        place: int,
        rule: str,
        images: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
    ) -> str:
        """Encode the maps of an observation by one rule as base64 of zlib of int8.

        Args:
            place: The place of the observation in ``recorded``.
            rule: One of its rules.
            images: Numbers of images; all of them by default.
            columns: Numbers of targets, before any are cut; all of them by default.

        Raises:
            RecordError: The observation cannot be read any more.
        """
        maps = self.record.maps(self.recorded[place].step, rule, images, columns)
        if self.columns:
            chosen = self.columns[place][list(images) if images is not None else slice(None)]
            maps = np.take_along_axis(maps, chosen[:, :, None, None], axis=1)
        data = zlib.compress(coarsen(maps, self.plan.levels, self.plan.side).tobytes(), 6)
        return base64.b64encode(data).decode()

    def cut(self) -> list[str]:
        """What the page lacks, in sentences."""
        last, kept, recorded = self.recorded[-1], len(self.kept), len(self.recorded)
        sentences = []
        if self.plan.levels < LEVELS:
            levels = 2 * self.plan.levels + 1
            sentences.append(f"Maps have {levels} levels of strength instead of {2 * LEVELS + 1}.")
        if (size := _shrink(last.map, self.plan.side)) != last.map:
            height, width = last.map
            sentences.append(
                f"Maps have {size[0]} × {size[1]} pixels instead of {height} × {width}."
            )
        if self.columns and self.columns[-1].shape[1] < len(last.targets[0]):
            classes = f"{self.columns[-1].shape[1]} of {len(last.targets[0])} classes"
            sentences.append(f"Each image has {classes}: the true ones and the most probable ones.")
        if kept < recorded:
            sentences.append(f"{kept} of {recorded} observations are here, spread evenly.")
        return sentences


def select(
    records: Sequence[Record], budget: int, cost: Callable[[Sequence[Selection]], int]
) -> tuple[list[Selection], list[dict[tuple[int, str], str]]]:
    """Choose what a page shows of runs, and encode it.

    Args:
        records: Runs of at least one observation each.
        budget: The most bytes of the page.
        cost: Computes the bytes of the page without any maps.

    Returns:
        What is shown of each run, and its maps by step and rule.

    Raises:
        ValueError: Even two observations of each run do not fit; the message says what would.
    """
    runs = [(record, record.moments()[0]) for record in records]
    chosen: list[Selection] = []
    for plan in _list_plans([moment for _, moments in runs for moment in moments]):
        chosen = [Selection.of_all(record, moments, plan) for record, moments in runs]
        room = budget - cost(chosen)
        if _guess_size(chosen) <= room:
            blobs = [_encode_all(selection, {}) for selection in chosen]
            if _size(blobs) <= room:
                return chosen, blobs
    return _thin(chosen, budget, cost)


def _thin(
    chosen: Sequence[Selection], budget: int, cost: Callable[[Sequence[Selection]], int]
) -> tuple[list[Selection], list[dict[tuple[int, str], str]]]:
    """Drop as many observations as it takes."""
    share = max(0.0, budget - cost(chosen)) / max(1, _guess_size(chosen))
    done: list[dict[tuple[int, str], str]] = [{} for _ in chosen]
    while True:
        thinned = [selection.thin(share) for selection in chosen]
        blobs = [_encode_all(s, known) for s, known in zip(thinned, done, strict=True)]
        fixed, size = cost(thinned), _size(blobs)
        if fixed + size <= budget:
            return thinned, blobs
        if all(len(selection.kept) <= 2 for selection in thinned):
            least = -(-(fixed + size) // 100_000) / 10
            raise ValueError(
                f"a budget of {budget / 1e6:g} MB is too small: with only the first and the last "
                f"observation of each run, the page takes {least:g} MB. Allow as much, or pass "
                "fewer runs"
            )
        share *= min(0.95, max(0.0, budget - fixed) / size)


def _list_plans(moments: Sequence[Moment]) -> Iterator[Plan]:
    """The plans to try, from no loss to much, without those that would change nothing."""
    many = max(len(moment.targets[0]) for moment in moments) > _FEW_CLASSES
    for classes, (levels, side) in product((None, _FEW_CLASSES) if many else (None,), _LADDER):
        if side is None or max(max(moment.map) for moment in moments) > side:
            yield Plan(levels, side, classes)


def _choose_columns(record: Record, moments: Sequence[Moment], most: int) -> list[Array]:
    """For each observation and image, the true classes and the most probable others."""
    facts = record.facts()

    def choose(moment: Moment) -> Array:
        rows = []
        for image, (targets, p) in enumerate(zip(moment.targets, moment.p, strict=True)):
            true = facts.true_classes(image)
            order = sorted(
                range(len(targets)), key=lambda k: (targets[k] not in true, -(p[k] or 0))
            )
            rows.append(order[:most])
        return np.asarray(rows)

    # Classes that are the same all the time stay the same: those that matter in the end.
    if all(moment.targets == moments[-1].targets for moment in moments):
        return [choose(moments[-1])] * len(moments)
    return [choose(moment) for moment in moments]


def _encode_all(
    selection: Selection, known: dict[tuple[int, str], str]
) -> dict[tuple[int, str], str]:
    """Encode what is shown of a run; ``known`` is looked up first, and grows."""
    shown = {}
    for place in selection.kept:
        moment = selection.recorded[place]
        for rule in moment.rules:
            key = moment.step, rule
            known[key] = known.get(key) or selection.encode(place, rule)
            shown[key] = known[key]
    return shown


def _size(blobs: Sequence[Mapping[tuple[int, str], str]]) -> int:
    """The bytes of maps in a page; each has an element around it."""
    return sum(len(text) + len(rule) + 80 for run in blobs for (_, rule), text in run.items())


def _guess_size(chosen: Sequence[Selection]) -> float:
    """Guess the bytes of all maps from some maps of some observations."""
    total = 0.0
    for selection in chosen:
        places = selection.thin(_SAMPLES / len(selection.kept)).kept
        sampled = sum(_guess_moment_size(selection, place) for place in places)
        total += sampled / len(places) * len(selection.kept)
    return total


def _guess_moment_size(selection: Selection, place: int) -> float:
    """Guess the bytes of an observation's maps from some of its images and classes."""
    moment = selection.recorded[place]
    count, width = len(moment.targets), len(moment.targets[0])
    images = range(0, count, -(-count // _SAMPLED_MAPS))
    # If classes are cut, few are left.
    columns = None if selection.columns else range(0, width, -(-width // _SAMPLED_MAPS))
    part = len(images) / count * (1 if columns is None else len(columns) / width)
    return sum(len(selection.encode(place, r, images, columns)) for r in moment.rules) / part


def coarsen(maps: Bytes, levels: int, side: int | None) -> Bytes:
    """Make maps take less room.

    Args:
        maps: ``(..., h, w)``, as :func:`maps.quantise` makes them.
        levels: The value that ±127 becomes.
        side: The most pixels of the longer side. Larger maps keep the strongest value of each block
            of pixels.

    Returns:
        int8 ``(..., h', w')``, of about the same proportions.
    """
    size = _shrink(maps.shape[-2:], side)
    if levels == LEVELS and size == maps.shape[-2:]:
        return maps
    broken = (maps == NOT_FINITE).all(axis=(-2, -1))
    # Gradients alternate in sign from pixel to pixel, so that averages would cancel out.
    highest = _pool(np.maximum, maps, size).astype(np.float32)
    lowest = _pool(np.minimum, maps, size).astype(np.float32)
    strongest = np.where(highest >= -lowest, highest, lowest)
    result: Bytes = np.rint(strongest * (levels / LEVELS)).astype(np.int8)
    result[broken] = NOT_FINITE
    return result


def _pool(choose: np.ufunc, maps: Bytes, size: tuple[int, int]) -> Bytes:
    """Reduce each block of pixels to one of its values, so that maps have ``size``."""
    for axis, count in zip((-2, -1), size, strict=True):
        if count == maps.shape[axis]:
            continue
        starts = np.arange(count) * maps.shape[axis] // count
        maps = choose.reduceat(maps, starts, axis=axis)
    return maps


def _shrink(size: tuple[int, ...], side: int | None) -> tuple[int, int]:
    """The height and width of maps of at most ``side`` pixels on the longer side."""
    height, width = size
    longest = max(height, width)
    if side is None or longest <= side:
        return height, width
    return max(1, round(height * side / longest)), max(1, round(width * side / longest))
