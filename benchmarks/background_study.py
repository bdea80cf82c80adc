"""Can the attention check tell a model that reads the background from one that reads the garment?

    apt install dataset-fashion-mnist               # the data, on Debian or Ubuntu
    python benchmarks/background_study.py           # trains what is not in the cache, then prints
    python benchmarks/background_study.py --tables  # prints the tables of what is in the cache

The images are garments of Fashion-MNIST at random places on stripes. The direction and width of the
stripes may give the class away; their colours never do. It takes half an hour on a free core. See
:mod:`studies`.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import studies
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_saliency import ProbeBatch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import fit_fashion
import shortcut

SIZE, GARMENT = 40, 28  # pixels a side
COLOURS, NOISE, HARD = 0.6, 0.05, 0.2  # the brightest stripes; standard deviations of the noise
SUBSET = {"train": 6000, "val": 2000}  # of 60,000 and 10,000, so that a run takes half a minute
MEAN, STD = 0.5, 0.25


class BackgroundNet(pl.LightningModule):
    """A residual network with batch norm, 80,000 parameters."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        conv = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False)
        stem = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU())
        blocks = [fit_fashion.Block(a, b, s) for a, b, s in ((16, 16, 1), (16, 32, 2), (32, 64, 2))]
        self.features = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def training_step(self, batch: studies.Pairs, _: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> dict[str, Any]:
        return shortcut.one_cycle(self, self.rate)


@lru_cache
def garments(split: str) -> studies.Pairs:
    """Brightness in [0, 1], ``(N, 1, 28, 28)``, and labels."""
    name = {"train": "train", "val": "t10k"}[split]
    images, labels = fit_fashion.read_split(fit_fashion.DEBIAN, name).tensors
    count = SUBSET[split]
    return images[:count] * fit_fashion.STD + fit_fashion.MEAN, labels[:count]


def scenes(
    split: str, agreement: float, seed: int, noise: float = NOISE
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, their labels, and masks of the garments.

    Args:
        split: ``"train"`` or ``"val"``.
        agreement: The probability that the stripes are those of the class rather than random.
        seed: The seed of places, stripes, colours and noise.
        noise: Standard deviation of each pixel, whose range is [0, 1].
    """
    random = torch.Generator().manual_seed(seed)
    bright, labels = garments(split)
    count = len(labels)
    agrees = torch.rand(count, generator=random) < agreement
    kinds = torch.where(agrees, labels, torch.randint(10, (count,), generator=random))
    stripes = striped(kinds, torch.rand(count, generator=random))
    first, second = COLOURS * torch.rand(2, count, 3, 1, 1, generator=random)
    pixels = first + (second - first) * stripes
    shown = place(bright, random)
    garment = shown > 0.05
    pixels = torch.where(garment, shown, pixels)
    pixels = (pixels + noise * torch.randn(pixels.shape, generator=random)).clamp(0, 1)
    return (pixels - MEAN) / STD, labels, garment[:, 0]


def striped(kinds: Tensor, phases: Tensor) -> Tensor:
    """Stripes in five directions and two widths: ``(N, 1, 40, 40)`` in [0, 1]."""
    angles = torch.pi * (kinds % 5) / 5
    periods = torch.where(kinds < 5, 4.0, 7.0)
    y, x = torch.meshgrid(*2 * [torch.arange(SIZE)], indexing="ij")
    along = x * angles.cos()[:, None, None] + y * angles.sin()[:, None, None]
    turns = along / periods[:, None, None] + phases[:, None, None]
    return (0.5 + 0.5 * (2 * torch.pi * turns).sin())[:, None]


def place(bright: Tensor, random: torch.Generator) -> Tensor:
    """Each garment at a random place on a canvas of zeros, ``(N, 1, 40, 40)``."""
    canvas = torch.zeros(len(bright), 1, SIZE, SIZE)
    corners = torch.randint(SIZE - GARMENT + 1, (len(bright), 2), generator=random)
    for empty, garment, (y, x) in zip(canvas, bright, corners.tolist(), strict=True):
        empty[:, y : y + GARMENT, x : x + GARMENT] = garment
    return canvas


def data(split: str, agreement: float, seed: int, hard: bool) -> studies.Pairs:
    return scenes(split, agreement, seed, HARD if hard else NOISE)[:2]


def probe(per_class: int) -> ProbeBatch:
    images, labels, garment = scenes("val", 1.0, seed=2025)
    chosen = torch.cat([(labels == k).nonzero()[:per_class, 0] for k in range(10)])
    masks = {"garment": garment[chosen], "background": ~garment[chosen]}
    return ProbeBatch(images[chosen], labels[chosen], masks=masks)


def scenario() -> studies.Scenario:
    return studies.Scenario(
        name="background",
        cue="background",
        probe=probe(per_class=20),
        network=BackgroundNet,
        data=data,
        rate=0.01,
        epochs=5,
    )


if __name__ == "__main__":
    studies.main(scenario(), __doc__)
