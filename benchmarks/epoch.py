"""What the callback adds to an epoch of a training of the size of CIFAR-10: 50,000 images of 32².

    python benchmarks/epoch.py

A few batches are trained, by Lightning, with the callback as it comes: eight images of the
validation data and all ten classes, at the end of each epoch. The time of all its hooks is compared
with that of a whole epoch, which is the median time of a batch times the number of batches.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from pytorch_lightning.loggers import TensorBoardLogger
from timing import Effort, Stopwatch, table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models.resnet import BasicBlock

from lightning_saliency import SaliencyCallback

IMAGES, BATCH, CLASSES = 50_000, 128, 10
BATCHES = -(-IMAGES // BATCH)


class Classifier(pl.LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        self.log("val_loss", F.cross_entropy(self(images), labels))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def build_resnet20() -> nn.Module:
    """The residual network that its paper trains on CIFAR-10 (He et al. 2015, arXiv:1512.03385)."""

    def block(wide_in: int, wide: int) -> nn.Module:
        if wide_in == wide:
            return BasicBlock(wide, wide)
        shortcut = nn.Sequential(nn.Conv2d(wide_in, wide, 1, 2, bias=False), nn.BatchNorm2d(wide))
        return BasicBlock(wide_in, wide, stride=2, downsample=shortcut)

    widths = (*3 * (16,), *3 * (32,), *3 * (64,))
    blocks = [block(a, b) for a, b in zip((16, *widths), widths, strict=False)]
    stem = (nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def build_resnet18() -> nn.Module:
    """ResNet-18 with the small stem that images of 32² need."""
    network = torchvision.models.resnet18(num_classes=CLASSES)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return network


# With the number of batches to train per epoch.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "ResNet-20 of CIFAR-10": (build_resnet20, 6),
    "ResNet-18, small stem": (build_resnet18, 2),
}


class Clock(pl.Callback):
    """Notes how long each training batch takes, from its start to the start of the next."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds.append(time.perf_counter() - self._start)


HOOKS = [name for name in vars(pl.Callback) if name.startswith("on_")]


def fit(
    network: nn.Module, folder: Path, epochs: int, batches: int, callback: SaliencyCallback | None
) -> tuple[list[float], list[float]]:
    """The seconds of each batch, and those of the callback's hooks in each epoch."""
    clock, stopwatch = Clock(), Stopwatch()
    by_epoch: list[float] = []

    class Turn(pl.Callback):
        def on_train_epoch_start(self, *_: Any) -> None:
            by_epoch.append(stopwatch.seconds.get("hooks", 0.0))

        def on_train_end(self, *_: Any) -> None:
            # This comes before the same hook of the observed callback, which draws film strips.
            by_epoch.append(stopwatch.seconds.get("hooks", 0.0))

    def synthetic(count: int) -> TensorDataset:
        return TensorDataset(torch.rand(count, 3, 32, 32), torch.arange(count) % CLASSES)

    ours = [] if callback is None else [callback]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Turn(), clock, *ours],
    )
    train, val = (
        DataLoader(synthetic(BATCH * n), batch_size=BATCH, shuffle=n > 1) for n in (batches, 1)
    )
    with stopwatch.watching({"hooks": [(callback, name) for name in HOOKS] if callback else []}):
        trainer.fit(Classifier(network), train, val)
    taken = [after - before for before, after in itertools.pairwise(by_epoch)]
    return clock.seconds, taken


def measure(
    build: Callable[[], nn.Module], epochs: int, batches: int
) -> tuple[float, float, float]:
    """The median seconds of a batch without and with the callback, and of its hooks per epoch."""
    torch.manual_seed(0)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    found = []
    for callback in (None, SaliencyCallback()):
        with tempfile.TemporaryDirectory() as folder:
            found.append(fit(build(), Path(folder), epochs, batches, callback))
    (plain, _), (observed, hooks) = found
    # The first batch and the first observation warm up.
    return statistics.median(plain[1:]), statistics.median(observed[1:]), median_after_first(hooks)


def median_after_first(seconds: list[float]) -> float:
    return statistics.median(seconds[1:] or seconds)


def report(effort: Effort) -> str:
    """What one observation per epoch adds to an epoch."""
    rows = []
    networks = list(NETWORKS.items())[: 1 if effort.quick else None]
    for name, (build, batches) in networks:
        plain, observed, hooks = measure(build, 2 if effort.quick else 4, batches)
        epoch = BATCHES * plain
        cells = (f"{plain:.2f} s", f"{observed:.2f} s", f"{epoch:.0f} s", f"{hooks:.2f} s")
        rows.append([name, *cells, f"**{100 * hooks / epoch:.2f} %**"])
    head = ["", "a batch", "a batch, observed run", f"an epoch, {BATCHES} batches", "callback", ""]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer batches of the small network")
    print(report(Effort(quick=parser.parse_args().quick)))


if __name__ == "__main__":
    main()
