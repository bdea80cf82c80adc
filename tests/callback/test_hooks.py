"""The callback in a real trainer: when it observes, what it accepts and what it refuses."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from typing import Any

import lightning.pytorch as new_namespace
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matrix import CLASSES, Manual, Shapes, Touchy
from older import skip_unless_foreign_callbacks_are_taken
from PIL import Image
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor, nn
from training import (
    callback,
    fit,
    loader,
    make_module,
    one_image,
    pictures,
    quiet_trainer,
    run_state,
    scalars,
    seen,
    shown,
    steps,
)

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.lightning import SaliencyCallback as NewCallback

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


# --- when

UNTRAINED = ("untrained", 0)


@pytest.mark.parametrize(
    ("ours", "options", "expected"),
    [
        pytest.param(
            {}, {}, [UNTRAINED, *[(f"epoch {e}", 5 * e + 4) for e in range(4)]], id="every-epoch"
        ),
        pytest.param(
            {"every_n_epochs": 2}, {}, [UNTRAINED, ("epoch 1", 9), ("epoch 3", 19)], id="every-2nd"
        ),
        pytest.param(
            {"epochs": [0, 3]},
            {},
            [UNTRAINED, ("epoch 0", 4), ("epoch 3", 19)],
            id="epochs-0-and-3",
        ),
        pytest.param(
            {"epochs": [0, 99]}, {}, [UNTRAINED, ("epoch 0", 4), ("epoch 3", 19)], id="last-always"
        ),
        pytest.param({"every_n_epochs": 3}, {"max_epochs": 1}, [UNTRAINED, ("epoch 0", 4)], id="1"),
        pytest.param(
            {"at_start": False, "every_n_epochs": 3},
            {},
            [("epoch 2", 14), ("epoch 3", 19)],
            id="late",
        ),
        pytest.param({"every_n_epochs": 0}, {}, [UNTRAINED, ("epoch 3", 19)], id="both-ends-only"),
        pytest.param(
            {"epochs": []}, {"max_epochs": 2}, [UNTRAINED, ("epoch 1", 9)], id="no-epochs"
        ),
        pytest.param(
            {"every_n_train_steps": 4, "every_n_epochs": 0},
            {"max_epochs": 2},
            [UNTRAINED, ("step 4", 3), ("step 8", 7), ("epoch 1", 9)],
            id="every-4-steps",
        ),
        pytest.param(
            {"every_n_train_steps": 4},
            {"max_epochs": 2},
            [UNTRAINED, ("step 4", 3), ("epoch 0", 4), ("step 8", 7), ("epoch 1", 9)],
            id="steps-in-addition-to-epochs",
        ),
        pytest.param(
            # Five batches are three optimizer steps: two of two batches, and one of the last batch.
            {"every_n_train_steps": 2, "every_n_epochs": 0},
            {"max_epochs": 2, "accumulate_grad_batches": 2},
            [UNTRAINED, ("step 2", 1), ("step 4", 3), ("step 6", 5)],
            id="steps-under-accumulation",
        ),
        pytest.param(
            # Batches take two steps and one step in turn: 2, 3, 5, 6, 8, then 10, 11, 13, 14, 16.
            {"every_n_train_steps": 4, "every_n_epochs": 0},
            {"max_epochs": 2, "module": Manual},
            [UNTRAINED, ("step 5", 2), ("step 8", 4), ("step 13", 7), ("step 16", 9)],
            id="steps-of-two-optimizers",
        ),
        pytest.param(
            {},
            {"max_steps": 7, "max_epochs": -1},
            [UNTRAINED, ("epoch 0", 4), ("epoch 1", 6)],
            id="max_steps-in-mid-epoch",
        ),
        pytest.param(
            {"every_n_epochs": 3},
            {"max_steps": 7, "max_epochs": -1},
            [UNTRAINED, ("epoch 1", 6)],
            id="max_steps-in-an-epoch-not-due",
        ),
        pytest.param(
            {"epochs": []}, {"val_check_interval": 0.4}, [UNTRAINED, ("epoch 3", 19)], id="v"
        ),
        pytest.param(
            {},
            {"max_epochs": 2, "val_check_interval": 0.4},
            [UNTRAINED, ("epoch 0", 4), ("epoch 1", 9)],
            id="several-validations-an-epoch",
        ),
        pytest.param(
            {},
            {"max_epochs": 2, "val_check_interval": 7, "check_val_every_n_epoch": None},
            [UNTRAINED, ("epoch 0", 4), ("epoch 1", 9)],
            id="validation-across-epochs",
        ),
        pytest.param(
            {},
            {"max_epochs": 3, "check_val_every_n_epoch": 2},
            [UNTRAINED, ("epoch 0", 4), ("epoch 1", 9), ("epoch 2", 14)],
            id="validation-every-2-epochs",
        ),
        pytest.param(
            {},
            {"max_epochs": 2, "limit_val_batches": 0},
            [UNTRAINED, ("epoch 0", 4), ("epoch 1", 9)],
            id="limit_val_batches=0",
        ),
        pytest.param(
            {},
            {"max_epochs": 1, "validate": False},
            [UNTRAINED, ("epoch 0", 4)],
            id="no-validation",
        ),
    ],
)
def test_it_observes_when_due_and_never_twice(ours, options, expected, tmp_path):
    observer = callback(**ours)
    options = {"max_epochs": 4} | options
    fit(tmp_path, observer, module=options.pop("module", Touchy)(), **options)
    assert seen(observer) == expected
    assert steps(tmp_path) == [step for _, step in expected]
    assert steps(tmp_path, "saliency_filmstrip/") == [expected[-1][1]]
    # A picture has the step of the scalars of its moment, so that linked cards move together.
    assert set(steps(tmp_path)[1:]) <= {step for step, _ in scalars(tmp_path)["loss"]}


def test_a_picture_stands_where_the_validation_of_its_epoch_stands(tmp_path):
    fit(tmp_path, callback(at_start=False), max_epochs=3)
    assert steps(tmp_path) == [step for step, _ in scalars(tmp_path)["val_acc"]]


def test_the_sanity_check_is_no_validation(tmp_path):
    observer = callback(at_start=False)
    fit(tmp_path, observer, num_sanity_val_steps=2, max_epochs=1)
    assert seen(observer) == [("epoch 0", 4)]


def test_a_run_that_is_stopped_early_is_observed_where_it_stopped(tmp_path):
    class Worse(Touchy):
        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", float(self.current_epoch))

    observer = callback(every_n_epochs=4)
    fit(tmp_path, observer, EarlyStopping("val_loss", patience=2), module=Worse(), max_epochs=9)
    assert seen(observer) == [UNTRAINED, ("epoch 2", 14)]


def test_a_run_that_is_stopped_in_mid_epoch_is_observed_where_it_stopped(tmp_path):
    class Enough(Touchy):
        def training_step(self, batch: Any, index: int) -> Tensor:
            self.trainer.should_stop = self.global_step == 6
            return super().training_step(batch, index)

    observer = callback(every_n_epochs=9)
    fit(tmp_path, observer, module=Enough(), max_epochs=9)
    assert seen(observer) == [UNTRAINED, ("epoch 1", 6)]


def test_epochs_of_one_batch_hide_none_of_their_pictures(tmp_path):
    """Lightning logs the first such epoch at step 0, which the untrained model has already."""
    observer = callback(every_n_train_steps=1)
    fit(tmp_path, observer, train=loader(8), max_epochs=4)
    assert steps(tmp_path) == [0, 1, 2, 3, 4]  # `pictures` refuses two at one step
    assert seen(observer)[0] == UNTRAINED


def test_a_module_that_steps_its_optimizers_past_lightning_is_observed(tmp_path):
    """`trainer.global_step` counts only the steps of Lightning's own optimizers."""

    class Bare(Touchy):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, _: int) -> None:
            optimizer = self.optimizers(use_pl_optimizer=False)
            optimizer.zero_grad()
            self.manual_backward(self.loss(batch))
            optimizer.step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    observer = callback()
    trainer = fit(tmp_path, observer, module=Bare())
    assert trainer.global_step == 0
    assert [caption for caption, _ in seen(observer)] == ["untrained", "epoch 0", "epoch 1"]


