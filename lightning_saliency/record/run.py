"""What a run keeps on disk: one file per observation, and one about the run itself.

A folder of a run holds ``run.json``, ``photos.safetensors`` with the probe as a person knows it,
and ``observation-<step>.safetensors`` for each observation. None of them names another file, so
none can lead out of the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.errors import RecordError
from lightning_saliency.record.observation import Numbers, Observation, read_observation
from lightning_saliency.storage.decode import (
    MISFITS,
    SCHEMA,
    check_schema,
    check_shapes,
    decode,
)
from lightning_saliency.storage.files import (
    damaged,
    json_bytes,
    read_json,
    read_tensors,
    tensor_bytes,
)

RUN_FILE = "run.json"
PHOTOS_FILE = "photos.safetensors"
OBSERVATION_FILE = "observation-{:010d}.safetensors"
_OBSERVATIONS = "observation-*.safetensors"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What is known of a run as a whole.

    Attributes:
        name: Of the callback.
        fingerprint: Of the probe; see :attr:`ProbeBatch.fingerprint`.
        images: The name of each image.
        labels: The true classes of each image; ``None`` if they are not known.
        class_names: The name of each class; ``None`` if they have none.
        areas: By region, the fraction of the images that it covers.
        rule: Of the gradient that is measured.
        reduce: How its channels are reduced.
        settings: How the run was observed.
        versions: Of the packages.
        commit: Of the repository that the run was started in, with ``-dirty`` if it had changes.
        seed: What ``seed_everything`` was given.
        started: When, in ISO 8601.
        metrics: What the run logged last, except for what this package logs.
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

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.images):
            raise ValueError("it does not have one label entry per image")

    def class_name(self, index: int) -> str:
        """What to call class ``index``: its name where it has one, else its number."""
        if self.class_names is not None and index < len(self.class_names):
            return self.class_names[index]
        return str(index)


def encode_run(info: RunInfo) -> bytes:
    """``info`` as a JSON file."""
    return json_bytes({"schema": SCHEMA, **asdict(info)})


def read_info(path: Path) -> RunInfo:
    """What :func:`encode_run` wrote to ``path``.

    Raises:
        RecordError: The file is missing, damaged, or of another schema.
    """
    told = read_json(path)
    try:
        check_schema(told)
        return decode(RunInfo, told)
    except MISFITS as error:
        raise damaged(path, error) from error


def encode_thumbnails(photos: Tensor) -> bytes:
    """The images of a probe ``(N, h, w, 3)`` uint8, as a person knows them."""
    return tensor_bytes({"schema": SCHEMA}, {"photos": photos})


def read_thumbnails(path: Path) -> Tensor:
    """What :func:`encode_thumbnails` wrote to ``path``.

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
        if len(observation.snapshot.targets) != len(self.info.images):
            raise damaged(path, "it has another number of images than the run")
        if set(observation.measured.shares) != set(self.info.areas):
            raise damaged(path, "it has other regions than the run")
        if observation.step != step or observation.fingerprint != self.info.fingerprint:
            raise damaged(path, "it belongs to another run or step")
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
        photos = read_thumbnails(self.folder / PHOTOS_FILE)
        if len(photos) != len(self.info.images):
            raise damaged(self.folder / PHOTOS_FILE, "it has another number of images than the run")
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
        names = ", ".join(str(folder) for folder in found)
        raise RecordError(f"{path} holds several recorded runs; pass one of {names}")
    return Run(found[0], read_info(found[0] / RUN_FILE))


def observation_files(folder: Path) -> list[Path]:
    """The files of the observations in a folder, in the order of their steps."""
    return sorted((p for p in folder.glob(_OBSERVATIONS) if step_of(p) >= 0), key=step_of)


def step_of(path: Path) -> int:
    """The step in the name of an observation's file; -1 for any other file."""
    digits = path.stem.removeprefix("observation-")
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) <= 16 else -1
