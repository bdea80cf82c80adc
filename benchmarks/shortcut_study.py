"""Can the attention check tell a model that reads a corner tag from one that reads the digit?

    python benchmarks/shortcut_study.py           # trains what is not in the cache, then prints
    python benchmarks/shortcut_study.py --tables  # prints the tables of what is in the cache

It takes a quarter of an hour on a free core. The data and the network are those of
``examples/shortcut.py``. See :mod:`studies`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import studies

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import shortcut


def data(split: shortcut.Split, agreement: float, seed: int, hard: bool) -> studies.Pairs:
    copies = shortcut.COPIES if split == "train" else 1
    noise = 3 * shortcut.NOISE if hard else shortcut.NOISE
    scenes = shortcut.make_data(split, agreement, seed=seed, copies=copies, noise=noise)
    return scenes.images, scenes.labels


def scenario() -> studies.Scenario:
    return studies.Scenario(
        name="tag",
        cue="tag",
        probe=shortcut.probe(per_class=20),
        network=shortcut.ShortcutNet,
        data=data,
        rate=shortcut.RATE,
        epochs=shortcut.EPOCHS,
    )


if __name__ == "__main__":
    studies.main(scenario(), __doc__)