def test_a_monitor_is_served_where_a_due_step_is_the_last_of_its_epoch(tmp_path):
    """The monitor needs its number even if the picture was drawn a moment ago."""
    corner = torch.zeros(1, 12, 12, dtype=torch.bool)
    corner[:, :6] = True
    observer = callback(probe=one_image(masks={"corner": corner}), every_n_train_steps=5)
    stopping = EarlyStopping("saliency/corner.share", mode="max", patience=9)
    fit(tmp_path, observer, stopping)
    assert len(seen(observer)) == 3
    assert 0 < float(stopping.best_score) < 1


def test_a_run_that_is_over_when_its_time_is_is_observed_where_it_stopped(tmp_path):
    observer = callback()
    trainer = fit(tmp_path, observer, max_time={"seconds": 1}, max_epochs=-1)
    last, steps_done = seen(observer)[-1], trainer.global_step
    assert last == (f"epoch {(steps_done - 1) // 5}", steps_done - 1)
    assert steps_done > 0


@pytest.mark.parametrize("logger", [True, False], ids=["default-logger", "no-logger"])
def test_a_fast_dev_run_writes_nothing(logger, tmp_path):
    observer = callback()
    fit(tmp_path, observer, fast_dev_run=True, logger=logger)
    assert [caption for caption, _ in seen(observer)] == ["untrained", "epoch 0"]
    assert list(tmp_path.iterdir()) == []


