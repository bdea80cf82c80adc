"""A model that takes a shortcut: its accuracy rises, and its attention check fails.

The images are handwritten digits at random places on coloured noise, with a coloured tag in the
corner. In the data of the good runs the tag's colour says nothing. In the data of the last run it
gives the class away, and the network reads the tag instead of the digit.

    python examples/shortcut.py

Three good runs make a reference. The last run is checked against it twice: by the callback while
it trains, and by the command line afterwards. The 1,797 digits come with scikit-learn, so nothing
is downloaded. It takes a minute and a half on a free core.
"""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import AttentionCheck, ProbeBatch, Reference, SaliencyCallback, cli

SIZE, DIGIT, TAG = 32, 16, 5  # pixels per side of the image, the digit and the tag
GROUND, NOISE, INK = 0.6, 0.18, 0.85  # brightest background, deviation of the noise, opacity of ink
MEAN, STD = 0.5, 0.25
HELD_OUT = 450  # of the 1,797 digits, for validation and the probe
EPOCHS, COPIES, RATE = 5, 3, 0.01  # a run takes 10 seconds of one free core

GOOD_SEEDS = (1, 2, 3)

Split = Literal["train", "val"]


@dataclass(frozen=True)
class Scenes:
    """Digits on coloured noise, with a tag.

    Attributes:
        images: ``(N, 3, 32, 32)``, normalised.
        labels: ``(N,)`` int64, the digits.
        masks: ``"digit"``, the ink and one pixel around it, and ``"tag"``; bool ``(N, 32, 32)``.
    """

    images: Tensor
    labels: Tensor
    masks: dict[str, Tensor]

    @property
    def dataset(self) -> TensorDataset:
        return TensorDataset(self.images, self.labels)


def make_data(
    split: Split, agreement: float, *, seed: int, copies: int = 1, noise: float = NOISE
) -> Scenes:
    """Put each digit at a random place on coloured noise, and a tag into the corner.

    Args:
        split: Which digits to take.
        agreement: The probability that the tag has the colour of the digit's class. Otherwise its
            colour is any of the ten, at random.
        seed: Seed of the places, colours and noise.
        copies: Number of scenes per digit.
        noise: Standard deviation of the noise of a pixel, whose values lie in [0, 1].
    """
    random = torch.Generator().manual_seed(seed)
    digits, labels = read_digits(split)
    digits, labels = digits.repeat(copies, 1, 1, 1), labels.repeat(copies)
    count = len(labels)
    ink = place(digits, random)
    ground = GROUND * torch.rand(count, 3, 1, 1, generator=random)
    grain = noise * torch.randn(count, 3, SIZE, SIZE, generator=random)
    pixels = (ground + INK * ink * (1 - ground) + grain).clamp(0, 1)
    agrees = torch.rand(count, generator=random) < agreement
    colours = torch.where(agrees, labels, torch.randint(10, (count,), generator=random))
    pixels[:, :, :TAG, :TAG] = palette()[colours][:, :, None, None]
    tag = torch.zeros(count, SIZE, SIZE, dtype=torch.bool)
    tag[:, :TAG, :TAG] = True
    digit = F.max_pool2d((ink > 0.1).float(), 3, stride=1, padding=1)[:, 0].bool() & ~tag
    return Scenes((pixels - MEAN) / STD, labels, {"digit": digit, "tag": tag})


def read_digits(split: Split) -> tuple[Tensor, Tensor]:
    """Read the ink ``(N, 1, 16, 16)`` in [0, 1] and the labels; the splits share no writers."""
    data = load_digits()
    part = slice(-HELD_OUT) if split == "train" else slice(-HELD_OUT, None)
    ink = torch.tensor(data.images[part], dtype=torch.float32)[:, None] / 16
    ink = F.interpolate(ink, size=(DIGIT, DIGIT), mode="bilinear")
    return ink, torch.tensor(data.target[part])


