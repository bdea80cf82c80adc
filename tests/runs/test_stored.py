"""A training on data in a file that is opened on the first read does not notice a callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from matrix import Touchy, differences, run_state
from stored import Mapped, Needy, Plain, Zipped, open_in_worker, store
from torch.utils.data import DataLoader, random_split
from training import quiet_trainer

from lightning_saliency import ProbeBatch, SaliencyCallback

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


class Reading(Touchy):
    """Fails if an image is not the one that was asked for, which tells its label."""

    def check(self, batch: Any) -> None:
        values = batch[0].flatten(1)
        assert bool((values == values[:, :1]).all())
        assert torch.equal(values[:, 0].long() % 4, batch[1])

    def training_step(self, batch: Any, index: int) -> Any:
        self.check(batch)
        return super().training_step([batch[0] / 40, batch[1]], index)

    def validation_step(self, batch: Any, index: int) -> None:
        self.check(batch)
        super().validation_step(batch, index)


def train(kind: Any, folder: Path, *, observed: str, workers: int, context: str | None) -> Any:
    """Train on a split of one dataset; return all in which runs can differ."""
    data = store(kind, folder)
    pl.seed_everything(7)
    parts = random_split(data, [24, 16])
    options = {"num_workers": workers, "multiprocessing_context": context}
    options |= {"worker_init_fn": open_in_worker if kind is Needy else None}
    train, val = (DataLoader(part, batch_size=8, **options) for part in parts)
    probes = {
        "automatic": lambda: None,
        "from_dataset": lambda: ProbeBatch.from_dataset(parts[1]),
        "from_dataloader": lambda: ProbeBatch.from_dataloader(val, 4),
    }
    ours = []
    if observed:
        ours = [SaliencyCallback(probes[observed](), targets="label", tile_size=24)]
    module = Reading()
    trainer = quiet_trainer(folder, *ours, max_epochs=1)
    trainer.fit(module, train, val)
    for observer in ours:
        values = observer.probe.images.flatten(1)
        assert bool((values == values[:, :1]).all())
        assert torch.equal(values[:, 0].long() % 4, observer.probe.labels)
        assert set(values[:, 0].long().tolist()) <= set(parts[1].indices)
    return {**run_state(trainer, module), "reads": data.reads, "open": data.file is not None}


@pytest.mark.parametrize(
    ("kind", "workers", "context"),
    [
        pytest.param(Zipped, 0, None, id="zip"),
        pytest.param(Zipped, 2, "fork", id="zip-fork"),
        pytest.param(Zipped, 1, "spawn", id="zip-spawn"),
        pytest.param(Plain, 2, "fork", id="plain-fork"),
        pytest.param(Mapped, 1, "fork", id="mapped-fork"),
        pytest.param(Needy, 1, "fork", id="opened-by-worker_init_fn"),
    ],
)
def test_data_that_are_opened_on_the_first_read(
    kind: Any, workers: int, context: str | None, tmp_path: Path
):
    alone = train(kind, tmp_path / "alone", observed="", workers=workers, context=context)
    # Starting processes by `spawn` takes seconds each.
    ways = ["automatic", "from_dataloader"] if context == "fork" else ["automatic"]
    # Some datasets cannot be read without a worker.
    for way in ways if kind is Needy or context == "spawn" else [*ways, "from_dataset"]:
        seen = train(kind, tmp_path / way, observed=way, workers=workers, context=context)
        assert differences(alone, seen) == []
