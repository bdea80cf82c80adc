"""The folder of a recorded run: one file per observation, and files about the run itself.

The folder holds ``run.json``, ``photos.safetensors`` with thumbnails of the probe,
``observation-<step>.safetensors`` for each observation, ``metrics.json`` with what the run logged
and with what is left of observations that were thinned out, and ``verdict.json`` once it was
checked. No file names another file, so a damaged or forged one
cannot lead out of the folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

import torch
from torch import Tensor

from lightning_saliency.errors import RecordError
from lightning_saliency.record.facts import (
    OBSERVATION_FILE,
    PHOTOS_FILE,
    RUN_FILE,
    RunInfo,
    read_info,
)
from lightning_saliency.record.finding import find_runs
from lightning_saliency.record.metrics import METRICS_FILE, Numbers, read_metrics
from lightning_saliency.record.observation import Observation, read_observation
from lightning_saliency.storage.decode import MISFITS, SCHEMA, check_schema, check_shapes
from lightning_saliency.storage.files import damaged, read_tensors, tensor_bytes
from lightning_saliency.storage.places import Place, RemotePath, find_place

_OBSERVATIONS = "observation-*.safetensors"
_NAMED = 3  # the most runs that a message names


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
        path: The folder, or its URL; see :func:`find_place`. It may also be the folder that holds
            the log folder, if there is only one run in it; see :func:`find_runs`.

    Raises:
        RecordError: There is no run, there are several, or its ``run.json`` is damaged.
        OSError: The folder cannot be read.
    """
    path = find_place(path)
    if not path.is_dir():
        raise RecordError(f"{path} is not a folder; pass the log folder of a run")
    found = find_runs(path)
    if not found:
        raise RecordError(
            f"no recorded run in {path}: it holds neither {RUN_FILE} nor a folder with one. A run "
            "with `SaliencyCallback(record=True)` writes it into its logger's folder"
        )
    if len(found) > 1:
        names = ", ".join(str(folder) for folder in found[:_NAMED])
        names += f" and {len(found) - _NAMED} more" * (len(found) > _NAMED)
        raise RecordError(f"{path} holds several recorded runs; pass one of {names}")
    return Run(found[0], read_info(found[0] / RUN_FILE))


def observation_files(folder: Place) -> list[Place]:
    """List the observation files in a folder, in the order of their steps."""
    return sorted((p for p in folder.glob(_OBSERVATIONS) if read_step(p) >= 0), key=read_step)


def read_step(path: Place) -> int:
    """Read the step from the name of an observation file; -1 for any other file."""
    digits = path.stem.removeprefix("observation-")
    return int(digits) if digits.isdecimal() and digits.isascii() and len(digits) <= 16 else -1
