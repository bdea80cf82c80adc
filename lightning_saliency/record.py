"""What a run keeps on disk: a file an observation, and one about the run itself.

A folder of a run holds ``run.json``, ``photos.safetensors`` with the probe as a person knows it,
and ``observation-<step>.safetensors`` for each observation. None of them names another file, so
none can lead outside of the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.errors import RecordError
from lightning_saliency.files import damaged, json_bytes, read_json, read_tensors, tensor_bytes
from lightning_saliency.measures import CELLS
from lightning_saliency.untrusted import (
    MISFITS,
    SCHEMA,
    Shapes,
    check_parts,
    check_schema,
    check_shapes,
    check_wholes,
    integer,
    numbers,
    of_type,
    text,
    texts,
)

RUN_FILE = "run.json"
PHOTOS_FILE = "photos.safetensors"
OBSERVATION_FILE = "observation-{:010d}.safetensors"
_OBSERVATIONS = "observation-*.safetensors"

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run as a whole.

    Attributes:
        name: Of the callback.
        fingerprint: Of the probe; see :attr:`ProbeBatch.fingerprint`.
        images: A name an image.
        labels: The true classes of each image; ``None`` where they are not known.
        class_names: ``None`` where classes have none.
        areas: By region, the part of the images that it covers.
        rule: Of the gradient that is measured.
        reduce: How its channels are reduced.
        settings: How the run was observed.
        versions: Of the packages.
        commit: Of the repository that the run was started in, with ``-dirty`` where it had changes.
        seed: What ``seed_everything`` was given.
        started: When, in ISO 8601.
        metrics: What the run logged last, apart from what this package logs.
        finished: Whether training ended by itself.
    """

    name: str
    fingerprint: str
    images: tuple[str, ...]
    labels: tuple[tuple[int, ...], ...] | None = None
    class_names: tuple[str, ...] | None = None
    areas: Numbers = field(default_factory=dict)
    rule: str = "gradient"
    reduce: str = "square"
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    seed: int | None = None
    started: str = ""
    metrics: Numbers = field(default_factory=dict)
    finished: bool = False

    def class_name(self, index: int) -> str:
        """What to call class ``index``: its name where it has one, else its number."""
        if self.class_names is not None and index < len(self.class_names):
            return self.class_names[index]
        return str(index)


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Where the measured class of each image has its gradient; N images.

    Attributes:
        classes: ``(N,)`` int64, the class of each image that is measured: its label.
        chances: ``(N,)`` float32, the probability of that class.
        maps: ``(N, h, w)`` float16, at picture resolution, divided by their peaks.
        profiles: ``(N, 8, 8)`` float64, of the map in full; NaN where it is all zero.
        shares: By region, ``(N,)`` float64, likewise.
    """

    classes: Tensor
    chances: Tensor
    maps: Tensor
    profiles: Tensor
    shares: Mapping[str, Tensor] = field(default_factory=dict)

    def map_tensors(self, change: Callable[[Tensor], Tensor]) -> Measured:
        """The same with ``change`` applied to each of its tensors."""
        shares = {region: change(values) for region, values in self.shares.items()}
        return Measured(**{name: change(getattr(self, name)) for name in _MEASURED}, shares=shares)


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What one observation saw; N images, K classes each.

    Attributes:
        step: On the step axis of the loggers.
        epoch: The epoch that it ended or stood in, from 0; -1 before the first.
        caption: The moment in words.
        fingerprint: Of the probe.
        rule: Of the maps that were shown.
        targets: ``(N, K)`` int64, the classes that were shown.
        maps: ``(N, K, h, w)`` float16, signed, divided by their peaks.
        peaks: ``(N, K)`` float32, logits per input unit.
        probabilities: ``(N, K)`` float32.
        measured: Where the label's gradient lies.
        measures: The means of what was measured, by name, as they were logged.
    """

    step: int
    epoch: int
    caption: str
    fingerprint: str
    rule: str
    targets: Tensor
    maps: Tensor
    peaks: Tensor
    probabilities: Tensor
    measured: Measured
    measures: Numbers = field(default_factory=dict)


