"""What a session gives back when a run is over, and how it gets on with unusual trainings."""

from __future__ import annotations

import gc
import pickle
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from matrix import Lazy, Touchy, failing_check, probe
from torch.optim.lr_scheduler import ReduceLROnPlateau
from training import callback, fit, loader, make_module, quiet_trainer, scalars, seen

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError
from lightning_saliency.callback.trainer import inform
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.record.run import open_run


class Failing(Touchy):
    """Fails in its second epoch."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__()
        self.error = error

    def on_train_epoch_end(self) -> None:
        if self.current_epoch:
            raise self.error("as planned")


def _fit(folder: Path, ours: Any) -> tuple[Any, Any]:
    module = Touchy()
    return fit(folder, ours, module=module), module


def _fit_and_fail(error: type[BaseException]) -> Any:
    def failing(folder: Path, ours: Any) -> tuple[Any, Any]:
        module, trainer = Failing(error), quiet_trainer(folder, ours)
        with suppress(RuntimeError, SystemExit, KeyboardInterrupt):
            trainer.fit(module, loader(), loader(16))
        assert trainer.current_epoch == 1
        return trainer, module

    return failing


def _validate(folder: Path, ours: Any) -> tuple[Any, Any]:
    module, trainer = Touchy(), quiet_trainer(folder, ours)
    trainer.validate(module, loader(16), verbose=False)
    return trainer, module


RUNS = [
    pytest.param(_fit, id="fit"),
    pytest.param(_fit_and_fail(RuntimeError), id="exception"),
    pytest.param(_fit_and_fail(KeyboardInterrupt), id="interrupted"),
    pytest.param(_validate, id="validate"),
]


@pytest.mark.parametrize("run", RUNS)
def test_after_a_run_the_callback_holds_neither_model_nor_trainer(run, tmp_path):
    ours = SaliencyCallback(probe(), check=failing_check())
    trainer, module = run(tmp_path, ours)
    assert seen(ours)
    assert not {"log", "log_dict"} & vars(ours).keys()
    assert len(pickle.dumps(ours)) < 100_000
    gone = [weakref.ref(trainer), weakref.ref(module)]
    # A trainer and its module refer to each other. If nothing but the callback is left, both go.
    del trainer, module
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    fit(tmp_path / "again", ours)  # Lightning gives `log` to the callback again


def test_a_model_of_lazy_layers_is_observed_once_it_has_weights(tmp_path):
    ours = callback()
    with pytest.warns(SaliencyWarning, match="^Lazy has lazy layers.* not observed. Run one batch"):
        fit(tmp_path / "lazy", ours, module=Lazy(), num_sanity_val_steps=0)
    assert [caption for caption, _ in seen(ours)] == ["epoch 0", "epoch 1"]
    ours, module = callback(), Lazy()
    module(probe().images)  # the remedy
    fit(tmp_path / "remedied", ours, module=module, num_sanity_val_steps=0)
    assert [caption for caption, _ in seen(ours)] == ["untrained", "epoch 0", "epoch 1"]


class FromAnIterator(Touchy):
    """Takes the iterator over the batches, which Lightning then knows nothing of."""

    def training_step(self, dataloader_iter: Any) -> torch.Tensor:
        batch, _, _ = next(dataloader_iter)
        return F.cross_entropy(self(batch[0]), batch[1])


def test_a_training_step_that_takes_the_iterator(tmp_path):
    ours = SaliencyCallback(probe())
    trainer = fit(tmp_path, ours, module=FromAnIterator(), validate=False)
    assert "saliency/corner.share" in trainer.callback_metrics
    assert seen(ours)[-1][0] == "epoch 1"


def plateau(**options: Any) -> Any:
    """A module whose learning rate follows a share that we measure."""
    module = make_module(__import__("pytorch_lightning"))

    def configure_optimizers() -> dict[str, Any]:
        optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
        scheduler = ReduceLROnPlateau(optimizer, patience=0, threshold=1e9)
        config = {"scheduler": scheduler, "monitor": "saliency/corner.share", **options}
        return {"optimizer": optimizer, "lr_scheduler": config}

    module.configure_optimizers = configure_optimizers
    return module


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({"every_n_epochs": 2}, {}, r"every epoch, more often than .* \(every 2 epochs\)"),
        ({"epochs": [0, 3]}, {}, r"more often than it is measured \(in the epochs \[0, 3\]\)"),
        ({}, {"interval": "step"}, "within an epoch, more often"),
    ],
    ids=["seldom", "listed", "steps"],
)
def test_a_plateau_that_looks_in_vain_is_refused_before_training(ours, theirs, message, tmp_path):
    with pytest.raises(SaliencyError, match=f"^ReduceLROnPlateau looks at .*{message}"):
        fit(tmp_path, SaliencyCallback(probe(), **ours), module=plateau(**theirs))


@pytest.mark.parametrize("validate", [True, False])
def test_a_plateau_can_follow_a_share(validate: bool, tmp_path: Path):
    module = plateau()
    trainer = fit(tmp_path, SaliencyCallback(probe()), module=module, validate=validate)
    # By the threshold no epoch is better than the one before, so that each divides the rate.
    assert trainer.optimizers[0].param_groups[0]["lr"] < 0.1


def test_a_plateau_that_looks_as_seldom_is_accepted(tmp_path):
    module = plateau(frequency=2)
    ours = SaliencyCallback(probe(), every_n_epochs=2)
    fit(tmp_path, ours, module=module, train=loader(16), max_epochs=4)


class TakesBatches(Touchy):
    def forward(self, batch: Any) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(super().forward(images), labels)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return self(batch)

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self(batch))


class TakesNames(Touchy):
    def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs["picture"])

    def loss(self, batch: Any) -> torch.Tensor:
        return F.cross_entropy(self(picture=batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.loss(batch)


class TakesLabels(Touchy):
    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return super().forward(images)

    def loss(self, batch: Any) -> torch.Tensor:
        return F.cross_entropy(self(*batch), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.loss(batch)


class TakesGrey(Touchy):
    """Made for images of one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 8, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[1] != 1:
            raise ValueError(f"one channel, please, not {images.shape[1]}")
        return super().forward(images)

    def loss(self, batch: Any) -> torch.Tensor:
        return F.cross_entropy(self(batch[0][:, :1]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.loss(batch)


UNUSUAL = {
    TakesBatches: lambda module, images: Touchy.forward(module, images),
    TakesNames: lambda module, images: module(picture=images),
    TakesLabels: lambda module, images: module(images, None),
    TakesGrey: lambda module, images: module(images[:, :1]),
}


@pytest.mark.parametrize("module", UNUSUAL, ids=lambda module: module.__name__)
def test_a_module_that_is_called_otherwise_is_told_how_to_be_explained(module, tmp_path):
    ours = {"probe": probe(), "targets": "label"}
    message = (
        rf"^trying {module.__name__} on images of the probe, \(3, 12, 12\) torch.float32, failed"
    )
    with pytest.raises(SaliencyError, match=message) as raised:
        fit(tmp_path / "refused", SaliencyCallback(**ours), module=module(), max_epochs=1)
    assert "pass `forward=lambda model, images: …`" in str(raised.value)
    with pytest.warns(SaliencyWarning, match="preparing to observe failed, training goes on: "):
        trainer = fit(
            tmp_path / "warned", SaliencyCallback(**ours, on_error="warn"), module=module()
        )
    assert trainer.current_epoch == 2
    remedied = SaliencyCallback(**ours, forward=UNUSUAL[module])
    fit(tmp_path / "remedied", remedied, module=module(), max_epochs=1)
    assert [caption for caption, _ in seen(remedied)] == ["untrained", "epoch 0"]


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_mistake_in_an_argument_is_raised_as_it_is(on_error, tmp_path):
    with pytest.raises(ValueError, match=r"^`targets` must be classes from 0 to 3"):
        fit(tmp_path, SaliencyCallback(probe(), targets=[7], on_error=on_error))


def test_a_check_of_a_model_that_could_not_be_tried_is_inconclusive(tmp_path):
    ours = SaliencyCallback(probe(), check=failing_check(), on_error="warn")
    with pytest.warns(SaliencyWarning, match="^INCONCLUSIVE  saliency: the model could not be"):
        fit(tmp_path, ours, module=TakesNames(), max_epochs=1)


def test_a_record_of_double_precision_is_read_back(tmp_path):
    fit(tmp_path, SaliencyCallback(probe()), precision="64-true", max_epochs=1)
    assert open_run(tmp_path).last().caption == "epoch 0"


def test_a_trainer_class_of_the_user_s_own_is_informed_through_lightning_s_logger(caplog):
    class Trainer(pl.Trainer):
        pass

    with caplog.at_level("INFO", logger="pytorch_lightning"):
        inform(Trainer(logger=False, accelerator="cpu"), "the words")
    assert ("pytorch_lightning.saliency", "the words") in [
        (record.name, record.message) for record in caplog.records
    ]


class OneLogit(Touchy):
    """Squeezes its one logit, which drops the batch axis of a single image too."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8 * 9, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images).squeeze()

    def loss(self, batch: Any) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1].gt(1).float())

    def validation_step(self, batch: Any, _: int) -> None:
        self.loss(batch)


def test_a_model_that_squeezes_its_output_is_right_for_any_batch_but_one_of_one_image(tmp_path):
    ours = SaliencyCallback(ProbeBatch(probe().images))
    fit(tmp_path / "four", ours, module=OneLogit(), max_epochs=1)
    assert [caption for caption, _ in seen(ours)] == ["untrained", "epoch 0"]
    for options in ({"probe": ProbeBatch(probe().images[:1])}, {"chunk_size": 1}):
        single = SaliencyCallback(**{"probe": ProbeBatch(probe().images), **options})
        with pytest.raises(SaliencyError, match="does the model squeeze its output"):
            fit(tmp_path / "one", single, module=OneLogit(), max_epochs=1)


def test_the_record_holds_what_the_run_had_logged_at_each_observation(tmp_path):
    fit(tmp_path, SaliencyCallback(probe(), every_n_epochs=2), max_epochs=5)
    run = open_run(tmp_path)
    assert [run.observation(step).epoch for step in run.steps()] == [-1, 1, 3, 4]
    metrics = run.metrics()
    assert list(metrics) == run.steps()[1:]
    logged = {tag: dict(found) for tag, found in scalars(tmp_path).items()}
    for step, found in metrics.items():
        assert found["val_acc"] == pytest.approx(logged["val_acc"][step])
    assert metrics[run.steps()[-1]] == run.info.metrics