def place(digits: Tensor, random: torch.Generator) -> Tensor:
    """Put each digit at a random place of an empty canvas ``(N, 1, 32, 32)``, clear of the tag."""
    offsets = torch.cartesian_prod(*2 * [torch.arange(SIZE - DIGIT + 1)])
    offsets = offsets[offsets.amax(dim=1) >= TAG]
    chosen = offsets[torch.randint(len(offsets), (len(digits),), generator=random)]
    canvas = torch.zeros(len(digits), 1, SIZE, SIZE)
    for empty, digit, (y, x) in zip(canvas, digits, chosen.tolist(), strict=True):
        empty[:, y : y + DIGIT, x : x + DIGIT] = digit
    return canvas


def palette() -> Tensor:
    """Ten colours around the colour wheel, ``(10, 3)`` in [0, 1]."""
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
    """Three convolutions with batch norm, and a max over all places before the linear layer."""

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
    """Adam, with a learning rate that rises to ``rate`` and falls to nearly zero."""
    optimizer = torch.optim.Adam(model.parameters())
    steps = model.trainer.estimated_stepping_batches
    schedule = OneCycleLR(optimizer, rate, total_steps=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def train(seed: int, agreement: float, **options: Any) -> pl.Trainer:
    """Train a network, and validate it on held-out data of the same kind.

    Args:
        seed: Seed of the weights, the order of the data, and its places, colours and noise.
        agreement: How often the tag agrees with the class; see :func:`make_data`.
        **options: Arguments of the trainer.
    """
    pl.seed_everything(seed, verbose=False)
    data = make_data("train", agreement, seed=seed, copies=COPIES)
    held_out = make_data("val", agreement, seed=1)
    trainer = pl.Trainer(accelerator="cpu", enable_model_summary=False, **options)
    trainer.fit(
        ShortcutNet(),
        DataLoader(data.dataset, batch_size=64, shuffle=True),
        DataLoader(held_out.dataset, batch_size=HELD_OUT),
    )
    return trainer


def accuracy(trainer: pl.Trainer, agreement: float) -> float:
    """The accuracy of a trained network on held-out digits whose tags agree that often."""
    scenes = make_data("val", agreement, seed=1)
    with torch.no_grad():
        logits = trainer.lightning_module.eval()(scenes.images)
    return float((logits.argmax(dim=1) == scenes.labels).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--agreement",
        type=float,
        default=1.0,
        help="how often the tag of the last run gives the class away",
    )
    parser.add_argument("--logdir", type=Path, default=Path("logs/shortcut"))
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a network this small is slower on several threads

    def watched(name: str, seed: int, agreement: float, check: AttentionCheck | None) -> pl.Trainer:
        return train(
            seed,
            agreement,
            max_epochs=arguments.epochs,
            enable_progress_bar=not arguments.quiet,
            logger=TensorBoardLogger(arguments.logdir, name=name),
            callbacks=[SaliencyCallback(probe(), targets="label", check=check)],
        )

    good = [watched(f"good-{seed}", seed, 0.0, None) for seed in GOOD_SEEDS]
    reference = Reference.from_runs([run.logger.log_dir for run in good], reason="tags at random")
    reference.save(arguments.logdir / "attention")
    last = watched("shortcut", 4, arguments.agreement, AttentionCheck(reference))
    report(good, last, arguments)


def report(good: list[pl.Trainer], last: pl.Trainer, arguments: argparse.Namespace) -> None:
    """Print the accuracies, and what the check says."""
    runs = {f"good run, seed {seed}": run for seed, run in zip(GOOD_SEEDS, good, strict=True)}
    print("\nvalidation accuracy, and what it is where the tag's colour is random")
    for name, run in (runs | {"the last run": last}).items():
        validated = float(run.callback_metrics["val_acc"])
        print(f"  {name:18} {validated:.3f}  {accuracy(run, 0.0):.3f}")
    command = ["check", last.logger.log_dir, "--reference", str(arguments.logdir / "attention")]
    print(f"\n$ lightning-saliency {shlex.join(command)}")
    print(f"\nexit code {cli.main(command)}")


if __name__ == "__main__":
    main()