def encode_observation(observation: Observation) -> bytes:
    """``observation`` as a safetensors file."""
    told = {name: getattr(observation, name) for name in _OBSERVATION_TOLD}
    tensors = {name: getattr(observation, name) for name in _SHOWN}
    measured = observation.measured
    tensors |= {f"measured.{name}": getattr(measured, name) for name in _MEASURED}
    tensors |= {_SHARE + region: shares for region, shares in measured.shares.items()}
    return tensor_bytes({"schema": SCHEMA, **told}, tensors)


_OBSERVATION_TOLD = ("step", "epoch", "caption", "fingerprint", "rule", "measures")
_SHOWN = ("targets", "maps", "peaks", "probabilities")
_MEASURED = ("classes", "chances", "maps", "profiles")
_SHARE = "share."

_SHAPES: Shapes = {
    "targets": (torch.int64, ("N", "K")),
    "maps": (torch.float16, ("N", "K", "h", "w")),
    "peaks": (torch.float32, ("N", "K")),
    "probabilities": (torch.float32, ("N", "K")),
    "measured.classes": (torch.int64, ("N",)),
    "measured.chances": (torch.float32, ("N",)),
    "measured.maps": (torch.float16, ("N", "h", "w")),
    "measured.profiles": (torch.float64, ("N", CELLS, CELLS)),
}
_PER_IMAGE: tuple[torch.dtype, tuple[str | int, ...]] = (torch.float64, ("N",))


def read_observation(path: Path) -> Observation:
    """What :func:`encode_observation` wrote to ``path``.

    Raises:
        RecordError: The file is missing, damaged, or of another schema.
    """
    told, tensors = read_tensors(path)
    try:
        check_schema(told)
        regions = [name for name in tensors if name.startswith(_SHARE)]
        check_shapes(tensors, {**_SHAPES, **dict.fromkeys(regions, _PER_IMAGE)})
        check_parts(tensors, ["measured.profiles", *regions])
        check_wholes(tensors, "measured.profiles")
        if int(min(tensors["targets"].min(), tensors["measured.classes"].min())) < 0:
            raise ValueError("it holds a negative class")
        shares = {name.removeprefix(_SHARE): tensors[name] for name in regions}
        return Observation(
            step=integer(told["step"], "step"),
            epoch=integer(told["epoch"], "epoch", least=-1),
            caption=text(told, "caption"),
            fingerprint=text(told, "fingerprint"),
            rule=text(told, "rule"),
            measures=numbers(told, "measures"),
            measured=Measured(**{n: tensors[f"measured.{n}"] for n in _MEASURED}, shares=shares),
            **{name: tensors[name] for name in _SHOWN},
        )
    except (*MISFITS, RuntimeError) as error:
        raise damaged(path, error) from error


def encode_run(info: RunInfo) -> bytes:
    """``info`` as a JSON file."""
    told = {"schema": SCHEMA, **asdict(info)}
    return json_bytes(told)


def read_info(path: Path) -> RunInfo:
    """What :func:`encode_run` wrote to ``path``.

    Raises:
        RecordError: The file is missing, damaged, or of another schema.
    """
    told = read_json(path)
    try:
        check_schema(told)
        return info_of(told)
    except MISFITS as error:
        raise damaged(path, error) from error


def info_of(told: Mapping[str, Any]) -> RunInfo:
    """What JSON tells of a run, every value of the type that it has to be.

    Raises:
        KeyError, TypeError, ValueError: It is not.
    """
    labels = told["labels"]
    if labels is not None:
        labels = tuple(_classes(row) for row in of_type(labels, "labels", list))
    info = RunInfo(
        **{name: text(told, name) for name in ("name", "fingerprint", "rule", "reduce", "started")},
        images=texts(told, "images"),
        labels=labels,
        class_names=None if told["class_names"] is None else texts(told, "class_names"),
        areas=numbers(told, "areas"),
        metrics=numbers(told, "metrics"),
        settings=of_type(told["settings"], "settings", dict),
        versions={k: str(v) for k, v in of_type(told["versions"], "versions", dict).items()},
        commit=None if told["commit"] is None else text(told, "commit"),
        seed=None if told["seed"] is None else integer(told["seed"], "seed"),
        finished=told["finished"] is True,
    )
    if labels is not None and len(labels) != len(info.images):
        raise ValueError("its labels are not one an image")
    return info