def test_a_bare_trainer_runs(tmp_path):
    trainer = pl.Trainer(
        barebones=True,
        max_epochs=1,
        accelerator="cpu",
        default_root_dir=tmp_path,
        callbacks=[observer := callback()],
    )
    trainer.fit(Touchy(), loader(), loader(16))
    assert seen(observer) == [UNTRAINED, ("epoch 0", 4)]


# --- without training


@pytest.mark.parametrize("probe", [None, one_image()], ids=["no-probe", "probe"])
@pytest.mark.parametrize(
    ("doing", "metric"),
    [
        pytest.param("validate", "val_acc", id="validate"),
        pytest.param("test", "test_acc", id="test"),
    ],
)
def test_a_model_can_be_validated_and_tested_alone(doing, metric, probe, tmp_path):
    """LightningCLI, for one, passes the same callbacks when nothing is trained."""
    module = Touchy().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    trainer = quiet_trainer(tmp_path, callback(probe=probe))
    (metrics,) = getattr(trainer, doing)(module, loader(16), verbose=False)
    assert 0 <= metrics[metric] <= 1
    # The module counts its own calls, and must count those of the two batches only.
    before["calls"] += 2
    torch.testing.assert_close(dict(module.state_dict()), before, rtol=0, atol=0)
    assert module.training


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_what_cannot_be_observed_outside_of_training_does_not_cost_the_metrics(on_error, tmp_path):
    """`trainer.validate` runs in inference mode, whose tensors can have no gradients."""

    class Scaled(Touchy):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(()))

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images * self.scale)

        def validation_step(self, batch: Any, index: int) -> None:
            self.scale = self.scale * 1.0
            super().validation_step(batch, index)

    observer, module = callback(on_error=on_error), Scaled()
    trainer = quiet_trainer(tmp_path, observer)
    (metrics,) = trainer.validate(module, loader(16), verbose=False)
    assert "val_acc" in metrics
    assert module.scale.is_inference()
    assert seen(observer) == [("validated", 0)]


@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_failure_outside_of_training_is_a_warning(on_error, tmp_path):
    trainer = quiet_trainer(tmp_path, callback(on_error=on_error, targets=[CLASSES]))
    with pytest.warns(SaliencyWarning, match="preparing to observe failed, the run goes on: Value"):
        (metrics,) = trainer.validate(Touchy(), loader(16), verbose=False)
    assert "val_acc" in metrics


def test_predicting_is_not_observed(tmp_path):
    trainer = quiet_trainer(tmp_path, observer := callback())
    images = Shapes(16, augment=False).images
    assert len(trainer.predict(Touchy(), torch.utils.data.DataLoader(images, batch_size=8))) == 2
    assert seen(observer) == []


@pytest.mark.parametrize("doing", ["validate", "test"])
def test_the_steps_rise_when_a_trained_model_is_validated_and_tested(doing, tmp_path):
    """With epochs of one batch, the pictures are one step ahead of the trainer's count."""
    observer, module = callback(), Touchy()
    trainer = fit(tmp_path, observer, module=module, train=loader(8), max_epochs=3)
    getattr(trainer, doing)(module, loader(16), verbose=False)
    assert steps(tmp_path)[:4] == [0, 1, 2, 3]


