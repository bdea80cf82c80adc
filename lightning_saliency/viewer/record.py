"""A recorded run, as a page shows it: facts, observations and maps, read with numpy alone.

The folder is that of :mod:`record.run`; :mod:`record.observation` explains the tensors. A file that
is damaged costs what it holds, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from lightning_saliency.errors import RecordError
from lightning_saliency.record.facts import (
    OBSERVATION_FILE,
    PHOTOS_FILE,
    RUN_FILE,
    Header,
    RunInfo,
    read_info,
)
from lightning_saliency.record.metrics import METRICS_FILE, Numbers, read_metrics, read_thinned
from lightning_saliency.storage.decode import MISFITS, OBSERVATION_SCHEMA, check_schema, decode
from lightning_saliency.storage.files import damaged
from lightning_saliency.viewer.maps import LEVELS, Bytes, read_maps
from lightning_saliency.viewer.predictions import read_predictions
from lightning_saliency.viewer.tensors import Array, TensorFile, open_tensors
from lightning_saliency.viewer.verdict import finite, read_verdict

# Numbers of more than ten digits have no zeros in front, so that a step has one name.
_OBSERVATION = re.compile(r"observation-(\d{10}|[1-9]\d{10,15})\.safetensors", re.ASCII)

# A browser numbers the classes that have no names; nobody has as many as this.
_MOST_CLASSES = 1_000_000


@dataclass(frozen=True, slots=True)
class Moment:
    """An observation without its maps.

    Attributes:
        step: Its place on the loggers' step axis.
        epoch: The epoch, from 0; -1 or 0 for the untrained model.
        caption: The moment in words.
        rules: The rules of the maps, in display order.
        targets: ``(N, K)``, the class of each map; class 1 if the model has a single logit.
        p: ``(N, K)``, the probability of each target; ``None`` if it is not finite.
        predicted: The class that each of N images is taken for, explained or not; ``None`` if the
            record does not say it.
        peaks: For each rule, ``(N, K)``, the largest magnitude of each map; likewise.
        measures: What was measured, by name.
        map: Height and width of the maps.
        stamp: Changes when the file does.
        metrics: What the run had logged, by name.
    """

    step: int
    epoch: int
    caption: str
    rules: tuple[str, ...]
    targets: list[list[int]]
    p: list[list[float | None]]
    predicted: list[int | None]
    peaks: Mapping[str, list[list[float | None]]]
    measures: Numbers
    map: tuple[int, int]
    stamp: str
    metrics: Numbers = field(default_factory=dict)


class Record:
    """The folder of a recorded run.

    Args:
        folder: Holds ``run.json``.
        run: The name of the run; TensorBoard's, so that its scalars can be found.

    Attributes:
        id: Names the record among others.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder = folder
        self.rename(run)
        self._facts: tuple[str, RunInfo] | None = None
        self._moments: dict[int, Moment] = {}
        self._lock = threading.Lock()

    def rename(self, run: str) -> None:
        """Change the name of the run, and with it the id."""
        self.run = run
        self.id = self.folder.name if run == "." else f"{run}/{self.folder.name}"

    def steps(self) -> list[int]:
        """The steps of the observations, in order.

        Raises:
            OSError: The folder cannot be read.
        """
        with os.scandir(self.folder) as entries:
            found = [_OBSERVATION.fullmatch(entry.name) for entry in entries]
        return sorted(int(match[1]) for match in found if match)

    def stamp(self) -> str:
        """A text that changes whenever anything in the folder does; "gone" without a folder."""
        try:
            with os.scandir(self.folder) as entries:
                stats = [(entry.name, file_stamp(entry)) for entry in entries if entry.is_file()]
        except OSError:
            return "gone"
        return hashlib.sha256(repr(sorted(stats)).encode("utf-8", "replace")).hexdigest()[:16]

    def facts(self) -> RunInfo:
        """Read the facts about the run.

        Raises:
            RecordError: ``run.json`` is missing or damaged, or has another schema.
        """
        path = self.folder / RUN_FILE
        try:
            stamp = file_stamp(path)
            if self._facts is None or self._facts[0] != stamp:
                facts = read_info(path)
                self._facts = stamp, replace(facts, settings=finite(facts.settings))
            return self._facts[1]
        except (*MISFITS, OSError) as error:
            raise damaged(path, error) from error

    def moment(self, step: int) -> Moment:
        """Read the observation at ``step`` without its maps, or remember it.

        Raises:
            RecordError: It is missing, damaged, or of another run.
        """
        path = self.folder / OBSERVATION_FILE.format(step)
        try:
            stamp = file_stamp(path)
        except OSError as error:
            raise damaged(path, error) from error
        known = self._moments.get(step)
        if known is None or known.stamp != stamp:
            facts = self.facts()
            with open_tensors(path) as file:
                known = _read_moment(file, facts, step, stamp)
            with self._lock:
                self._moments[step] = known
        return known

    def maps(
        self,
        step: int,
        rule: str | None = None,
        images: Sequence[int] | None = None,
        columns: Sequence[int] | None = None,
    ) -> Bytes:
        """Read maps of the observation at ``step``; only their bytes are read.

        Args:
            step: One of :meth:`steps`.
            rule: One of the observation's rules; its first one by default.
            images: Numbers of images; all of them by default.
            columns: Numbers of targets; all of them by default.

        Returns:
            int8 ``(images, columns, h, w)``; see :func:`maps.quantise`.

        Raises:
            IndexError: There is no such image, column or rule.
            RecordError: The observation is missing, damaged, or of another run.
        """
        rules = self.moment(step).rules
        rule = rules[0] if rule is None else rule
        if rule not in rules:
            raise IndexError(f"no maps by the rule {rule!r}")
        with open_tensors(self.folder / OBSERVATION_FILE.format(step)) as file:
            return read_maps(file, _tensor_name("maps", rule, rules), images, columns)

    def photos(self) -> Array:
        """Read the thumbnails of the images, ``(N, h, w, 3)`` uint8.

        Raises:
            RecordError: The file is missing, damaged, or of another probe.
        """
        count = len(self.facts().images)
        with open_tensors(self.folder / PHOTOS_FILE) as file:
            check_schema(file.about)
            entry = file.entries["photos"]
            if entry.dtype != np.uint8 or len(entry.shape) != 4 or 0 in entry.shape:
                raise ValueError("`photos` is not a batch of pictures")
            if (entry.shape[0], entry.shape[3]) != (count, 3):
                raise ValueError("its number of images or channels differs from that of the run")
            return file.read("photos")

    def moments(self) -> tuple[list[Moment], int]:
        """Read all observations without their maps, and count the files that cannot be read."""
        moments, steps = [], self.steps()
        metrics, _, unreadable = self._metrics()
        for step in steps:
            try:
                moments.append(replace(self.moment(step), metrics=metrics.get(step, {})))
            except RecordError:
                unreadable += 1
        with self._lock:  # Forget what was deleted.
            self._moments = {s: m for s, m in self._moments.items() if s in set(steps)}
        return moments, unreadable

    def thinned(self, moments: Sequence[Moment]) -> list[dict[str, Any]]:
        """The numbers that are left of observations between ``moments``, by step."""
        metrics, measures, _ = self._metrics()
        shown = {moment.step for moment in moments}
        return [
            {"step": step, "metrics": metrics.get(step, {}), "measures": measures.get(step, {})}
            for step in sorted({*metrics, *measures} - shown)
            if shown and min(shown) < step < max(shown)
        ]

    def _metrics(self) -> tuple[Mapping[int, Numbers], Mapping[int, Numbers], int]:
        """What was logged at each step, what was measured, and how many files are damaged."""
        path = self.folder / METRICS_FILE
        try:
            return (read_metrics(path), read_thinned(path), 0) if path.is_file() else ({}, {}, 0)
        except RecordError:
            return {}, {}, 1

    def index(self) -> dict[str, Any]:
        """Everything about the run but maps, photos and scalars, ready for JSON.

        Raises:
            RecordError: ``run.json`` is missing or damaged.
            OSError: The folder cannot be read.
        """
        stamp = self.stamp()  # Whatever changes from now on is read again next time.
        facts, (moments, unreadable) = self.facts(), self.moments()
        try:
            verdict = read_verdict(self.folder)
        except (RecordError, OSError):
            verdict, unreadable = None, unreadable + 1
        index: dict[str, Any] = {"id": self.id, "run": self.run, "stamp": stamp}
        index |= {"levels": LEVELS, **_as_dict(facts), **describe_moments(moments)}
        index["thinned"] = self.thinned(moments)
        return index | {"unreadable": unreadable, "verdict": verdict and verdict.as_json()}


