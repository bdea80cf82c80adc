"""Kinds of data: items, labels, batches, loaders and what becomes of them on their way."""

from __future__ import annotations

import enum
import tempfile
import zipfile
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from situations import (
    ASKS,
    CLASSES,
    COUNT,
    REFUSES,
    SAYS,
    SIDE,
    Items,
    Net,
    Situation,
    images,
    labels,
    load,
    shown,
)
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torchvision import tv_tensors

from lightning_saliency import ProbeBatch

X, Y = images(), labels()
PAIR = TensorDataset(X, Y)


def reading(read: Callable[[Any], tuple[Any, Tensor]], **known: Any) -> Callable[[], Net]:
    """Build modules that read their batches with ``read``."""

    class Reading(Net):
        def read(self, batch: Any) -> tuple[Any, Tensor]:
            return read(batch)

    return lambda: Reading(**known)


def items(item: Callable[[int], Any], **attributes: Any) -> Callable[[], dict[str, Any]]:
    """Build loaders of items that are made by ``item(index)``."""
    return lambda: load(Items(item, **attributes))


def with_probe(count: int = 4) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Follow the advice to pass the images and the labels."""
    return lambda data: {"probe": ProbeBatch(X[:count], Y[:count])}


def from_first_batch(data: dict[str, Any]) -> dict[str, Any]:
    """Follow the advice to take the first batch of a loader."""
    return {"probe": ProbeBatch.from_batch(next(iter(data["train_dataloaders"])))}


PROBE = "`probe=ProbeBatch(images, labels)`"

# --- Items.

Pair = namedtuple("Pair", "image label")


@dataclass
class Sample:
    """A batch or an item of a class of one's own."""

    image: Tensor
    label: Tensor

    def to(self, device: Any) -> Sample:
        """Move it, as Lightning asks of it."""
        return Sample(self.image.to(device), self.label.to(device))


def collate_samples(samples: list[Sample]) -> Sample:
    return Sample(torch.stack([s.image for s in samples]), torch.stack([s.label for s in samples]))


TUPLES = (
    Situation("pairs `(image, label)`, in a `TensorDataset`", data=lambda: load(PAIR)),
    Situation("pairs `(image, label)`", data=items(lambda i: (X[i], int(Y[i])))),
    Situation("pairs, and `dataset.targets`", data=items(lambda i: (X[i], int(Y[i])), targets=Y)),
    Situation("`(image, label, index)`", data=items(lambda i: (X[i], int(Y[i]), i))),
    Situation(
        "`(index, image, label)`, and `dataset.targets`",
        reading(lambda b: (b[1], b[2])),
        items(lambda i: (i, X[i], int(Y[i])), targets=Y.tolist()),
    ),
    Situation(
        "`(image, index, label)`, and `dataset.targets`",
        reading(lambda b: (b[0], b[2])),
        items(lambda i: (X[i], i, int(Y[i])), targets=Y.tolist()),
    ),
    Situation(
        "`(image, index, label)`",
        reading(lambda b: (b[0], b[2])),
        items(lambda i: (X[i], i, int(Y[i]))),
    ),
    Situation(
        "`(image, box, label)`",
        reading(lambda b: (b[0], b[2])),
        items(lambda i: (X[i], torch.tensor([0.1, 0.2, 0.5, 0.9]), int(Y[i])), targets=Y),
    ),
    Situation(
        "`(image, {'y': label})`",
        reading(lambda b: (b[0], b[1]["y"])),
        items(lambda i: (X[i], {"y": int(Y[i])})),
    ),
    Situation(
        "`(image, (label, index))`",
        reading(lambda b: (b[0], b[1][0])),
        items(lambda i: (X[i], (int(Y[i]), i)), targets=Y),
    ),
    Situation(
        "named tuples",
        reading(lambda b: (b.image, b.label)),
        items(lambda i: Pair(X[i], int(Y[i]))),
    ),
    Situation(
        "dataclasses, with a `collate_fn`",
        reading(lambda b: (b.image, b.label)),
        lambda: load(Items(lambda i: Sample(X[i], Y[i])), collate_fn=collate_samples),
    ),
)

