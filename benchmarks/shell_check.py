"""From training to verdict in the shell, on a cue that the check was not tuned on.

    python benchmarks/shell_check.py [--logdir FOLDER]

The images are the digits of :mod:`tint_study` without a tint. The cue is how blurred they are: in
good runs it is random, in the last two it agrees with nine labels in ten and with all of them. It
takes three minutes.
"""

from __future__ import annotations

import argparse
import logging
import math
import subprocess
import sys
from pathlib import Path

import pytorch_lightning as pl
import tint_study
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from study_runs import Recipe, first_of_each
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch, SaliencyCallback

GOOD = 5
AGREEMENTS = {"mostly": 0.9, "always": 1.0}
LEAST, STEP = 0.3, 0.15  # standard deviations of the blur in pixels, from one class to the next
EPOCHS, RATE = 5, 0.01


def scenes(split: str, agreement: float, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Blurred digits, their labels, and masks of the digits."""
    images, labels, digits = tint_study.scenes(split, torch.zeros(10), seed, cast=0.0)
    random = torch.Generator().manual_seed(seed + 1)
    agrees = torch.rand(len(labels), generator=random) < agreement
    levels = torch.where(agrees, labels, torch.randint(10, labels.shape, generator=random))
    for level in range(10):
        chosen = levels == level
        images[chosen] = blur(images[chosen], LEAST + STEP * level)
    return images, labels, digits


def blur(images: Tensor, deviation: float) -> Tensor:
    """Blur images ``(N, C, H, W)`` by a Gaussian."""
    reach = math.ceil(3 * deviation)
    weights = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * deviation**2))
    row = (weights / weights.sum()).expand(images.shape[1], 1, 1, -1)
    padded = F.pad(images, [reach] * 4, mode="reflect")
    once = F.conv2d(padded, row, groups=images.shape[1])
    return F.conv2d(once, row.transpose(2, 3), groups=images.shape[1])


def build_probe() -> ProbeBatch:
    images, labels, digits = scenes("val", 1.0, seed=7)
    chosen = first_of_each(labels, 8)
    return ProbeBatch(images[chosen], labels[chosen], masks={"digit": digits[chosen]})


def train(folder: Path, agreement: float, seed: int) -> Path:
    """Train a network with the callback; return the folder of its log."""
    pl.seed_everything(seed, verbose=False)
    model = tint_study.network(Recipe())
    model.rate = RATE
    data = DataLoader(TensorDataset(*scenes("train", agreement, seed)[:2]), 64, shuffle=True)
    logger = TensorBoardLogger(folder.parent, name=folder.name, version="run")
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=logger,
        callbacks=[SaliencyCallback(build_probe(), every_n_epochs=EPOCHS)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data)
    model.eval()
    for kind, part in (("as trained", agreement), ("blur at random", 0.0)):
        images, labels, _ = scenes("val", part, seed=8)
        with torch.no_grad():
            right = (model(images).argmax(dim=1) == labels).float().mean()
        print(f"{folder.name}: accuracy {right:.3f}, {kind}")
    return folder / "run"


def shell(*arguments: str | Path) -> None:
    """Run ``lightning-saliency`` in a process of its own."""
    print("\n$ lightning-saliency", *arguments, flush=True)
    done = subprocess.run([sys.executable, "-m", "lightning_saliency", *map(str, arguments)])
    print(f"exit code {done.returncode}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--logdir", type=Path, default=Path("logs/blur"))
    folder: Path = parser.parse_args().logdir
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.ERROR)
    good = [train(folder / f"good-{seed}", 0.0, seed) for seed in range(1, GOOD + 1)]
    others = [train(folder / "another", 0.0, 11)]
    others += [train(folder / name, part, 12) for name, part in AGREEMENTS.items()]
    shell("reference", *good, "-o", folder / "attention")
    for run in others:
        shell("check", run, "--reference", folder / "attention")


if __name__ == "__main__":
    main()