def describe_moments(moments: Sequence[Moment]) -> dict[str, Any]:
    """Describe observations for JSON; what all of them share stands there only once.

    Returns:
        ``rules``, all of them; ``targets``, those of every observation, or ``None`` if they change,
        and each observation has its own; ``map``, the size of the maps in the last observation; and
        ``moments``, of which only those with maps of another size have a ``map``.
    """
    same = all(m.targets == moments[0].targets for m in moments)
    size = moments[-1].map if moments else None
    described = []
    for m in moments:
        row = _as_dict(m)
        row |= {"peaks": m.peaks[m.rules[0]], "peaks_by_rule": m.peaks}
        if len(m.rules) == 1:
            del row["peaks_by_rule"]
        if same:
            del row["targets"]
        if m.map == size:
            del row["map"]
        described.append(row)
    return {
        "rules": list(dict.fromkeys(rule for m in moments for rule in m.rules)),
        "targets": moments[0].targets if moments and same else None,
        "map": size,
        "moments": described,
    }


def is_file_of_record(name: str) -> bool:
    """Whether only a recorded run has a file of this name."""
    return name == PHOTOS_FILE or _OBSERVATION.fullmatch(name) is not None


def _as_dict(instance: RunInfo | Moment) -> dict[str, Any]:
    """The fields of a dataclass, which share what they hold: it can be large."""
    return {each.name: getattr(instance, each.name) for each in fields(instance)}


