"""Datasets whose images lie in a file, which is opened on the first read."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

SIDE = 12
IMAGE_BYTES = 3 * SIDE * SIDE * 4


class Stored(Dataset[tuple[Tensor, int]]):
    """Images of one value each, its position, in a file that is opened on the first read."""

    def __init__(self, path: Path, count: int) -> None:
        self.path, self.count, self.reads = path, count, 0
        self.targets = [position % 4 for position in range(count)]
        self.file: Any = None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if self.file is None:
            self.file = self.open()
        self.reads += 1
        pixels = np.frombuffer(self.read(position), "f4").reshape(3, SIDE, SIDE)
        return torch.from_numpy(pixels.copy()), self.targets[position]

    def open(self) -> Any:
        raise NotImplementedError

    def read(self, position: int) -> bytes:
        raise NotImplementedError


class Zipped(Stored):
    def open(self) -> Any:
        return zipfile.ZipFile(self.path)

    def read(self, position: int) -> bytes:
        return self.file.read(f"{position}.raw")


class Plain(Stored):
    def open(self) -> Any:
        return self.path.open("rb")

    def read(self, position: int) -> bytes:
        self.file.seek(position * IMAGE_BYTES)
        return self.file.read(IMAGE_BYTES)


class Mapped(Stored):
    def open(self) -> Any:
        return np.memmap(self.path, "f4", "r", shape=(self.count, 3, SIDE, SIDE))

    def read(self, position: int) -> bytes:
        return self.file[position].tobytes()


class Needy(Zipped):
    """Opens its file only in a worker, by :func:`open_in_worker`."""

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        if self.file is None:
            raise RuntimeError("the file is opened by `worker_init_fn`")
        return super().__getitem__(position)


def open_in_worker(worker: int) -> None:
    dataset = torch.utils.data.get_worker_info().dataset  # type: ignore[union-attr]
    dataset = getattr(dataset, "dataset", dataset)  # of a subset
    dataset.file = dataset.open()


def store(kind: type[Stored], folder: Path, count: int = 40) -> Any:
    """Write images to a file in ``folder``, and return a dataset of them."""
    folder.mkdir(parents=True, exist_ok=True)
    images = (
        np.ones((count, 3, SIDE, SIDE), "f4") * np.arange(count, dtype="f4")[:, None, None, None]
    )
    if issubclass(kind, Zipped):
        path = folder / "images.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for position, image in enumerate(images):
                archive.writestr(f"{position}.raw", image.tobytes())
    else:
        path = folder / "images.raw"
        images.tofile(path)
    return kind(path, count)