DICTS = (
    Situation(
        "`{'image', 'label'}`",
        reading(lambda b: (b["image"], b["label"])),
        items(lambda i: {"image": X[i], "label": int(Y[i])}),
    ),
    Situation(
        "`{'pixel_values', 'labels'}`",
        reading(lambda b: (b["pixel_values"], b["labels"])),
        items(lambda i: {"pixel_values": X[i], "labels": int(Y[i])}),
    ),
    Situation(
        "`{'idx', 'image', 'gt'}`, and `dataset.targets`",
        reading(lambda b: (b["image"], b["gt"])),
        items(lambda i: {"idx": i, "image": X[i], "gt": int(Y[i])}, targets=Y.tolist()),
    ),
    Situation(
        "`{'mask', 'image', 'label'}`, the mask first",
        reading(lambda b: (b["image"], b["label"])),
        items(lambda i: {"mask": X[i, :1].round(), "image": X[i], "label": int(Y[i])}),
    ),
    Situation(
        "`{'image', 'coarse_label', 'fine_label'}`, and `dataset.targets`",
        reading(lambda b: (b["image"], b["fine_label"])),
        items(
            lambda i: {"image": X[i], "coarse_label": int(Y[i] > 1), "fine_label": int(Y[i])},
            targets=Y,
        ),
    ),
    Situation(
        "`{'image', 'coarse_label', 'fine_label'}`",
        reading(lambda b: (b["image"], b["fine_label"])),
        items(lambda i: {"image": X[i], "coarse_label": int(Y[i] > 1), "fine_label": int(Y[i])}),
        ASKS,
        says="coarse_label",
        remedy=PROBE,
        options=with_probe(),
    ),
)

# --- Labels.

HOT = F.one_hot(Y, CLASSES)
SEVERAL = HOT.clone()
SEVERAL[:, 0] = 1  # every image is also of the first class


class Bce(Net):
    """Several labels per image, or a single yes or no."""

    def loss(self, batch: Any) -> Tensor:
        x, y = self.read(batch)
        return F.binary_cross_entropy_with_logits(self(x), y.float().reshape(len(y), -1))


def hot(several: Tensor) -> Callable[[ProbeBatch], Tensor]:
    """Find the labels of a probe's images among those of the data."""
    return lambda probe: several[[_index(image) for image in probe.images]]


def _index(image: Tensor) -> int:
    return int((image == X).flatten(1).all(dim=1).nonzero()[0, 0])


def sigmoid(module: Any, probe: ProbeBatch) -> Tensor:
    return module(probe.images).sigmoid()


def two_classes(module: Any, probe: ProbeBatch) -> Tensor:
    """The probabilities of classes 0 and 1 by a single logit."""
    chance = module(probe.images).sigmoid()
    return torch.cat([1 - chance, chance], dim=1)


YES = (Y == 1).long()


def yes(probe: ProbeBatch) -> Tensor:
    return (shown(probe.displayed()) == 1).long()


def binary(kind: str, answers: Tensor, **changed: Any) -> Situation:
    """One logit, and labels that are yes or no."""
    known = {"truth": yes, "chances": two_classes, **changed}
    return Situation(kind, lambda: Bce(outputs=1), lambda: load(TensorDataset(X, answers)), **known)


LABELS = (
    Situation(
        "several labels, float `(C,)` of 0 and 1",
        Bce,
        lambda: load(TensorDataset(X, SEVERAL.float())),
        truth=hot(SEVERAL),
        chances=sigmoid,
    ),
    Situation(
        "several labels, int64 `(C,)` of 0 and 1",
        Bce,
        lambda: load(TensorDataset(X, SEVERAL)),
        truth=hot(SEVERAL),
        chances=sigmoid,
    ),
    Situation(
        "several labels, bool `(C,)`",
        Bce,
        lambda: load(TensorDataset(X, SEVERAL.bool())),
        truth=hot(SEVERAL),
        chances=sigmoid,
    ),
    binary("one logit, float labels `()`", YES.float()),
    binary("one logit, float labels `(1,)`", YES.float()[:, None]),
    binary("one logit, int64 labels", YES),
    binary("one logit, bool labels", YES.bool()),
    Situation(
        "labels that start at 1",
        lambda: Net(outputs=CLASSES + 1),
        lambda: load(TensorDataset(X, Y + 1)),
        truth=lambda probe: shown(probe.displayed()) + 1,
    ),
    Situation(
        "labels beyond the model's classes, in validation data",
        Net,
        lambda: load(PAIR, DataLoader(TensorDataset(X, Y + 9), 8)),
        REFUSES,
        says="label",
        remedy=PROBE,
        options=with_probe(),
        trainer=lambda: {"limit_val_batches": 0, "num_sanity_val_steps": 0},
    ),
    Situation(
        "images that are unlabelled, -1",
        reading(lambda b: (b[0], b[1].clamp(min=0))),
        lambda: load(TensorDataset(X, torch.full((COUNT,), -1))),
        truth=lambda probe: torch.zeros(len(probe), CLASSES),
        chances=None,
    ),
    Situation(
        "images alone",
        reading(lambda b: (b[0], shown(b[0]))),
        lambda: load(TensorDataset(X)),
        truth=lambda probe: torch.zeros(len(probe), CLASSES),
        chances=None,
    ),
)


