"""Which model is observed: the one that was validated, and the one that training leaves."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as new_namespace
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from matrix import Shapes, Touchy, failing_check, probe
from older import LIGHTNING, average_weights
from pytorch_lightning.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelCheckpoint,
    ModelPruning,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
)
from pytorch_lightning.tuner import Tuner
from torch import Tensor
from torch.utils.data import DataLoader
from training import callback, fit, loader, make_module, one_image, quiet_trainer, seen, steps

from lightning_saliency import SaliencyCallback, SaliencyError
from lightning_saliency.callback.checking import Checking
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.lightning import SaliencyCallback as NewCallback
from lightning_saliency.record.run import open_run

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

EPOCHS = [("untrained", 0), ("epoch 0", 4), ("epoch 1", 9), ("epoch 2", 14)]
AND_AFTER = [*EPOCHS, ("trained", 15)]


def probabilities(module: Any) -> Tensor:
    """What ``module`` says of the labels of the probe, without a trace of having been asked."""
    modes, calls = [m.training for m in module.modules()], module.calls.clone()
    with torch.no_grad():
        images, labels = probe().images, probe().labels
        found = module.eval()(images).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    for m, mode in zip(module.modules(), modes, strict=True):
        m.training = mode
    module.calls.copy_(calls)
    return found


class Validated(pl.Callback):
    """Notes what the model says while it is validated."""

    def __init__(self) -> None:
        self.said: list[Tensor] = []

    def on_validation_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, index: int
    ) -> None:
        if not trainer.sanity_checking and index == 0:
            self.said.append(probabilities(pl_module))


class Restored(pl.Callback):
    """Loads the weights of an early step when training has ended, as those of the best one."""

    def __init__(self, hook: str) -> None:
        self.best: dict[str, Tensor] = {}
        setattr(self, hook, self.load)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            self.best = {k: v.clone() for k, v in pl_module.state_dict().items()}

    def load(self, trainer: Any, pl_module: Any) -> None:
        if trainer.current_epoch >= 2:
            pl_module.load_state_dict(self.best)


class Nudged(Touchy):
    """Changes its own weights at the very end, through `.data`, which autograd does not notice."""

    def on_train_end(self) -> None:
        self.head.bias.data.copy_(torch.arange(4.0))


class Averaged(Touchy):
    """Keeps an average of its weights, and swaps it in while it is validated and at the end."""

    def on_train_batch_end(self, *_: Any) -> None:
        bias = self.head.bias.detach()
        self.average = 0.5 * getattr(self, "average", bias) + 0.5 * bias

    def on_validation_epoch_start(self) -> None:
        self.on_validation_epoch_end()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            found = self.head.bias.detach().clone()
            self.head.bias.data.copy_(self.average)
            self.average = found

    def on_train_end(self) -> None:
        self.head.bias.data.copy_(self.average)


def ema() -> pl.Callback:
    return average_weights(decay=0.9)


def pruning(**options: Any) -> pl.Callback:
    return ModelPruning("l1_unstructured", amount=0.5, **options)


# Callbacks before ours and after it, other options of `fit`, and when the model is observed.
ENDINGS = [
    pytest.param([], [], {}, EPOCHS, id="nothing"),
    pytest.param([ema], [], {}, EPOCHS, id="averages-before"),
    pytest.param([], [ema], {}, EPOCHS, id="averages-after"),
    pytest.param([ema], [], {"validate": False}, AND_AFTER, id="averages-before-not-validated"),
    pytest.param([], [ema], {"validate": False}, AND_AFTER, id="averages-after-not-validated"),
    pytest.param([], [pruning], {}, AND_AFTER, id="pruned"),
    pytest.param(
        [lambda: pruning(prune_on_train_epoch_end=False)], [], {}, AND_AFTER, id="pruned-validated"
    ),
    pytest.param([lambda: Restored("on_train_end")], [], {}, AND_AFTER, id="best-before"),
    pytest.param([], [lambda: Restored("on_train_end")], {}, AND_AFTER, id="best-after"),
    pytest.param([], [lambda: Restored("on_train_epoch_end")], {}, AND_AFTER, id="best-at-epoch"),
    pytest.param([], [], {"module": Nudged}, AND_AFTER, id="by-the-module"),
    pytest.param([], [], {"module": Averaged}, EPOCHS, id="averages-of-the-module"),
    pytest.param(
        [],
        [lambda: StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)],
        {"max_epochs": 2},
        [*EPOCHS[:3], ("epoch 2", 10)],  # Lightning adds one for the statistics of the norms
        id="stochastic-averages",
    ),
]


@pytest.mark.parametrize(("before", "after", "options", "moments"), ENDINGS)
def test_every_picture_is_of_the_model_of_its_moment(before, after, options, moments, tmp_path):
    module, ours, validated = (
        options.get("module", Touchy)(),
        SaliencyCallback(probe()),
        Validated(),
    )
    others = [make() for make in before], [make() for make in after]
    options = {"max_epochs": 3} | options | {"module": module}
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaliencyWarning)
        fit(tmp_path, *others[0], ours, *others[1], validated, **options)
    assert seen(ours) == moments
    run = open_run(tmp_path)
    torch.testing.assert_close(run.last().measured.probabilities, probabilities(module))
    at_epochs = [run.observation(step) for caption, step in moments if caption.startswith("epoch")]
    for observation, said in zip(at_epochs, validated.said, strict=False):
        torch.testing.assert_close(observation.measured.probabilities, said)
    assert len(validated.said) in (0, len(at_epochs))
    assert run.info.finished


@pytest.mark.parametrize("epochs", [[], [1]], ids=["seldom", "seldom-but-in-between"])
def test_a_last_epoch_that_is_not_due_is_observed_once(epochs, tmp_path):
    module, ours = Touchy(), SaliencyCallback(probe(), epochs=epochs)
    fit(tmp_path, ema(), ours, Restored("on_train_end"), module=module, max_epochs=3)
    assert seen(ours) == [EPOCHS[0], *[EPOCHS[1 + epoch] for epoch in epochs], EPOCHS[3]]
    said = open_run(tmp_path).last().measured.probabilities
    torch.testing.assert_close(said, probabilities(module))


def test_the_check_judges_the_model_that_training_leaves(tmp_path, monkeypatch):
    judged: list[Any] = []
    act_on = Checking._act_on

    def noted(self: Checking, verdict: Any, candidate: Any, *rest: Any) -> None:
        judged.append(candidate.observation)
        act_on(self, verdict, candidate, *rest)

    monkeypatch.setattr(Checking, "_act_on", noted)
    module, ours = Nudged(), SaliencyCallback(probe(), check=failing_check())
    with pytest.warns(SaliencyWarning, match="FAIL  saliency at trained"):
        fit(tmp_path, ours, module=module)
    assert [observation.caption for observation in judged] == ["epoch 0", "epoch 1", "trained"]
    torch.testing.assert_close(judged[-1].measured.probabilities, probabilities(module))


def test_it_is_so_in_the_other_namespace(tmp_path):
    module, ours = make_module(new_namespace), NewCallback(one_image())
    averaging = average_weights(0.5, new_namespace)
    fit(tmp_path, ours, averaging, module=module, namespace=new_namespace, validate=False)
    assert seen(ours) == [*EPOCHS[:3], ("trained", 10)]


class Counting(Touchy):
    def on_validation_epoch_end(self) -> None:
        self.calls += 1

    def on_train_end(self) -> None:
        self.calls += 1


def test_a_buffer_that_counts_is_no_other_model(tmp_path):
    ours = callback()
    fit(tmp_path, ours, module=Counting(), max_epochs=3)
    assert seen(ours) == EPOCHS
    assert steps(tmp_path) == [0, 4, 9, 14]


def test_weights_that_change_too_late_are_warned_of(tmp_path):
    with pytest.warns(SaliencyWarning, match=r"^the weights changed after .*in `on_train_end`\.$"):
        fit(tmp_path, callback(), Restored("on_fit_end"), max_epochs=3)


def test_an_error_at_the_end_of_training_leaves_the_strategy_as_it_was(tmp_path):
    class Broken(pl.Callback):
        def on_train_end(self, *_: Any) -> None:
            raise ArithmeticError("at the end")

    ours = callback()
    trainer = quiet_trainer(tmp_path, ours, Broken(), max_epochs=1)
    with pytest.raises(ArithmeticError, match="at the end"):
        trainer.fit(Touchy(), loader(), loader(16))
    assert "on_train_end" not in vars(trainer.strategy)
    # Another trainer begins again, with nothing of the run that failed.
    fit(tmp_path / "again", ours, max_epochs=1)
    assert seen(ours) == EPOCHS[:2]
    assert steps(tmp_path / "again") == [0, 4]


def test_a_validation_is_of_the_model_that_was_validated(tmp_path):
    """A callback that swaps weights in `on_validation_epoch_…` may come first, alone too."""

    class Swapping(pl.Callback):
        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            pl_module.head.bias.data.neg_()

        on_validation_epoch_end = on_validation_epoch_start

    validated, ours = Validated(), SaliencyCallback(probe())
    trainer = quiet_trainer(tmp_path, Swapping(), ours, validated)
    trainer.validate(Touchy(), loader(16), verbose=False)
    assert seen(ours) == [("validated", 0)]
    torch.testing.assert_close(open_run(tmp_path).last().measured.probabilities, *validated.said)


# --- what can be known before training


class Detached(Touchy):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


class OneWay(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise NotImplementedError("no way back")


class NoWayBack(Touchy):
    def forward(self, images: Tensor) -> Tensor:
        return OneWay.apply(super().forward(images))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return F.cross_entropy(super().forward(batch[0]), batch[1])


LATE = [
    pytest.param(Detached, "the logits do not depend on `images`", id="no-gradient"),
    pytest.param(
        lambda: Touchy(checkpointed="reentrant"), "the graph hides the activations", id="hidden"
    ),
    pytest.param(NoWayBack, "failed in the backward pass: NotImpl.*no way back", id="backward"),
]


@pytest.mark.parametrize(("module", "message"), LATE)
def test_what_would_fail_after_an_epoch_fails_before_it(module, message, tmp_path):
    trainer = quiet_trainer(tmp_path, callback(at_start=False), num_sanity_val_steps=0)
    with pytest.raises(SaliencyError, match=message):
        trainer.fit(module(), loader(), loader(16))
    assert trainer.global_step == 0
    with pytest.warns(SaliencyWarning, match=message) as caught:
        trainer = fit(tmp_path, callback(at_start=False, on_error="warn"), module=module())
    assert trainer.current_epoch == 2
    assert len([w for w in caught if w.category is SaliencyWarning]) == 1


class Smooth(Touchy):
    def features(self, images: Tensor) -> Tensor:
        return self.conv2(self.conv1(images).tanh()).tanh()


@pytest.mark.parametrize("at_start", [True, False])
def test_a_doubt_is_told_before_training_and_once(at_start, tmp_path):
    told: list[int] = []

    class Steps(Smooth):
        def on_train_epoch_start(self) -> None:
            told.append(len(caught))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", SaliencyWarning)
        fit(tmp_path, callback(at_start=at_start), module=Steps())
    assert told == [1, 1]
    assert [str(w.message)[:20] for w in caught] == ["no rectifier lies be"]


# --- trainings within a training, and one after the other


class Tunable(Touchy):
    def __init__(self) -> None:
        super().__init__()
        self.lr, self.batch_size = 0.01, 8

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)

    def train_dataloader(self) -> Any:
        return DataLoader(Shapes(40, augment=False), batch_size=self.batch_size)

    val_dataloader = train_dataloader


def test_a_tuner_is_not_observed(tmp_path):
    ours, module = callback(), Tunable()
    trainer = quiet_trainer(tmp_path, ours)
    tuner = Tuner(trainer)
    tuner.lr_find(module, num_training=8)
    tuner.scale_batch_size(module, max_trials=1)
    assert seen(ours) == []
    assert not list(tmp_path.rglob("run.json"))
    module.batch_size = 8
    trainer.fit(module)
    assert seen(ours) == EPOCHS[:3]


@pytest.mark.parametrize("first", [True, False])
def test_finders_are_not_observed(first, tmp_path):
    ours = callback()
    finders = [LearningRateFinder(num_training_steps=8), BatchSizeFinder(max_trials=2)]
    callbacks = [ours, *finders] if first else [*finders, ours]
    trainer = quiet_trainer(tmp_path, *callbacks)
    trainer.fit(Tunable())
    # Ten batches of four. Lightning 2.4 settles on the larger size that it tried: five of eight.
    batches = 5 if LIGHTNING < (2, 5) else 10
    assert trainer.num_training_batches == batches
    steps = [0, batches - 1, 2 * batches - 1]
    assert seen(ours) == list(zip(("untrained", "epoch 0", "epoch 1"), steps, strict=True))
    assert open_run(tmp_path).steps() == steps


def test_a_run_that_failed_is_resumed_from_the_checkpoint_of_its_exception(tmp_path):
    class Failing(Touchy):
        def training_step(self, batch: Any, index: int) -> Tensor:
            if self.global_step == 7:
                raise ArithmeticError("once")
            return super().training_step(batch, index)

    with pytest.raises(ArithmeticError, match="once"):
        fit(
            tmp_path / "1",
            callback(),
            OnExceptionCheckpoint(tmp_path),
            module=Failing(),
            enable_checkpointing=True,
        )
    resumed = callback()
    fit(tmp_path / "2", resumed, ckpt_path=tmp_path / "on_exception.ckpt")
    assert [caption for caption, _ in seen(resumed)] == ["untrained", "epoch 0", "epoch 1"]


@pytest.mark.parametrize("at_start", [True, False])
def test_another_model_of_the_same_trainer_is_a_run_of_its_own(at_start, tmp_path, caplog):
    ours = callback(at_start=at_start)
    trainer = fit(tmp_path, ours, max_epochs=1)
    second = Touchy()
    with caplog.at_level("INFO", "pytorch_lightning"):
        for epochs in (2, 3):
            trainer.fit_loop.max_epochs = epochs
            trainer.fit(second, loader(), loader(16))
    moments = [("untrained", 5), ("epoch 1", 9), ("epoch 2", 14)]
    assert seen(ours) == moments[not at_start :]
    assert open_run(tmp_path / "saliency").steps() == [0, 4][not at_start :]
    assert open_run(tmp_path / "saliency-2").steps() == [s for _, s in moments[not at_start :]]
    said = [r.getMessage() for r in caplog.records if "another model" in r.getMessage()]
    assert said == [
        "This trainer has fitted another model before: 'saliency' begins again, recorded in "
        f"{tmp_path / 'saliency-2'}"
    ]
    trainer.test(second, loader(16), verbose=False)
    assert len(open_run(tmp_path / "saliency-2").steps()) == len(moments[not at_start :]) + 1


def test_a_run_that_is_resumed_in_another_module_goes_on_in_its_record(tmp_path):
    ours, keep = callback(), ModelCheckpoint(tmp_path / "kept")
    trainer = fit(tmp_path, ours, keep, max_epochs=1, enable_checkpointing=True)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Touchy(), loader(), loader(16), ckpt_path=keep.best_model_path)
    assert seen(ours) == EPOCHS[:3]
    assert open_run(tmp_path).steps() == [0, 4, 9]


def test_a_validation_between_two_trainings_of_a_model_does_not_part_them(tmp_path):
    ours, module = callback(), Touchy()
    trainer = fit(tmp_path, ours, module=module, max_epochs=1)
    trainer.validate(module, loader(16), verbose=False)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(), loader(16))
    assert [caption for caption, _ in seen(ours)] == [
        "untrained",
        "epoch 0",
        "validated",
        "epoch 1",
    ]
    assert open_run(tmp_path).steps() == [0, 4, 5, 9]


# --- batches that Lightning cannot count


class Bag:
    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels


class Unpacking(Touchy):
    def loss(self, batch: Any) -> Tensor:
        images, labels = batch[:2] if isinstance(batch, tuple) else (batch.images, batch.labels)
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: Any, _: int) -> None:
        self.loss(batch)


@pytest.mark.parametrize("validate", [True, False])
@pytest.mark.parametrize(
    "make", [Bag, lambda images, labels: (images, labels, torch.zeros(3))], ids=["class", "lengths"]
)
def test_the_size_of_a_batch_is_not_asked_for_our_numbers(make, validate, tmp_path):
    def collate(items: list[Any]) -> Any:
        images, labels = zip(*items, strict=True)
        return make(torch.stack(images), torch.tensor(labels))

    train, val = loader(collate_fn=collate), loader(16, collate_fn=collate)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*batch.size")
        trainer = fit(
            tmp_path,
            SaliencyCallback(probe()),
            module=Unpacking(),
            train=train,
            val=val if validate else None,
            validate=validate,
        )
    assert "saliency/corner.share" in trainer.callback_metrics


# --- a trainer that keeps nothing

KEEPS_NOTHING = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


@pytest.mark.parametrize(
    ("options", "ours", "left"),
    [
        pytest.param({}, {}, [], id="nothing"),
        pytest.param({"default_root_dir": "here"}, {}, ["here"], id="a-folder"),
        pytest.param({"default_root_dir": "."}, {}, ["saliency_logs"], id="this-folder"),
        pytest.param({}, {"check": True}, ["saliency_logs"], id="a-check"),
        pytest.param(
            {"enable_checkpointing": True}, {}, ["checkpoints", "saliency_logs"], id="checkpoints"
        ),
    ],
)
def test_without_a_logger_files_go_where_the_user_says(
    options, ours, left, tmp_path: Path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    check = failing_check() if ours else None
    observer = SaliencyCallback(probe(), targets="label", check=check)
    arguments = {**KEEPS_NOTHING, **options, "max_epochs": 1, "accelerator": "cpu"}
    trainer = pl.Trainer(callbacks=[observer], enable_model_summary=False, **arguments)
    with caplog.at_level("INFO", "pytorch_lightning"):
        trainer.fit(Touchy(), loader(), loader(16))
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Neither the pic")]
    assert len(said) == (not left)
    assert seen(observer) == EPOCHS[:2]
    if left:
        assert len(list(tmp_path.rglob("run.json"))) == 1
