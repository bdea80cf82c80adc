"""A model that takes a shortcut: its accuracy rises, and its attention check fails.

Handwritten digits at random places on coloured noise, with a coloured tag in the corner. In the
data of the good runs the tag's colour says nothing; in the data of the last run it gives the class
away, and the network reads the tag instead of the digit.

The 1,797 digits come with scikit-learn; nothing is downloaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch

SIZE, DIGIT, TAG = 32, 16, 5  # pixels a side: an image, the digit on it, the tag in its corner
GROUND, NOISE, INK = 0.6, 0.18, 0.85  # brightest background, deviation of its noise, opacity of ink
MEAN, STD = 0.5, 0.25
HELD_OUT = 450  # of the 1,797 digits
EPOCHS, COPIES, RATE = 5, 3, 0.01  # a run takes 10 seconds of one free core

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Scenes:
    """Digits on coloured noise, with a tag.

    Attributes:
        images: ``(N, 3, 32, 32)``, normalised.
        labels: ``(N,)`` int64, the digits.
        masks: ``"digit"``, the ink and a pixel around it, and ``"tag"``, bool ``(N, 32, 32)``.
    """

    images: Tensor
    labels: Tensor
    masks: dict[str, Tensor]

    @property
    def dataset(self) -> TensorDataset:
        return TensorDataset(self.images, self.labels)


def make_data(split: Split, agreement: float, *, seed: int, copies: int = 1) -> Scenes:
    """Put each digit somewhere on a coloured noise of its own, and a tag into the corner.

    Args:
        split: Whose digits.
        agreement: The probability that the tag has the colour of the digit's class; else it has
            any of the ten, at random.
        seed: Of places, colours and noise.
        copies: Scenes of each digit.
    """
    random = torch.Generator().manual_seed(seed)
    digits, labels = read_digits(split)
    digits, labels = digits.repeat(copies, 1, 1, 1), labels.repeat(copies)
    count = len(labels)
    ink = place(digits, random)
    ground = GROUND * torch.rand(count, 3, 1, 1, generator=random)
    noise = NOISE * torch.randn(count, 3, SIZE, SIZE, generator=random)
    pixels = (ground + INK * ink * (1 - ground) + noise).clamp(0, 1)
    agrees = torch.rand(count, generator=random) < agreement
    colours = torch.where(agrees, labels, torch.randint(10, (count,), generator=random))
    pixels[:, :, :TAG, :TAG] = palette()[colours][:, :, None, None]
    tag = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    tag[:, :TAG, :TAG] = True
    digit = F.max_pool2d((ink > 0.1).float(), 3, stride=1, padding=1)[:, 0].bool() & ~tag
    return Scenes((pixels - MEAN) / STD, labels, {"digit": digit, "tag": tag})


def read_digits(split: Split) -> tuple[Tensor, Tensor]:
    """Ink in [0, 1], ``(N, 1, 16, 16)``, and labels; the digits held out are of other writers."""
    data = load_digits()
    part = slice(-HELD_OUT) if split == "train" else slice(-HELD_OUT, None)
    ink = torch.tensor(data.images[part], dtype=torch.float32)[:, None] / 16
    ink = F.interpolate(ink, size=(DIGIT, DIGIT), mode="bilinear")
    return ink, torch.tensor(data.target[part])


def place(digits: Tensor, random: torch.Generator) -> Tensor:
    """Each digit somewhere on an empty canvas, clear of the tag: ``(N, 1, 32, 32)``."""
    offsets = torch.cartesian_prod(*2 * [torch.arange(SIZE - DIGIT + 1)])
    offsets = offsets[offsets.amax(dim=1) >= TAG]
    chosen = offsets[torch.randint(len(offsets), (len(digits),), generator=random)]
    canvas = torch.zeros(len(digits), 1, SIZE, SIZE)
    for empty, digit, (y, x) in zip(canvas, digits, chosen.tolist(), strict=True):
        empty[:, y : y + DIGIT, x : x + DIGIT] = digit
    return canvas


def palette() -> Tensor:
    """Ten colours around the wheel, ``(10, 3)`` in [0, 1]."""
    turns = torch.arange(10)[:, None] / 10 + torch.tensor([0, 1 / 3, 2 / 3])
    return 0.5 + 0.5 * torch.cos(2 * torch.pi * turns)


def probe(per_class: int = 8) -> ProbeBatch:
    """Held-out digits whose tags agree with them, so that a model may use either."""
    scenes = make_data("val", 1.0, seed=2025)
    chosen = torch.cat([(scenes.labels == k).nonzero()[:per_class, 0] for k in range(10)])
    return ProbeBatch(
        scenes.images[chosen],
        scenes.labels[chosen],
        masks={name: mask[chosen] for name, mask in scenes.masks.items()},
        mean=[MEAN] * 3,
        std=[STD] * 3,
    )


class ShortcutNet(pl.LightningModule):
    """Three convolutions with batch norm, and the strongest response of each feature anywhere."""

    def __init__(self, rate: float = RATE) -> None:
        super().__init__()
        self.rate = rate
        stages = [self._stage(3, 16), self._stage(16, 32), self._stage(32, 64)]
        self.features = nn.Sequential(*stages, nn.AdaptiveMaxPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, 10)

    @staticmethod
    def _stage(channels: int, out: int) -> nn.Sequential:
        conv = nn.Conv2d(channels, out, 3, padding=1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        accuracy = (self(images).argmax(dim=1) == labels).float().mean()
        self.log("val_acc", accuracy, prog_bar=True)

    def configure_optimizers(self) -> dict[str, Any]:
        return one_cycle(self, self.rate)


def one_cycle(model: pl.LightningModule, rate: float) -> dict[str, Any]:
    """Adam, with a learning rate that rises to ``rate`` and falls to nothing."""
    optimizer = torch.optim.Adam(model.parameters())
    steps = model.trainer.estimated_stepping_batches
    schedule = OneCycleLR(optimizer, rate, total_steps=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(seed: int, agreement: float, *, epochs: int = EPOCHS, **options: Any) -> pl.Trainer:
    """Train a network on data of its own, and validate it on held-out data like that.

    Args:
        seed: Of the weights, the order of the data, and the places, colours and noise in it.
        agreement: See :func:`make_data`.
        epochs: Passes over the data.
        **options: Of the trainer.
    """
    pl.seed_everything(seed, verbose=False)
    data = make_data("train", agreement, seed=seed, copies=COPIES)
    held_out = make_data("val", agreement, seed=1)
    trainer = pl.Trainer(max_epochs=epochs, accelerator="cpu", **options)
    trainer.fit(
        ShortcutNet(),
        DataLoader(data.dataset, batch_size=64, shuffle=True),
        DataLoader(held_out.dataset, batch_size=450),
    )
    return trainer