# --- Class names and other objects that must not end up in a checkpoint.


class Animal(str, enum.Enum):
    """Class names as an enumeration."""

    CAT = "cat"
    DOG = "dog"
    COW = "cow"


class Meta(Tensor):
    """A tensor that carries information, as those of medical imaging do."""


def named(classes: Any) -> Callable[[], dict[str, Any]]:
    return items(lambda i: (X[i], int(Y[i])), targets=Y, classes=classes)


OBJECTS = (
    Situation("`dataset.classes` of `str`", data=named(["cat", "dog", "cow"])),
    Situation("`dataset.classes` of numpy strings", data=named(np.array(["cat", "dog", "cow"]))),
    Situation("`dataset.classes` of a str Enum", data=named(list(Animal))),
    Situation(
        "`dataset.targets` as a numpy array", data=items(lambda i: (X[i], Y[i]), targets=Y.numpy())
    ),
    Situation(
        "images of a `Tensor` subclass",
        data=lambda: load(
            PAIR,
            collate_fn=lambda b: (default_collate(b)[0].as_subclass(Meta), default_collate(b)[1]),
        ),
    ),
    Situation(
        "`tv_tensors.Image`",
        data=items(lambda i: (tv_tensors.Image(X[i]), int(Y[i]))),
    ),
)

# --- What images can be.


def pil(index: int) -> tuple[Image.Image, int]:
    array = (X[index].permute(1, 2, 0) * 255).byte().numpy()
    return Image.fromarray(array), int(Y[index])


def collate_pil(found: list[tuple[Image.Image, int]]) -> tuple[Tensor, Tensor]:
    stacked = np.stack([np.asarray(image) for image, _ in found])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2) / 255, torch.tensor([y for _, y in found])


BYTES = (X * 255).byte()