def test_a_validation_before_training_does_not_count_as_the_untrained_model(tmp_path):
    observer, module = callback(), Touchy()
    trainer = quiet_trainer(tmp_path, observer)
    trainer.validate(module, loader(16), verbose=False)
    trainer.fit(module, loader(), loader(16))
    assert [c for c, _ in seen(observer)][-3:] == ["untrained", "epoch 0", "epoch 1"]
    assert steps(tmp_path)[-2:] == [4, 9]


# --- again


def test_training_that_goes_on_in_the_same_trainer_goes_on_in_its_pictures(tmp_path):
    observer, module = callback(), Touchy()
    trainer = fit(tmp_path, observer, module=module, max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(), loader(16))
    assert seen(observer) == [UNTRAINED, ("epoch 0", 4), ("epoch 1", 9)]


@pytest.mark.parametrize("at_start", [True, False])
def test_a_callback_begins_again_with_another_trainer(at_start, tmp_path):
    """As in a notebook cell that is run twice, or the folds of a cross-validation."""
    observer = callback(at_start=at_start)
    runs = []
    for name in ("first", "second"):
        fit(tmp_path / name, observer, max_epochs=1)
        runs.append((seen(observer), steps(tmp_path / name)))
    assert runs[0] == runs[1]


def test_a_probe_that_the_callback_chose_is_chosen_again_for_other_data(tmp_path):
    reused, fresh = callback(probe=None), callback(probe=None)
    fit(tmp_path / "1", reused, val=loader(16), max_epochs=1)
    fit(tmp_path / "2", reused, val=loader(24), max_epochs=1)
    fit(tmp_path / "3", fresh, val=loader(24), max_epochs=1)
    assert reused.probe.fingerprint == fresh.probe.fingerprint


# --- several callbacks


def test_two_callbacks_live_in_one_trainer(tmp_path):
    guided = callback(name="guided")
    plain = callback(name="plain", rule="gradient", every_n_epochs=2)
    fit(tmp_path, guided, plain)
    assert steps(tmp_path, "guided/") == [0, 4, 9]
    assert steps(tmp_path, "plain/") == [0, 9]
    assert guided.state_key != plain.state_key
    assert steps(tmp_path, "guided_filmstrip/") == steps(tmp_path, "plain_filmstrip/") == [9]


def test_two_callbacks_of_one_name_are_refused(tmp_path):
    with pytest.raises(
        (RuntimeError, SaliencyError), match=r"unique among all callbacks|two callb"
    ):
        fit(tmp_path, callback(), callback())


def test_two_callbacks_of_one_name_from_the_module_are_refused(tmp_path):
    """Lightning itself only checks the callbacks that are passed to the trainer."""

    class Own(Touchy):
        def configure_callbacks(self) -> list[pl.Callback]:
            return [callback(name="twice"), callback(name="twice")]

    with pytest.raises(SaliencyError, match="two callbacks are named 'twice'; give each its own"):
        fit(tmp_path, module=Own())


def test_two_callbacks_of_one_name_from_two_namespaces_are_refused(tmp_path):
    other = NewCallback(one_image(), targets="label")
    skip_unless_foreign_callbacks_are_taken(other, pl)
    with pytest.raises(
        (RuntimeError, SaliencyError), match=r"unique among all callbacks|two callb"
    ):
        fit(tmp_path, callback(), other)


def test_a_name_whose_tags_are_those_of_another_ones_film_strips_is_refused(tmp_path):
    with pytest.raises((ValueError, SaliencyError), match="saliency_filmstrip"):
        fit(tmp_path, callback(), callback(name="saliency_filmstrip"))


def test_an_image_named_like_a_scalar_is_refused(tmp_path):
    """TensorBoard hides a scalar whose tag is also that of pictures."""
    corner = torch.ones(1, 12, 12, dtype=torch.bool)
    probe = one_image(names=["corner.share"], masks={"corner": corner})
    with pytest.raises((ValueError, SaliencyError), match=r"corner\.share"):
        fit(tmp_path, callback(probe=probe))


# --- which classes


