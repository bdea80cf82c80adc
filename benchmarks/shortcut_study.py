"""Can the attention check tell a model that reads a corner tag from one that reads the digit?

    python benchmarks/shortcut_study.py           # trains what is not in the cache, then prints
    python benchmarks/shortcut_study.py --tables  # prints the tables of what is in the cache

It takes a quarter of an hour on a free core. The data and the network are those of
``examples/shortcut.py``. See :mod:`studies`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import studies
from study_runs import Network, Pairs, Recipe, Scenario, conv_features
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import shortcut

COPIES = 2  # scenes per digit


def network(recipe: Recipe) -> Network:
    return Network(*conv_features(recipe.width, nn.AdaptiveMaxPool2d(1)), recipe)


def data(split: shortcut.Split, agreements: Tensor, seed: int, hard: bool) -> Pairs:
    copies = COPIES if split == "train" else 1
    noise = 3 * shortcut.NOISE if hard else shortcut.NOISE
    labels = shortcut.read_digits(split)[1].repeat(copies)
    # `make_data` compares one random number per image with this, so it may differ between images.
    agreement: Any = agreements[labels]
    scenes = shortcut.make_data(split, agreement, seed=seed, copies=copies, noise=noise)
    return scenes.images, scenes.labels


def scenario() -> Scenario:
    return Scenario(
        name="tag",
        cue="tag",
        object="digit",
        probe=shortcut.probe(per_class=20),
        network=network,
        data=data,
        rate=shortcut.RATE,
        epochs=shortcut.EPOCHS,
    )


if __name__ == "__main__":
    studies.main(scenario(), __doc__)
