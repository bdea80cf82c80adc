"""Short real trainings, and functions that read what they leave behind."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import pytorch_lightning.loggers
import torch
import torch.nn.functional as F
from matrix import CLASSES, Shapes, Touchy
from matrix import run_state as run_state
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_saliency import ProbeBatch, SaliencyCallback
from lightning_saliency.callback.filmstrips import _list_sources, _read
from lightning_saliency.record.observation import Snapshot

BATCHES = 5  # in one epoch of `loader()`

# Names of images that must not lead out of the folder of a run, nor get lost in a logger.
HOSTILE = ("../../../escaped", "/tmp/absolute", "a/b", "😀", "line\nbreak", "x" * 300, "..", "~")


def quiet_trainer(folder: Path, *callbacks: Any, namespace: Any = pl, **options: Any) -> Any:
    """A trainer without bars that logs to TensorBoard, directly in ``folder``."""
    options.setdefault("logger", namespace.loggers.TensorBoardLogger(folder, name="", version=""))
    return namespace.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "default_root_dir": folder,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "callbacks": list(callbacks),
            **options,
        }
    )


def loader(count: int = 8 * BATCHES, **options: Any) -> DataLoader[Any]:
    """Batches of eight; always the same ones."""
    return DataLoader(Shapes(count, augment=False), batch_size=8, **options)


def fit(
    folder: Path,
    *callbacks: Any,
    module: Any = None,
    train: Any = None,
    val: Any = None,
    validate: bool = True,
    ckpt_path: Any = None,
    **options: Any,
) -> Any:
    """Train, by default two epochs of five batches with a validation after each."""
    trainer = quiet_trainer(folder, *callbacks, **options)
    if val is None and validate:
        val = loader(16)
    trainer.fit(module or Touchy(), train or loader(), val, ckpt_path=ckpt_path)
    return trainer


def one_image(**known: Any) -> ProbeBatch:
    """A probe of one image, for tests in which the pictures do not matter."""
    return ProbeBatch.from_dataset(Shapes(16, augment=False), count=1, **known)


def callback(**options: Any) -> SaliencyCallback:
    """A callback with one image and one class, the cheapest to observe."""
    return SaliencyCallback(**{"probe": one_image(), "targets": "label", "tile_size": 24} | options)


def seen(callback: Any) -> list[tuple[str, int]]:
    """What a callback has observed and at which step, as far as it can show it."""
    return [(snapshot.caption, snapshot.step) for snapshot in shown(callback)]


def shown(callback: Any) -> list[Snapshot]:
    """The snapshots of a callback, from the record or its state; film strips show some of them."""
    return _read(_list_sources(callback._session.history))


def pictures(folder: Path) -> dict[str, dict[int, bytes]]:
    """The encoded pictures in an event folder by tag and step, in the order of the steps.

    Raises:
        AssertionError: Two pictures of one tag stand at one step: one of them would be hidden.
    """
    found: defaultdict[str, dict[int, bytes]] = defaultdict(dict)
    events = _events(folder)
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            assert event.step not in found[tag], f"two pictures of {tag!r} at step {event.step}"
            found[tag][event.step] = event.encoded_image_string
    return {tag: dict(sorted(by_step.items())) for tag, by_step in found.items()}


def steps(folder: Path, prefix: str = "saliency/") -> list[int]:
    """The steps of the pictures under ``prefix``, which must be the same for each tag."""
    by_tag = {tag: list(p) for tag, p in pictures(folder).items() if tag.startswith(prefix)}
    assert len(set(map(tuple, by_tag.values()))) <= 1, by_tag
    return next(iter(by_tag.values()), [])


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Steps and values in an event folder by tag, without those that the callback adds."""
    events = _events(folder)
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in sorted(events.Tags()["scalars"])
        if not tag.startswith("saliency")
    }


def _events(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()


class Listed(Dataset[Any]):
    """Whatever items a test needs."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def make_module(namespace: Any) -> Any:
    """A module of ``pytorch_lightning`` or of ``lightning.pytorch``."""

    class Tiny(namespace.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(F.relu(self.conv(images)).mean(dim=(2, 3)))

        def training_step(self, batch: Any, _: int) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Tiny()