def file_stamp(path: Path | os.DirEntry[str]) -> str:
    """A text that changes when a file does."""
    status = path.stat()
    return f"{status.st_mtime_ns:x}-{status.st_size:x}"


def _tensor_name(kind: str, rule: str, rules: Sequence[str]) -> str:
    """The name of the maps or peaks of a rule; that of the first rule stands alone."""
    return kind if rule == rules[0] else f"{kind}.{rule}"


def _read_moment(file: TensorFile, facts: RunInfo, step: int, stamp: str) -> Moment:
    """Read what is small in an observation's file.

    Raises:
        KeyError, TypeError, ValueError: It is not one of this run and step.
    """
    check_schema(file.about, OBSERVATION_SCHEMA)
    header = decode(Header, file.about)
    if header.step != step or header.fingerprint != facts.fingerprint:
        raise ValueError("it belongs to another run or step")
    rules = (header.rule, *header.more_rules)
    targets = file.read("targets")
    probabilities = file.read("probabilities")
    if targets.ndim != 2 or targets.size == 0 or len(targets) != len(facts.images):
        raise ValueError("its number of images differs from that of the run")
    if targets.dtype != np.int64 or targets.min() < 0 or targets.max() >= _MOST_CLASSES:
        raise ValueError("`targets` are not classes")
    peaks = {rule: file.read(_tensor_name("peaks", rule, rules)) for rule in rules}
    sizes = {file.entries[_tensor_name("maps", rule, rules)].shape for rule in rules}
    if any(each.shape != targets.shape for each in (probabilities, *peaks.values())):
        raise ValueError("its tensors have different shapes")
    if len(sizes) != 1 or next(iter(sizes))[:2] != targets.shape or len(next(iter(sizes))) != 4:
        raise ValueError("its maps have another shape than its targets")
    height, width = sizes.pop()[2:]
    if height == 0 or width == 0:
        raise ValueError("its maps are empty")
    predicted = read_predictions(file, facts, targets, probabilities)
    if facts.one_logit:  # It is recorded as target 0, and stands for class 1.
        targets = np.ones_like(targets)
    return Moment(
        step=step,
        epoch=header.epoch,
        caption=header.caption,
        rules=rules,
        targets=targets.tolist(),
        p=_round(probabilities, 4),
        predicted=predicted,
        peaks={rule: _round(each, 4) for rule, each in peaks.items()},
        measures=header.measures,
        map=(height, width),
        stamp=stamp,
    )


def _round(values: Array, digits: int) -> list[list[float | None]]:
    """Keep as many significant digits as can be told apart on a screen."""
    numbers = values.astype(float)
    finite_ones = np.isfinite(numbers)
    safe = np.where(finite_ones & (numbers != 0), numbers, 1)
    places = digits - 1 - np.floor(np.log10(np.abs(safe)))
    # Dividing by a power of ten gives the number nearest to the decimal, which is short to write.
    up, down = 10.0 ** np.maximum(places, 0), 10.0 ** np.maximum(-places, 0)
    rounded = np.where(numbers == 0, 0, np.rint(safe * up / down) / up * down)
    rows: list[list[float | None]] = rounded.tolist()
    for row, column in np.argwhere(~finite_ones).tolist():
        rows[row][column] = None
    return rows
