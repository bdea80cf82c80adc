"""Can the attention check tell a fine-tuned model that reads a mark from one that does not?

    apt install dataset-fashion-mnist         # the data, on Debian or Ubuntu
    python benchmarks/mark_study.py           # trains what is not in the cache, then prints
    python benchmarks/mark_study.py --tables  # prints the tables of what is in the cache

The cue may be anywhere: a small round sticker at any place of the image, over the garment too,
whose colour may give the class away. The images are garments of Fashion-MNIST on parts of
photographs, 96 pixels a side. The network is SqueezeNet 1.1 as trained on ImageNet, of which all
but the first convolution and four blocks is trained further. See :mod:`studies`.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path

import studies
import torch
import torch.nn.functional as F
from study_runs import Network, Pairs, Recipe, Scenario, first_of_each, place
from torch import Tensor, nn

from lightning_saliency import ProbeBatch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import fit_fashion
import shortcut
import weights

SIZE, GARMENT = 96, 72  # pixels a side
RADIUS = 9  # of a mark, in pixels
IMAGENET = (weights.MEAN, weights.STD)
NOISE, HARD = 0.03, 0.2  # standard deviations of the noise of a pixel, whose range is [0, 1]
SUBSET = {"train": 1000, "val": 240}
PHOTOS = ("astronaut", "chelsea", "coffee", "rocket")  # of scikit-image
FROZEN, WIDER = 9, 6  # SqueezeNet's first modules: a convolution, four or two fire blocks, poolings


def network(recipe: Recipe) -> Network:
    """SqueezeNet with a new head; a recipe of another width trains one more part of it."""
    layers = weights.squeezenet().features
    first = FROZEN if recipe.width == 1 else WIDER
    features = nn.Sequential(*layers[first:], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Network(features, 512, recipe, frozen=layers[:first])


@lru_cache
def garments(split: str) -> Pairs:
    """Brightness in [0, 1], ``(N, 1, 72, 72)``, and labels."""
    name = {"train": "train", "val": "t10k"}[split]
    images, labels = fit_fashion.read_split(fit_fashion.DEBIAN, name).tensors
    bright = images[: SUBSET[split]] * fit_fashion.STD + fit_fashion.MEAN
    sizes = (GARMENT, GARMENT)
    return F.interpolate(bright, sizes, mode="bilinear").clamp(0, 1), labels[: SUBSET[split]]


@lru_cache
def photos() -> list[Tensor]:
    """Photographs in [0, 1], ``(3, H, W)``, at half their size."""
    from skimage import data

    read = [torch.from_numpy(getattr(data, name)()).permute(2, 0, 1) / 255 for name in PHOTOS]
    return [F.avg_pool2d(photo[None], 2)[0] for photo in read]


def scenes(
    split: str, agreements: Tensor, seed: int, noise: float = NOISE
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Normalised images, their labels, and masks of the garments and marks.

    Args:
        split: ``"train"`` or ``"val"``.
        agreements: For each class, the probability that the mark has the colour of the class
            rather than a random one.
        seed: The seed of places, grounds, colours and noise.
        noise: Standard deviation of each pixel, whose range is [0, 1].
    """
    random = torch.Generator().manual_seed(seed)
    bright, labels = garments(split)
    count = len(labels)
    agrees = torch.rand(count, generator=random) < agreements[labels]
    colours = torch.where(agrees, labels, torch.randint(10, (count,), generator=random))
    shown = place(bright, SIZE, random)
    garment = shown > 0.05
    dyes = 0.4 + 0.6 * torch.rand(count, 3, 1, 1, generator=random)
    pixels = torch.where(garment, shown * dyes, 0.5 * cut_grounds(count, random))
    distance = measure_distances(count, random)
    pixels = torch.where(distance < RADIUS, shortcut.palette()[colours][:, :, None, None], pixels)
    pixels = (pixels + noise * torch.randn(pixels.shape, generator=random)).clamp(0, 1)
    mean, std = (torch.tensor(each)[:, None, None] for each in IMAGENET)
    masks = {"garment": garment[:, 0], "mark": (distance < RADIUS + 1)[:, 0]}
    masks["garment"] &= ~masks["mark"]
    return (pixels - mean) / std, labels, masks


def cut_grounds(count: int, random: torch.Generator) -> Tensor:
    """Parts of photographs, ``(count, 3, 96, 96)`` in [0, 1]."""
    grounds = torch.empty(count, 3, SIZE, SIZE)
    chosen = torch.randint(len(PHOTOS), (count,), generator=random).tolist()
    corners = torch.rand(count, 2, generator=random).tolist()
    for ground, which, (down, right) in zip(grounds, chosen, corners, strict=True):
        photo = photos()[which]
        y, x = int(down * (photo.shape[1] - SIZE)), int(right * (photo.shape[2] - SIZE))
        ground.copy_(photo[:, y : y + SIZE, x : x + SIZE])
    return grounds


def measure_distances(count: int, random: torch.Generator) -> Tensor:
    """The distance of each pixel from a random place well inside, ``(count, 1, 96, 96)``."""
    places = torch.randint(RADIUS, SIZE - RADIUS, (2, count, 1, 1), generator=random)
    y, x = torch.meshgrid(*2 * [torch.arange(SIZE)], indexing="ij")
    return ((y - places[0]).square() + (x - places[1]).square()).sqrt()[:, None]


def data(split: str, agreements: Tensor, seed: int, hard: bool) -> Pairs:
    return scenes(split, agreements, seed, HARD if hard else NOISE)[:2]


def probe(per_class: int) -> ProbeBatch:
    images, labels, masks = scenes("val", torch.ones(10), seed=2025)
    chosen = first_of_each(labels, per_class)
    masks = {name: mask[chosen] for name, mask in masks.items()}
    return ProbeBatch(images[chosen], labels[chosen], masks=masks)


def scenario() -> Scenario:
    return Scenario(
        name="mark",
        cue="mark",
        object="garment",
        probe=probe(per_class=10),
        network=network,
        data=data,
        rate=0.002,
        epochs=5,
        flips=True,
    )


if __name__ == "__main__":
    studies.main(scenario(), __doc__)
