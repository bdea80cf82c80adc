"""Use the installed package as a new user would; `release.py` runs this in an empty environment.

    python -I tests/support/smoke.py

It writes into the current folder, and imports nothing else from this repository.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from tensorboard.default import get_dynamic_plugins
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_saliency
from lightning_saliency import SaliencyCallback, explain
from lightning_saliency.record.run import open_run

COMMAND = str(Path(sys.executable).with_name("lightning-saliency"))


class Net(pl.LightningModule):
    """A small network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(images)).mean(dim=(2, 3)))

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor], _: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def check_place() -> None:
    """The package that is tested must be the installed one."""
    place = Path(lightning_saliency.__file__).resolve()
    if Path(sys.prefix).resolve() not in place.parents:
        sys.exit(f"lightning_saliency is not that of {sys.prefix}: it is not installed there.")
    assert (place.parent / "py.typed").is_file()


def fit(folder: Path) -> Path:
    """Train two epochs on random images; return the folder of the run."""
    data = TensorDataset(torch.randn(32, 3, 16, 16), torch.arange(32) % 4)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=SaliencyCallback(),
        enable_progress_bar=False,
        log_every_n_steps=1,
    )
    trainer.fit(Net(), DataLoader(data, batch_size=8), DataLoader(data, batch_size=8))
    return Path(trainer.logger.log_dir)


def main() -> None:
    """Try each door once."""
    check_place()
    explanation = explain(Net(), torch.randn(2, 3, 16, 16), targets=[0, 1])
    assert explanation.attributions["guided_backprop"].isfinite().all()
    assert "report" in _call("--help")

    run = fit(Path.cwd())
    assert len(open_run(run).steps()) >= 3  # the untrained network and two epochs
    _call("report", str(run), "-o", "report.html")
    assert "<script" in Path("report.html").read_text()
    assert any(plugin.__name__ == "SaliencyLoader" for plugin in get_dynamic_plugins())

    names = ("lightning-saliency", "torch", "torchvision", "pytorch-lightning", "numpy")
    print("smoke test passed:", ", ".join(f"{name} {version(name)}" for name in names))


def _call(*arguments: str) -> str:
    return subprocess.run(
        [COMMAND, *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


if __name__ == "__main__":
    main()
