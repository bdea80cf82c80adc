"""The training of `fit_digits.py` by LightningCLI, with every parameter in a file.

    pip install "jsonargparse[signatures]"
    python examples/digits_cli.py fit --config examples/config.yaml

`--print_config` prints all parameters with their defaults.
"""

from __future__ import annotations

import pytorch_lightning as pl
from fit_digits import DigitNet, digits
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import DataLoader, Subset


class DigitData(pl.LightningDataModule):
    """4,000 digits for training, 1,000 for validation."""

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:  # noqa: ARG002
        data = digits()
        fifth = [index for index in range(len(data)) if index % 5 == 0]
        others = [index for index in range(len(data)) if index % 5]
        self.train, self.val = Subset(data, others), Subset(data, fifth)

    def train_dataloader(self) -> DataLoader:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(self.val, batch_size=250)


if __name__ == "__main__":
    LightningCLI(DigitNet, DigitData)