class Many(Touchy):
    """A model of twelve classes, too many for `"auto"` to show all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8 * 9, 12)


def explained(observer: SaliencyCallback) -> Tensor:
    return shown(observer)[0].targets


NAMES = ["top left", "top right", "bottom left", "bottom right"]


@pytest.mark.parametrize(
    ("targets", "module", "expected"),
    [
        pytest.param("auto", Touchy, [[0, 1, 2, 3]] * 2, id="auto-shows-up-to-ten"),
        pytest.param("all", Many, [list(range(12))] * 2, id="all"),
        pytest.param("label", Many, [[0], [1]], id="label"),
        pytest.param([3, 1], Touchy, [[3, 1]] * 2, id="indices"),
        pytest.param(["bottom right", "top left"], Touchy, [[3, 0]] * 2, id="names"),
    ],
)
def test_targets_that_are_known_beforehand(targets, module, expected, tmp_path):
    probe = ProbeBatch.from_dataset(Shapes(16, augment=False), count=2, class_names=NAMES)
    observer = callback(probe=probe, targets=targets)
    fit(tmp_path, observer, module=module(), max_epochs=1)
    assert explained(observer).tolist() == expected


@pytest.mark.parametrize(
    ("targets", "ranks"),
    [
        pytest.param("predicted", [0], id="predicted"),
        pytest.param("top3", [0, 1, 2], id="top3"),
        pytest.param("top99", range(12), id="no-more-than-there-are"),
    ],
)
def test_targets_by_rank(targets, ranks, tmp_path):
    probe, observer = one_image(), callback(targets=targets)
    torch.manual_seed(4)
    module = Many()
    with torch.no_grad():
        module.eval()
        order = module(probe.images)[0].argsort(descending=True)
        module.train()
    fit(tmp_path, observer, module=module, max_epochs=1)
    assert explained(observer)[0].tolist() == [int(order[rank]) for rank in ranks]


def test_auto_shows_the_label_and_the_strongest_four_of_many(tmp_path):
    observer = callback(targets="auto", probe=one_image())
    fit(tmp_path, observer, module=Many(), max_epochs=1)
    label, *others = explained(observer)[0].tolist()
    assert label == int(observer.probe.labels[0])
    assert len(set(others) - {label}) == 4


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        pytest.param(["cat"], r"no `class_names`. Pass `ProbeBatch\(…, class_names", id="name"),
        pytest.param([CLASSES], "classes from 0 to 3, as the model has 4 logit", id="too-high"),
        pytest.param([-1], "classes from 0 to 3, as the model has 4 logit", id="negative"),
        pytest.param([1.5], "a list of indices or class names, got 1.5", id="float"),
    ],
)
def test_targets_that_the_model_or_the_probe_do_not_know(targets, message, tmp_path):
    """The error comes before the first training step."""
    module = Touchy()
    with pytest.raises((TypeError, ValueError), match=message):
        fit(tmp_path, callback(targets=targets), module=module, num_sanity_val_steps=0)
    assert int(module.calls) == 0


def test_a_name_that_the_probe_does_not_have_is_answered_with_those_it_has(tmp_path):
    probe = one_image(class_names=["dog", "owl", "fox", "elk"])
    with pytest.raises(ValueError, match=r"'cat', which is not among .*: dog, owl, fox, elk"):
        fit(tmp_path, callback(probe=probe, targets=["cat"]))


def test_the_label_of_an_unlabelled_probe(tmp_path):
    probe = ProbeBatch(one_image().images)
    with pytest.raises(ValueError, match="`targets='label'` needs labels: pass `ProbeBatch"):
        fit(tmp_path, callback(probe=probe))


# --- pictures


def decoded(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)


def test_a_film_strip_has_twelve_columns_at_most(tmp_path):
    observer = callback(tile_size=48)
    fit(tmp_path, observer, train=loader(8), max_epochs=30)
    ((_, strip),) = pictures(tmp_path)["saliency_filmstrip/image 0 · class 0"].items()
    columns = (decoded(strip).shape[1] - 20) / (48 + 6)  # the names of the rows take 20 pixels
    assert round(columns) == 12


def test_a_film_strip_shows_first_and_last(tmp_path, monkeypatch):
    from lightning_saliency.draw.mosaics import MosaicRenderer

    shown: list[str] = []
    draw = MosaicRenderer.filmstrip

    def noted(self: Any, snapshots: Any, image: int) -> Any:
        shown.extend(s.caption for s in snapshots)
        return draw(self, snapshots, image)

    monkeypatch.setattr(MosaicRenderer, "filmstrip", noted)
    fit(tmp_path, callback(), train=loader(8), max_epochs=29)
    assert len(shown) == 12
    assert (shown[0], shown[-1]) == ("untrained", "epoch 28")
    epochs = [int(caption.removeprefix("epoch ")) for caption in shown[1:]]
    assert max(np.diff(epochs)) <= 4  # 30 observations, so one column per 2.6 of them


def map_of(folder: Any, **options: Any) -> np.ndarray:
    """Cut the first map out of the untrained model's mosaic, without its frame."""
    torch.manual_seed(0)
    observer = callback(tile_size=48, image_format="png", targets=[1], **options)
    fit(folder, observer, max_epochs=1, limit_val_batches=0)
    mosaic = decoded(pictures(folder)["saliency/image 0 · class 0"][0])
    return mosaic[24 + 2 : 24 + 46, 60 + 2 : 60 + 46]


