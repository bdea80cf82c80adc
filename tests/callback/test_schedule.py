"""Scalars reach monitors in their own epoch; monitors of what never comes are refused."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
from matrix import Shapes, Touchy, probe
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from lightning_saliency import SaliencyCallback, SaliencyError

pytestmark = pytest.mark.filterwarnings("ignore")


class Looked(pl.Callback):
    """Notes what a monitor would see at the end of validation and of the epoch."""

    def __init__(self) -> None:
        self.at_validation: list[float] = []
        self.at_epoch: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self.at_validation.append(_metric(trainer))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at_epoch.append(_metric(trainer))


def _metric(trainer: pl.Trainer) -> float:
    return float(trainer.callback_metrics.get("saliency/corner.share", float("nan")))


def fit(folder: Any, callbacks: list[pl.Callback], validate: bool = True, **options: Any) -> None:
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
        default_root_dir=folder,
        **options,
    )
    loader = DataLoader(Shapes(16, augment=False), batch_size=8)
    trainer.fit(Touchy(), loader, loader if validate else None)


@pytest.mark.parametrize("validate", [True, False])
def test_a_monitor_sees_the_value_of_its_own_epoch(validate, tmp_path):
    looked = Looked()
    fit(tmp_path, [SaliencyCallback(probe(), at_start=False), looked], validate)
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("saliency/corner.share")
    logged = [event.value for event in events]
    assert [event.step for event in events] == [1, 3, 5]
    assert len(set(logged)) == 3
    if validate:
        assert looked.at_validation == pytest.approx(logged)
    else:  # logged as the epoch ends, before the monitors run
        assert looked.at_epoch == pytest.approx(logged)


def test_early_stopping_and_checkpoints_can_follow_a_share(tmp_path):
    monitor = "saliency/corner.share"
    best = ModelCheckpoint(tmp_path, monitor=monitor, mode="max", filename="{epoch}")
    stopping = EarlyStopping(monitor, mode="max", patience=5)
    fit(tmp_path, [SaliencyCallback(probe()), stopping, best])
    assert 0 < float(best.best_model_score) < 1
    assert float(best.best_model_score) == pytest.approx(float(stopping.best_score))


@pytest.mark.parametrize(
    ("ours", "monitor", "options", "message"),
    [
        pytest.param(
            {"every_n_epochs": 3},
            lambda m: EarlyStopping(m),
            {},
            "EarlyStopping looks at .* every epoch, more often than it is measured .every 3",
            id="early-stopping-every-epoch",
        ),
        pytest.param(
            {"epochs": [0, 2]},
            lambda m: ModelCheckpoint(monitor=m),
            {},
            r"ModelCheckpoint looks at .* more often than it is measured .in the epochs \[0, 2\]",
            id="chosen-epochs",
        ),
        pytest.param(
            {},
            lambda m: ModelCheckpoint(monitor=m, every_n_train_steps=1),
            {},
            "ModelCheckpoint looks at .* within an epoch",
            id="checkpoint-within-an-epoch",
        ),
        pytest.param(
            {},
            lambda m: EarlyStopping(m, check_on_train_epoch_end=False),
            {"val_check_interval": 0.5},
            "EarlyStopping looks at .* within an epoch",
            id="several-validations-an-epoch",
        ),
    ],
)
def test_a_monitor_that_looks_in_vain_is_refused(ours, monitor, options, message, tmp_path):
    callback = SaliencyCallback(probe(), **ours)
    with pytest.raises(SaliencyError, match=message):
        fit(tmp_path, [callback, monitor("saliency/corner.share")], **options)


def test_a_monitor_that_looks_as_seldom_is_accepted(tmp_path):
    seldom = ModelCheckpoint(tmp_path, monitor="saliency/corner.share", every_n_epochs=2)
    fit(tmp_path, [SaliencyCallback(probe(), every_n_epochs=2), seldom])
    assert seldom.best_model_path
