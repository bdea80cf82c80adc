"""Train a small residual network on Fashion-MNIST and watch where it looks.

    python examples/fit_fashion.py

At its end it prints the command that opens TensorBoard. torchvision downloads the 70,000 pictures
of clothes (31 MB) once. Without a network, run `apt install dataset-fashion-mnist` on Debian or
Ubuntu, or pass `--data` with a folder that holds the four files. It takes about three minutes on
two cores.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import FashionMNIST
from viewing import tell_how_to_view

from lightning_saliency import ProbeBatch, SaliencyCallback

MEAN, STD = 0.2860, 0.3530
DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # files of the package dataset-fashion-mnist

WHAT_TO_DO = """
Fashion-MNIST could not be downloaded: {error}

Either install it as a package, on Debian or Ubuntu, and run this again:

    sudo apt install dataset-fashion-mnist

or fetch its four files from https://github.com/zalandoresearch/fashion-mnist on another machine
and say where they are:

    python examples/fit_fashion.py --data FOLDER
"""


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(channels, out, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(inner)))


class FashionNet(pl.LightningModule):
    """Three residual blocks with batch norm, 80,000 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2))
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(images)).mean(dim=(2, 3)))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        accuracy = (self(images).argmax(dim=1) == labels).float().mean()
        self.log("val_acc", accuracy, prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def read_split(folder: Path, split: str) -> TensorDataset:
    """Read the normalised images and the labels of ``"train"`` or ``"t10k"``, gzipped or not."""
    pixels = _read_bytes(folder / f"{split}-images-idx3-ubyte", header=16)
    labels = _read_bytes(folder / f"{split}-labels-idx1-ubyte", header=8)
    return _dataset(torch.from_numpy(pixels).view(-1, 28, 28), torch.from_numpy(labels).long())


def _read_bytes(path: Path, header: int) -> np.ndarray:
    packed = path.with_name(path.name + ".gz")
    data = gzip.decompress(packed.read_bytes()) if packed.exists() else path.read_bytes()
    return np.frombuffer(data, np.uint8, offset=header).copy()


def _dataset(pixels: Tensor, labels: Tensor) -> TensorDataset:
    return TensorDataset((pixels[:, None].float() / 255 - MEAN) / STD, labels)


def fashion(data: Path | None, root: Path) -> tuple[TensorDataset, TensorDataset]:
    """Training and test data, from the first of these that there is.

    The folder ``data``; the files of Debian's package; a download to ``root``.

    Raises:
        FileNotFoundError: A file is missing in ``data``.
        OSError, RuntimeError: The download failed.
    """
    folder = data or (DEBIAN if DEBIAN.is_dir() else None)
    if folder is not None:
        return read_split(folder, "train"), read_split(folder, "t10k")
    splits = [FashionMNIST(root, train=train, download=True) for train in (True, False)]
    train, test = (_dataset(split.data, split.targets) for split in splits)
    return train, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--logdir", default="logs")
    parser.add_argument("--data", type=Path, help="folder with the four files of Fashion-MNIST")
    parser.add_argument("--root", type=Path, default=Path("data"), help="where to download it to")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    arguments = parser.parse_args()

    try:
        train, test = fashion(arguments.data, arguments.root)
    except FileNotFoundError as error:
        sys.exit(f"{error.filename} is missing: `--data` must be a folder with the four files.")
    except (OSError, RuntimeError) as error:
        sys.exit(WHAT_TO_DO.format(error=error))

    pl.seed_everything(1)
    probe = ProbeBatch.from_dataset(
        test, per_class=1, class_names=FashionMNIST.classes, mean=[MEAN], std=[STD]
    )
    logger = TensorBoardLogger(arguments.logdir, name="fashion")
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        logger=logger,
        enable_progress_bar=not arguments.quiet,
        callbacks=[SaliencyCallback(probe)],
    )
    trainer.fit(
        FashionNet(),
        DataLoader(train, batch_size=128, shuffle=True),
        DataLoader(test, batch_size=500),
    )
    print(f"\nAccuracy on the test data: {trainer.callback_metrics['val_acc']:.1%}")
    tell_how_to_view(logger.log_dir, arguments.logdir)


if __name__ == "__main__":
    main()
