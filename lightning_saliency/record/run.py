"""The folder of a recorded run: one file per observation, and files about the run itself.

The folder holds ``run.json``, ``photos.safetensors`` with thumbnails of the probe,
``observation-<step>.safetensors`` for each observation, ``metrics.json`` with what the run logged,
and ``verdict.json`` once it was checked. No file names another file, so a damaged or forged one
cannot lead out of the folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.errors import RecordError
from lightning_saliency.record.metrics import METRICS_FILE, read_metrics
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
from lightning_saliency.storage.places import Place, RemotePath, find_place

RUN_FILE = "run.json"
PHOTOS_FILE = "photos.safetensors"
VERDICT_FILE = "verdict.json"
OBSERVATION_FILE = "observation-{:010d}.safetensors"
_OBSERVATIONS = "observation-*.safetensors"


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Facts about a run as a whole.

    Attributes:
        name: The name of the callback.
        fingerprint: The fingerprint of the probe; see :attr:`ProbeBatch.fingerprint`.
        images: The name of each image.
        labels: The true classes of each image; ``None`` if they are not known.
        class_names: The name of each class; ``None`` if they have none.
        areas: For each region, the fraction of the images that it covers.
        rule: The rule of the gradient that is measured.
        reduce: How the channels of that gradient are reduced to one.
        settings: How the run was observed.
        versions: The version of each package.
        commit: The commit of the repository that the run was started in, with ``-dirty`` if there
            were uncommitted changes.
        seed: The argument of ``seed_everything``.
        started: When the run started, in ISO 8601.
        metrics: The last values that the run logged, without those of this package.
        finished: Whether training ended without an error or interruption.
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
        """The name of class ``index``, or its number if it has no name."""
        if self.class_names is not None and index < len(self.class_names):
            return self.class_names[index]
        return str(index)


def encode_run(info: RunInfo) -> bytes:
    """Encode ``info`` as a JSON file."""
    return json_bytes({"schema": SCHEMA, **asdict(info)})


def read_info(path: Place) -> RunInfo:
    """Read the facts that :func:`encode_run` encoded.

    Raises:
        RecordError: The file is missing or damaged, or has another schema.
    """
    data = read_json(path)
    try:
        check_schema(data)
        return decode(RunInfo, data)
    except MISFITS as error:
        raise damaged(path, error) from error


def encode_thumbnails(photos: Tensor) -> bytes:
    """Encode thumbnails of a probe, ``(N, h, w, 3)`` uint8, as a safetensors file."""
    return tensor_bytes({"schema": SCHEMA}, {"photos": photos})


def read_thumbnails(path: Place) -> Tensor:
    """Read the thumbnails, ``(N, h, w, 3)`` uint8, that :func:`encode_thumbnails` encoded.

    Raises:
        RecordError: The file is missing or damaged, or has another schema.
    """
    metadata, tensors = read_tensors(path)
    try:
        check_schema(metadata)
        check_shapes(tensors, {"photos": (torch.uint8, ("N", "h", "w", 3))})
    except MISFITS as error:
        raise damaged(path, error) from error
    return tensors["photos"]


@dataclass(frozen=True, slots=True)
class Run:
    """A recorded run and the folder that holds it."""

    folder: Place
    info: RunInfo

    def steps(self) -> list[int]:
        """List the steps of the observations, in order."""
        return [read_step(path) for path in observation_files(self.folder)]

    def observation(self, step: int) -> Observation:
        """Read the observation at ``step``.

        Raises:
            RecordError: There is no such observation, it is damaged, or it is of another probe.
        """
        path = self.folder / OBSERVATION_FILE.format(step)
        observation = read_observation(path)
        if len(observation.snapshot.targets) != len(self.info.images):
            raise damaged(path, "its number of images differs from that of the run")
        if set(observation.measured.shares) != set(self.info.areas):
            raise damaged(path, "its regions differ from those of the run")
        if observation.step != step or observation.fingerprint != self.info.fingerprint:
            raise damaged(path, "it belongs to another run or step")
        return observation

    def last(self) -> Observation:
        """Read the last observation, which represents the run in comparisons.

        Raises:
            RecordError: There are no observations, or the last one is damaged.
        """
        steps = self.steps()
        if not steps:
            raise RecordError(f"{self.folder} holds no observations yet")
        return self.observation(steps[-1])

    def metrics(self) -> dict[int, Numbers]:
        """Read what the run had logged at each step; empty for a run that recorded none.

        Raises:
            RecordError: The file is damaged.
        """
        path = self.folder / METRICS_FILE
        return read_metrics(path) if path.is_file() else {}

    def photos(self) -> Tensor:
        """Read the thumbnails of the probe, ``(N, h, w, 3)`` uint8.

        Raises:
            RecordError: The file is missing, damaged, or of another probe.
        """
        photos = read_thumbnails(self.folder / PHOTOS_FILE)
        if len(photos) != len(self.info.images):
            raise damaged(
                self.folder / PHOTOS_FILE, "its number of images differs from that of the run"
            )
        return photos


def open_run(path: str | PathLike[str] | RemotePath) -> Run:
    """Open the run in a log folder, or in the callback's own folder within it.

    Args:
        path: The folder, or its URL; see :func:`find_place`.

    Raises:
        RecordError: There is no run, there are several, or its ``run.json`` is damaged.
        OSError: The folder cannot be read.
    """
    path = find_place(path)
    if not path.is_dir():
        raise RecordError(f"{path} is not a folder; pass the log folder of a run")
    if (path / RUN_FILE).is_file():
        return Run(path, read_info(path / RUN_FILE))
    found = sorted((file.parent for file in path.glob(f"*/{RUN_FILE}")), key=str)
    if not found:
        raise RecordError(
            f"no recorded run in {path}: it holds neither {RUN_FILE} nor a folder with one. A run "
            "with `SaliencyCallback(record=True)` writes it into its logger's folder"
        )
    if len(found) > 1:
        names = ", ".join(str(folder) for folder in found)
        raise RecordError(f"{path} holds several recorded runs; pass one of {names}")
    return Run(found[0], read_info(found[0] / RUN_FILE))


def observation_files(folder: Place) -> list[Place]:
    """List the observation files in a folder, in the order of their steps."""
    return sorted((p for p in folder.glob(_OBSERVATIONS) if read_step(p) >= 0), key=read_step)


def read_step(path: Place) -> int:
    """Read the step from the name of an observation file; -1 for any other file."""
    digits = path.stem.removeprefix("observation-")
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) <= 16 else -1
