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

import studies
import torch
from study_runs import Network, Pairs, Recipe, Scenario, first_of_each, place
from torch import Tensor, nn

from lightning_saliency import ProbeBatch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import fit_fashion

SIZE, GARMENT = 40, 28  # pixels a side
COLOURS, NOISE, HARD = 0.6, 0.05, 0.2  # the brightest stripes; standard deviations of the noise
SUBSET = {"train": 4000, "val": 1000}  # of 60,000 and 10,000, so that a run takes ten seconds
MEAN, STD = 0.5, 0.25


def network(recipe: Recipe) -> Network:
    """A residual network with batch norm, 80,000 parameters at the usual width."""
    first, second, third = (round(recipe.width * channels) for channels in (16, 32, 64))
    conv = nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False)
    stem = nn.Sequential(conv, nn.BatchNorm2d(first), nn.ReLU())
    shapes = ((first, first, 1), (first, second, 2), (second, third, 2))
    blocks = [fit_fashion.Block(*shape) for shape in shapes]
    features = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(features, third, recipe)


@lru_cache
def garments(split: str) -> Pairs:
    """Brightness in [0, 1], ``(N, 1, 28, 28)``, and labels."""
    name = {"train": "train", "val": "t10k"}[split]
    images, labels = fit_fashion.read_split(fit_fashion.DEBIAN, name).tensors
    count = SUBSET[split]
    return images[:count] * fit_fashion.STD + fit_fashion.MEAN, labels[:count]


def scenes(
    split: str, agreements: Tensor, seed: int, noise: float = NOISE
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, their labels, and masks of the garments.

    Args:
        split: ``"train"`` or ``"val"``.
        agreements: For each class, the probability that the stripes are those of the class rather
            than random.
        seed: The seed of places, stripes, colours and noise.
        noise: Standard deviation of each pixel, whose range is [0, 1].
    """
    random = torch.Generator().manual_seed(seed)
    bright, labels = garments(split)
    count = len(labels)
    agrees = torch.rand(count, generator=random) < agreements[labels]
    kinds = torch.where(agrees, labels, torch.randint(10, (count,), generator=random))
    stripes = striped(kinds, torch.rand(count, generator=random))
    first, second = COLOURS * torch.rand(2, count, 3, 1, 1, generator=random)
    pixels = first + (second - first) * stripes
    shown = place(bright, SIZE, random)
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


def data(split: str, agreements: Tensor, seed: int, hard: bool) -> Pairs:
    return scenes(split, agreements, seed, HARD if hard else NOISE)[:2]


def probe(per_class: int) -> ProbeBatch:
    images, labels, garment = scenes("val", torch.ones(10), seed=2025)
    chosen = first_of_each(labels, per_class)
    masks = {"garment": garment[chosen], "background": ~garment[chosen]}
    return ProbeBatch(images[chosen], labels[chosen], masks=masks)


def scenario() -> Scenario:
    return Scenario(
        name="background",
        cue="background",
        object="garment",
        probe=probe(per_class=20),
        network=network,
        data=data,
        rate=0.01,
        epochs=5,
        flips=True,
    )


if __name__ == "__main__":
    studies.main(scenario(), __doc__)