def _classes(row: Any) -> tuple[int, ...]:
    return tuple(integer(index, "labels") for index in of_type(row, "labels", list))


def encode_photos(photos: Tensor) -> bytes:
    """The images of a probe ``(N, h, w, 3)`` uint8, as a person knows them."""
    return tensor_bytes({"schema": SCHEMA}, {"photos": photos})


def read_photos(path: Path) -> Tensor:
    """What :func:`encode_photos` wrote to ``path``.

    Raises:
        RecordError: The file is missing, damaged, or of another schema.
    """
    told, tensors = read_tensors(path)
    try:
        check_schema(told)
        check_shapes(tensors, {"photos": (torch.uint8, ("N", "h", "w", 3))})
    except MISFITS as error:
        raise damaged(path, error) from error
    return tensors["photos"]


@dataclass(frozen=True, slots=True)
class Run:
    """A folder that a run was recorded in."""

    folder: Path
    info: RunInfo

    def steps(self) -> list[int]:
        """The steps of its observations, in order."""
        return [step_of(path) for path in observation_files(self.folder)]

    def observation(self, step: int) -> Observation:
        """The observation at ``step``.

        Raises:
            RecordError: There is none, it is damaged, or it is of another probe.
        """
        path = self.folder / OBSERVATION_FILE.format(step)
        observation = read_observation(path)
        if len(observation.targets) != len(self.info.images):
            raise damaged(path, "it is not of as many images as the run")
        if set(observation.measured.shares) != set(self.info.areas):
            raise damaged(path, "it is not of the same regions as the run")
        if observation.step != step or observation.fingerprint != self.info.fingerprint:
            raise damaged(path, "it is of another run or step")
        return observation

    def last(self) -> Observation:
        """The last observation, which is the one that counts.

        Raises:
            RecordError: There is none, or it is damaged.
        """
        steps = self.steps()
        if not steps:
            raise RecordError(f"{self.folder} holds no observation yet")
        return self.observation(steps[-1])

    def photos(self) -> Tensor:
        """The images of the probe, ``(N, h, w, 3)`` uint8."""
        photos = read_photos(self.folder / PHOTOS_FILE)
        if len(photos) != len(self.info.images):
            raise damaged(self.folder / PHOTOS_FILE, "it is not of as many images as the run")
        return photos


def open_run(path: str | Path) -> Run:
    """The run in a log folder, or in the folder of the callback within it.

    Raises:
        RecordError: There is none, or several, or its ``run.json`` is damaged.
    """
    path = Path(path)
    if not path.is_dir():
        raise RecordError(f"{path} is not a folder; pass the log folder of a run")
    if (path / RUN_FILE).is_file():
        return Run(path, read_info(path / RUN_FILE))
    found = sorted(file.parent for file in path.glob(f"*/{RUN_FILE}"))
    if not found:
        raise RecordError(
            f"no recorded run in {path}: it holds neither {RUN_FILE} nor a folder with one. A run "
            "with `SaliencyCallback(record=True)` writes it into its logger's folder"
        )
    if len(found) > 1:
        told = ", ".join(str(folder) for folder in found)
        raise RecordError(f"{path} holds several recorded runs; name one of {told}")
    return Run(found[0], read_info(found[0] / RUN_FILE))


def observation_files(folder: Path) -> list[Path]:
    """The files of the observations in a folder, in the order of their steps."""
    return sorted((p for p in folder.glob(_OBSERVATIONS) if step_of(p) >= 0), key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of an observation's file; -1 where it is none's."""
    digits = path.stem.removeprefix("observation-")
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) <= 16 else -1