class Scaling(Net):
    """Takes bytes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float() / 255)


def bytes_as_floats(data: dict[str, Any]) -> dict[str, Any]:
    return {"probe": ProbeBatch(BYTES[:4].float(), Y[:4])}


class Video(Net):
    """Takes clips ``(N, T, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


class Volume(Net):
    """Takes volumes ``(N, C, D, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(2))


class Convolved(Net):
    """Convolves volumes and clips ``(N, C, D, H, W)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv3d(3, 4, 3, padding=1)

    def features(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool3d(self.conv(x).relu(), (1, 2, 2)).flatten(1)


class Detector(Net):
    """Takes a list of images, and returns a dict for each."""

    def forward(self, x: list[Tensor]) -> Any:
        return [{"scores": row.softmax(0)} for row in self.head(self.features(torch.stack(x)))]

    def loss(self, batch: Any) -> Tensor:
        found = self.head(self.features(torch.stack(batch[0])))
        return F.cross_entropy(found, torch.cat([target["labels"] for target in batch[1]]))


class Signal(pl.LightningModule):
    """Takes signals ``(N, C, L)``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = torch.nn.Conv1d(3, 4, 5), torch.nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x).relu().mean(2))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.2)


CLIPS = torch.stack([X, X.flip(3), X, X], dim=1)
VOLUMES = torch.stack([X] * 4, dim=2)
SIGNALS = X.flatten(2)

IMAGES = (
    Situation("grey images", lambda: Net(1), lambda: load(TensorDataset(X.mean(1, True), Y))),
    Situation(
        "twelve channels",
        lambda: Net(12),
        lambda: load(TensorDataset(images(channels=12), Y)),
    ),
    Situation(
        "PIL images, with a `collate_fn`", data=lambda: load(Items(pil), collate_fn=collate_pil)
    ),
    Situation(
        "bytes that `forward` scales",
        Scaling,
        lambda: load(TensorDataset(BYTES, Y)),
        ASKS,
        says="uint8",
        remedy="`probe=ProbeBatch(images.float(), labels)`",
        options=bytes_as_floats,
    ),
    Situation(
        "bytes that `forward` scales, in a dict",
        reading(lambda b: (b["image"].float() / 255, b["label"])),
        items(lambda i: {"image": BYTES[i], "label": int(Y[i])}),
        ASKS,
        says="uint8",
        remedy="`probe=ProbeBatch(images.float() / 255, labels)`",
        options=lambda data: {"probe": ProbeBatch(BYTES[:4].float() / 255, Y[:4])},
    ),
    Situation(
        "float64 images, in a run of float32",
        reading(lambda b: (b[0].float(), b[1])),
        lambda: load(TensorDataset(X.double(), Y)),
        chances=lambda module, probe: module(probe.images.float()).softmax(1),
    ),
    Situation(
        "images with NaN",
        reading(lambda b: (b[0].nan_to_num(), b[1])),
        lambda: load(TensorDataset(torch.where(X > 0.8, torch.nan, X), Y)),
        ASKS,
        says="NaN",
        remedy=PROBE,
        options=with_probe(),
    ),
    Situation(
        "clips `(N, C, T, H, W)`",
        Convolved,
        lambda: load(TensorDataset(CLIPS.transpose(1, 2), Y)),
        truth=lambda probe: shown(probe.images[:, :, 0]),
    ),
    Situation(
        "clips `(N, T, C, H, W)`",
        Video,
        lambda: load(TensorDataset(CLIPS, Y)),
        ASKS,
        says=r"`images.transpose\(1, 2\)`",
        remedy="`probe=` with `images.transpose(1, 2)`, `forward=` that transposes them back",
        options=lambda data: {
            "probe": ProbeBatch(CLIPS[:4].transpose(1, 2), Y[:4]),
            "forward": lambda model, images: model(images.transpose(1, 2)),
        },
        truth=lambda probe: shown(probe.images[:, :, 0]),
        chances=lambda module, probe: module(probe.images.transpose(1, 2)).softmax(1),
    ),
    Situation("volumes `(N, C, D, H, W)`", Volume, lambda: load(TensorDataset(VOLUMES, Y))),
    Situation(
        "volumes, of which one slice is drawn",
        Volume,
        lambda: load(TensorDataset(VOLUMES, Y)),
        remedy="`probe=ProbeBatch.from_dataset(dataset, depth='middle')` draws another slice",
        options=lambda data: {
            "probe": ProbeBatch.from_dataset(TensorDataset(VOLUMES, Y), depth="middle")
        },
    ),
    Situation(
        "signals `(N, C, L)`",
        Signal,
        lambda: {"train_dataloaders": DataLoader(TensorDataset(SIGNALS, Y), 8)},
        ASKS,
        says=r"no images.*signals\[:, :, None\]`, with `forward=lambda model, images: model\(",
        remedy="`probe=` with the signals as images of one row, `forward=` that flattens them",
        options=lambda data: {
            "probe": ProbeBatch(SIGNALS[:4, :, None], Y[:4]),
            "forward": lambda model, images: model(images[:, :, 0]),
        },
        truth=None,
        chances=lambda module, probe: module(probe.images[:, :, 0]).softmax(1),
    ),
    Situation(
        "grey images `(N, H, W)`, without channels",
        reading(lambda b: (b[0][:, None], b[1]), channels=1),
        lambda: load(TensorDataset(X.mean(1), Y)),
        ASKS,
        says=r"pass them as `images\[:, None\]`",
        remedy="`probe=ProbeBatch(images[:, None], labels)`, if need be with `forward=`",
        options=lambda data: {"probe": ProbeBatch(X[:4].mean(1, keepdim=True), Y[:4])},
    ),
    Situation(
        "spectrograms `(N, 1, F, T)` in decibels",
        lambda: Net(1),
        lambda: load(TensorDataset(80 * X.mean(1, keepdim=True) - 80, Y)),
    ),
    Situation(
        "lists of images, as detectors take them",
        Detector,
        lambda: load(
            Items(lambda i: (X[i], {"boxes": torch.ones(1, 4), "labels": Y[i : i + 1]})),
            collate_fn=lambda items: tuple(zip(*items, strict=True)),
        ),
        ASKS,
        says="list of images, as detectors take them: pass `probe=ProbeBatch",
        remedy="`probe=ProbeBatch(torch.stack(images), labels)` and `forward=`, as in "
        "[models.md](models.md#detection)",
        options=lambda data: {
            "probe": ProbeBatch(torch.stack(list(X[:4])), Y[:4]),
            "forward": lambda module, images: module.head(module.features(images)),
        },
        chances=lambda module, probe: module.head(module.features(probe.images)).softmax(1),
    ),
)

# --- Hooks that change batches.


class Normalising(Net):
    """Normalises batches on the device."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [(batch[0] - 500) / 250, batch[1]]


class NormalisingData(pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(1000 * X, Y), 8)

    val_dataloader = train_dataloader

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [(batch[0] - 500) / 250, batch[1]]


def large() -> dict[str, Any]:
    return load(TensorDataset(1000 * X, Y))


def normalised(probe: ProbeBatch) -> Tensor:
    """The classes of images that are seen to be normalised."""
    assert float(probe.images.abs().max()) <= 2.1, "the images did not pass the hook"
    return shown(probe.images)


HOOKS = (
    Situation(
        "a module that normalises in `on_after_batch_transfer`",
        Normalising,
        large,
        truth=normalised,
    ),
    Situation(
        "the same, and `probe=ProbeBatch.from_dataset(dataset)`",
        Normalising,
        large,
        options=lambda data: {"probe": ProbeBatch.from_dataset(data["train_dataloaders"].dataset)},
        truth=normalised,
    ),
    Situation(
        "the same, and `probe=ProbeBatch.from_dataloader(loader)`",
        Normalising,
        large,
        options=lambda data: {"probe": ProbeBatch.from_dataloader(data["val_dataloaders"])},
        truth=normalised,
    ),
    Situation(
        "a datamodule that normalises in `on_after_batch_transfer`",
        data=lambda: {"datamodule": NormalisingData()},
        truth=normalised,
    ),
)

# --- Datasets that change when they are read, and loaders of every kind.


def archive() -> Path:
    """A zip file with one image per entry."""
    path = Path(tempfile.gettempdir(), f"situations-{torch.__version__}.zip")
    with zipfile.ZipFile(path, "w") as file:
        for index, image in enumerate(X.numpy()):
            file.writestr(str(index), image.tobytes())
    return path


class Zipped(Items):
    """Opens its archive when it is first read, as datasets for several workers do."""

    def __init__(self) -> None:
        super().__init__(self.read)
        self.path, self.file, self.targets = archive(), None, Y.tolist()

    def read(self, index: int) -> Any:
        self.file = self.file or zipfile.ZipFile(self.path)
        image = np.frombuffer(self.file.read(str(index)), "f4").reshape(3, SIDE, SIDE)
        return torch.from_numpy(image.copy()), self.targets[index]


class Counting(Items):
    """Gives other items each time it is read, as a curriculum does."""

    def __init__(self) -> None:
        super().__init__(self.read)
        self.reads, self.seen = 0, []

    def read(self, index: int) -> Any:
        self.reads += 1
        self.seen.append(index)
        return X[index] + 0.001 * (self.reads % 7), int(Y[index])


class Augmenting(Items):
    """Owns the generator that its augmentations draw from."""

    def __init__(self) -> None:
        super().__init__(self.read)
        self.streams = [np.random.default_rng(0)]

    def read(self, index: int) -> Any:
        return X[index] + 0.01 * float(self.streams[0].random()), int(Y[index])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([(x, int(y)) for x, y in PAIR])


def sizes(index: int) -> tuple[Tensor, int]:
    side = (12, 16, 20)[index % 3]
    return F.interpolate(X[index][None], size=side)[0], int(Y[index])


class Batches:
    """Yields batches, and is no ``DataLoader``."""

    def __iter__(self) -> Iterator[Any]:
        return iter([[X[:8], Y[:8]], [X[8:16], Y[8:16]]])

    def __len__(self) -> int:
        return 2


class BySize(BatchSampler):
    """Batches of images of one size."""

    def __init__(self) -> None:
        self.batches = [list(range(start, COUNT, 3)) for start in range(3)]

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class Sound(Items):
    """Some of its items cannot be read."""

    def __init__(self) -> None:
        super().__init__(self.read, targets=Y.tolist())

    def read(self, index: int) -> Any:
        if index >= 20:
            raise OSError(f"item {index} is damaged")
        return X[index], int(Y[index])


class Split(pl.LightningDataModule):
    """Train and validation data are parts of one dataset, told apart by their samplers."""

    def train_dataloader(self) -> Any:
        return DataLoader(PAIR, 8, sampler=SubsetRandomSampler(range(16)))

    def val_dataloader(self) -> Any:
        return DataLoader(PAIR, 8, sampler=SubsetRandomSampler(range(16, COUNT)))


def held_out(probe: ProbeBatch) -> Tensor:
    """The classes of images that are seen to be validation images."""
    assert all(_index(image) >= 16 for image in probe.images), "training images in the probe"
    return shown(probe.images)


EMPTY = TensorDataset(X[:0], Y[:0])

LOADERS = (
    Situation("a `Subset`", data=lambda: load(Subset(PAIR, range(1, 20)))),
    Situation(
        "a `ConcatDataset`", data=lambda: load(ConcatDataset([PAIR, Items(lambda i: (X[i], Y[i]))]))
    ),
    Situation(
        "splits by `SubsetRandomSampler`", data=lambda: {"datamodule": Split()}, truth=held_out
    ),
    Situation(
        "a `WeightedRandomSampler`",
        data=lambda: load(PAIR, sampler=WeightedRandomSampler([1.0] * COUNT, COUNT)),
    ),
    Situation(
        "images of several sizes, `batch_size=1`",
        data=lambda: load(Items(sizes), batch_size=1),
        outcome=SAYS,
        says="several sizes",
        remedy="explains the images of the most common size",
    ),
    Situation(
        "batches of one size each, by a `batch_sampler`",
        data=lambda: load(Items(sizes), batch_size=1, batch_sampler=BySize()),
        outcome=SAYS,
        says="several sizes",
        remedy="explains the images of the most common size",
    ),
    Situation("a zip file opened at the first read", data=lambda: load(Zipped())),
    Situation(
        "a zip file opened at the first read, two workers",
        data=lambda: load(Zipped(), num_workers=2),
    ),
    Situation(
        "two workers that persist",
        data=lambda: load(PAIR, num_workers=2, persistent_workers=True),
    ),
    Situation("a dataset that counts its reads", data=lambda: load(Counting()), chances=None),
    Situation("a dataset with a generator of its own, in a list", data=lambda: load(Augmenting())),
    Situation(
        "an `IterableDataset`",
        data=lambda: load(Stream()),
        outcome=ASKS,
        says=r"from_batch\(next\(iter\(loader\)\)\)",
        remedy="`probe=ProbeBatch.from_batch(next(iter(loader)))`",
        options=from_first_batch,
    ),
    Situation(
        "an empty validation set",
        data=lambda: load(PAIR, DataLoader(EMPTY, 8)),
    ),
    Situation(
        "two validation sets, the first of them empty",
        data=lambda: load(PAIR, [DataLoader(EMPTY, 8), DataLoader(PAIR, 8)]),
    ),
    Situation(
        "no validation data",
        data=lambda: {"train_dataloaders": DataLoader(PAIR, 8)},
    ),
    Situation(
        "a dict of training loaders",
        reading(lambda b: (torch.cat([b["a"][0], b["b"][0]]), torch.cat([b["a"][1], b["b"][1]]))),
        lambda: {"train_dataloaders": {"a": DataLoader(PAIR, 8), "b": DataLoader(PAIR, 4)}},
    ),
    Situation(
        "items that cannot be read",
        data=lambda: {"train_dataloaders": DataLoader(Subset(Sound(), range(20)), 8)},
    ),
    Situation(
        "a loader that is no `DataLoader`",
        data=lambda: {"train_dataloaders": Batches()},
        outcome=ASKS,
        says="DataLoader",
        remedy=PROBE,
        options=with_probe(),
    ),
)

DATA = (*TUPLES, *DICTS, *LABELS, *OBJECTS, *IMAGES, *HOOKS, *LOADERS)