def test_styles_and_scales_are_those_asked_for(tmp_path):
    signed = map_of(tmp_path / "1")
    magnitude = map_of(tmp_path / "2", style="magnitude")
    overlay = map_of(tmp_path / "3", style="overlay")
    faint = map_of(tmp_path / "4", scale=1e6)
    strong = map_of(tmp_path / "5", scale=1e-9)
    assert np.median(signed) > 150 > np.median(magnitude)
    assert not np.array_equal(magnitude, overlay)
    assert faint.min() >= 246  # almost white, which stands for zero
    # Values far beyond the scale have one of the two extreme colours; zero is white.
    colours = {tuple(c) for c in strong.reshape(-1, 3).tolist()}
    assert {(103, 0, 31), (5, 48, 97)} <= colours <= {(103, 0, 31), (5, 48, 97), (247, 246, 246)}


@pytest.mark.parametrize(
    ("image_format", "start"),
    [pytest.param("jpeg", b"\xff\xd8\xff", id="jpeg"), pytest.param("png", b"\x89PNG", id="png")],
)
def test_pictures_are_encoded_as_asked_for(image_format, start, tmp_path):
    fit(tmp_path, callback(image_format=image_format), max_epochs=1)
    encoded = [data for by_step in pictures(tmp_path).values() for data in by_step.values()]
    assert len(encoded) == 3
    assert all(data.startswith(start) for data in encoded)


@pytest.mark.parametrize(
    ("precision", "rtol"),
    [("64-true", 1e-4), ("bf16-mixed", 0.1), ("bf16-true", 0.1), ("16-true", 0.1)],
)
def test_maps_in_other_precisions_are_those_in_float32(precision, rtol, tmp_path):
    peaks = []
    for name in ("32-true", precision):
        pl.seed_everything(1)
        observer = callback(targets="all")
        fit(tmp_path / name, observer, precision=name, max_epochs=1)
        peaks.append(shown(observer)[0].peaks)
    torch.testing.assert_close(*peaks, rtol=rtol, atol=0, check_dtype=False)


# --- arguments


REFUSED = [
    ({"probe": torch.zeros(1, 3, 4, 4)}, TypeError, "ProbeBatch or None, got Tensor. Wrap"),
    (
        {"probe": "probe.safetensors"},
        TypeError,
        "`probe` must be a ProbeBatch or None, got str",
    ),
    (
        {"targets": "cat"},
        ValueError,
        r"`targets` must be one of auto, .* got 'cat'. For one class, pass",
    ),
    ({"targets": "top0"}, ValueError, r"'top3' \(or any number\), .* got 'top0'"),
    ({"targets": []}, ValueError, "`targets` must name at least one class, got an empty list"),
    ({"targets": 3}, (TypeError, ValueError), r"`targets` must be .*got 3"),
    ({"targets": None}, (TypeError, ValueError), r"`targets` must be .*got None"),
    ({"rule": "lrp"}, ValueError, "`rule` must be one of gradient, guided_backprop, deconvnet"),
    ({"every_n_epochs": -1}, ValueError, "`every_n_epochs` must be an integer of at least 1"),
    ({"every_n_epochs": 1.0}, ValueError, "`every_n_epochs` must be .*got 1.0"),
    ({"every_n_epochs": True}, ValueError, "`every_n_epochs` must be .*got True"),
    ({"epochs": [-1]}, ValueError, r"`epochs` must be a list of epochs .*got \[-1\]"),
    ({"epochs": "1"}, ValueError, "`epochs` must be a list of epochs counted from 0, got '1'"),
    ({"epochs": 3}, (TypeError, ValueError), "`epochs` must be a list of epochs .*got 3"),
    (
        {"every_n_train_steps": 0},
        ValueError,
        "`every_n_train_steps` must be None or an integer",
    ),
    (
        {"style": "jet"},
        ValueError,
        "`style` must be one of signed, magnitude, overlay, got 'jet'",
    ),
    ({"scale": 0}, ValueError, "`scale` must be 'map' or a number above 0, got 0"),
    ({"scale": "run"}, ValueError, "`scale` must be 'map' or a number above 0, got 'run'"),
    ({"scale": float("nan")}, ValueError, "`scale` must be 'map' or a number above 0, got nan"),
    ({"scale": True}, ValueError, "`scale` must be 'map' or a number above 0, got True"),
    ({"tile_size": 15}, ValueError, "`tile_size` must be an integer of at least 16, got 15"),
    (
        {"tile_size": 64.0},
        ValueError,
        "`tile_size` must be an integer of at least 16, got 64.0",
    ),
    (
        {"image_format": "webp"},
        ValueError,
        "`image_format` must be one of jpeg, png, got 'webp'",
    ),
    ({"chunk_size": 0}, ValueError, "`chunk_size` must be an integer of at least 1, got 0"),
    ({"on_error": "ignore"}, ValueError, "`on_error` must be one of raise, warn, got 'ignore'"),
    ({"name": ""}, ValueError, "`name` must not be empty or contain a '/', got ''"),
    ({"name": "a/b"}, ValueError, "`name` must not be empty or contain a '/', got 'a/b'"),
    ({"name": 3}, (TypeError, ValueError), "`name` must .*got 3"),
    ({"forward": "logits"}, TypeError, "`forward` must be .*got 'logits'"),
]


@pytest.mark.parametrize(
    ("options", "error", "message"), REFUSED, ids=[str(case[0]) for case in REFUSED]
)
def test_arguments_that_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        SaliencyCallback(**options)


def test_a_probe_that_does_not_fit_the_model_is_told_before_the_first_step(tmp_path):
    module, probe = Touchy(), ProbeBatch(torch.zeros(1, 1, 12, 12))
    with pytest.raises(RuntimeError, match=r"expected input.* to have 3 channels, but got 1"):
        fit(tmp_path, callback(probe=probe, targets="all"), module=module, num_sanity_val_steps=0)
    assert all(module.training for module in module.modules())


# --- failures


class Falling(Touchy):
    """Its forward pass fails on the probe in the given epochs, and nowhere else."""

    def __init__(self, *epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def forward(self, images: Tensor) -> Tensor:
        if len(images) == 1 and self.global_step > 0 and self.current_epoch in self.epochs:
            raise ArithmeticError("no such epoch")
        return super().forward(images)


def test_a_failure_is_raised_with_where_why_and_what_to_do(tmp_path):
    message = (
        r"^observing the model \(epoch 1\) failed: ArithmeticError: no such epoch\n"
        r"With `on_error='warn'` training goes on in such a case\.$"
    )
    with pytest.raises(SaliencyError, match=message) as raised:
        fit(tmp_path, callback(), module=Falling(1), max_epochs=3)
    assert isinstance(raised.value.__cause__, ArithmeticError)
    assert steps(tmp_path) == [0, 4]


def test_a_failure_is_warned_of_once_and_training_goes_on(tmp_path):
    observer = callback(on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(tmp_path, observer, module=Falling(0, 2), max_epochs=4)
    told = [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]
    assert told == [
        "observing the model (epoch 0) failed, training goes on: ArithmeticError: no such epoch"
    ]
    assert trainer.current_epoch == 4
    assert seen(observer) == [UNTRAINED, ("epoch 1", 9), ("epoch 3", 19)]


# --- the other namespace


@pytest.mark.parametrize("namespace", [pl, new_namespace], ids=["pytorch_lightning", "lightning"])
@pytest.mark.parametrize("kind", [SaliencyCallback, NewCallback], ids=["pl-callback", "L-callback"])
def test_each_namespace_s_callback_works_in_each_trainer(kind, namespace, tmp_path):
    observer = kind(one_image(), targets="label")
    skip_unless_foreign_callbacks_are_taken(observer, namespace)
    fit(tmp_path, observer, module=make_module(namespace), namespace=namespace)
    assert seen(observer) == [UNTRAINED, ("epoch 0", 4), ("epoch 1", 9)]
    assert steps(tmp_path) == [0, 4, 9]


def test_each_class_is_a_callback_of_its_own_namespace():
    assert issubclass(SaliencyCallback, pl.Callback)
    assert issubclass(NewCallback, new_namespace.Callback)
    assert not issubclass(NewCallback, pl.Callback)
    assert SaliencyCallback.__doc__ == NewCallback.__doc__
    assert SaliencyCallback.__name__ == NewCallback.__name__


@pytest.mark.parametrize(
    ("namespace", "path"),
    [
        pytest.param(pl, "lightning_saliency.SaliencyCallback", id="pytorch_lightning"),
        pytest.param(
            new_namespace, "lightning_saliency.lightning.SaliencyCallback", id="lightning"
        ),
    ],
)
def test_the_command_line_of_lightning_takes_every_argument(namespace, path, tmp_path):
    from importlib import import_module

    ours = {
        "targets": "[2,1]",
        "rule": "gradient",
        "every_n_epochs": "2",
        "epochs": "[0]",
        "every_n_train_steps": "3",
        "at_start": "false",
        "style": "overlay",
        "scale": "0.5",
        "tile_size": "32",
        "image_format": "png",
        "chunk_size": "4",
        "on_error": "warn",
        "name": "maps",
    }
    arguments = [f"--trainer.callbacks+={path}"]
    arguments += [f"--trainer.callbacks.{name}={value}" for name, value in ours.items()]
    plain = {"logger": "false", "max_epochs": "1", "accelerator": "cpu"}
    plain |= dict.fromkeys(
        ("enable_checkpointing", "enable_progress_bar", "enable_model_summary"), "false"
    )
    arguments += [f"--trainer.{name}={value}" for name, value in plain.items()]
    command = import_module(f"{namespace.__name__}.cli").LightningCLI(
        type(make_module(namespace)),
        run=False,
        save_config_callback=None,
        args=[*arguments, f"--trainer.default_root_dir={tmp_path}"],
    )
    (observer,) = command.trainer.callbacks
    command.trainer.fit(command.model, loader(), loader(16))
    assert seen(observer) == [("step 3", 2), ("epoch 0", 4)]
    assert explained(observer)[0].tolist() == [2, 1]
    assert len(list(tmp_path.rglob("maps/*/*.png"))) == 2 * len(observer.probe)


# --- how little is disturbed


@pytest.mark.parametrize(
    "forward", [None, lambda module, images: module(images) * 2], ids=["", "f"]
)
def test_the_module_is_called_once_to_be_tried_and_once_an_observation(forward, tmp_path):
    """An observation costs one forward pass, however many classes there are."""
    calls: list[int] = []

    class Counting(Touchy):
        def forward(self, images: Tensor) -> Tensor:
            if len(images) <= 2:  # batches of training and validation have eight
                calls.append(len(images))
            return super().forward(images)

    fit(tmp_path, callback(targets="all", forward=forward), module=Counting())
    assert calls == [2, 1, 1, 1]


def test_nothing_of_the_callback_stays_on_the_module(tmp_path):
    module: Callable[[], Any] = Touchy
    left = []
    for number, callbacks in enumerate(([], [callback(every_n_train_steps=2)])):
        pl.seed_everything(2)
        observed = module()
        trainer = fit(tmp_path / str(number), *callbacks, module=observed)
        left.append(run_state(trainer, observed))
    for kind in ("modes", "attributes", "hooks", "requires_grad", "gradients", "grad mode"):
        assert str(left[0][kind]) == str(left[1][kind]), kind
