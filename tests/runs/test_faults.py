"""Whatever fails during an observation, the run and what it has logged stay unchanged."""

from __future__ import annotations

import copy
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
import pytest
import pytorch_lightning as pl
import torch
import training
from faults import FAULTS
from matrix import Shapes, Touchy, differences, failing_check, probe, run_state
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

import lightning_saliency
from lightning_saliency import SaliencyCallback, SaliencyError, explain
from lightning_saliency.attribution.passes import PassOptions, Request, compute
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.record.run import open_run

PACKAGE = str(Path(lightning_saliency.__file__).parent)

# The code that restores a module cannot be expected to survive a failure within itself.
GIVING_BACK = {"restore", "_restore"}


class InjectedError(Exception):
    """The error that is raised at a chosen call."""


def is_giving_back(frame: Any) -> bool:
    """Whether a call is one of those that restore something, or made by one of them."""
    while frame is not None:
        if frame.f_code.co_name in GIVING_BACK and "isolation" in frame.f_code.co_filename:
            return True
        frame = frame.f_back
    return False


class CallBreaker:
    """Raises at the n-th call of any function of the package while a block runs."""

    def __init__(self, at: int | None, error: type[BaseException] = InjectedError) -> None:
        self.at, self.error = at, error
        self.calls = 0
        self.where = ""
        self._numbers: dict[tuple[Any, ...], list[int]] = {}

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        if code.co_name.startswith("<") or is_giving_back(frame):
            return
        # An error at the resumption of a generator reaches the generator, which gives back what it
        # borrowed. Python 3.10 would end it there instead, which no real error or signal can do.
        if sys.version_info < (3, 11) and frame.f_lasti >= 0:
            return
        self.calls += 1
        line = (code, frame.f_back.f_code, frame.f_back.f_lineno)
        self._numbers.setdefault(line, []).append(self.calls)
        if self.calls == self.at:
            self.where = f"{Path(code.co_filename).name}:{code.co_name}"
            raise self.error(f"at {self.where}")

    def ends(self) -> list[int]:
        """The numbers of the first and the last call from each line of the code."""
        return sorted({n for numbers in self._numbers.values() for n in (numbers[0], numbers[-1])})

    @contextmanager
    def active(self) -> Iterator[None]:
        sys.setprofile(self)
        try:
            yield
        finally:
            sys.setprofile(None)


def state_of(module: torch.nn.Module) -> dict[str, Any]:
    return {
        "modes": [m.training for m in module.modules()],
        "values": {k: v.clone() for k, v in module.state_dict().items()},
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "attributes": sorted(key for m in module.modules() for key in m.__dict__),
        "hooks": [len(m._forward_hooks) + len(m._backward_hooks) for m in module.modules()],
        "torch RNG": torch.get_rng_state(),
        "grad mode": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("error", [InjectedError, KeyboardInterrupt])
def test_an_error_at_any_call_leaves_the_module_as_it_was(error):
    module, images = Touchy().train(), probe().images
    module.norm1.eval()
    module.head.weight.grad = torch.ones_like(module.head.weight)
    module.head.bias.requires_grad_(False)
    before = state_of(module)
    explain(module, images)  # Some calls are made only once, because their result is remembered.
    counting = CallBreaker(None)
    with counting.active():
        explain(module, images)
    assert counting.calls > 30
    for number in range(1, counting.calls + 1):
        breaker = CallBreaker(number, error)
        with pytest.raises(error), breaker.active():
            explain(module, images)
        assert differences(before, state_of(module)) == [], breaker.where


# The error policy, the guard of random streams inside it, and the warning that it ends with.
POLICY = {"_observe", "__call__", "random_streams_kept", "_cuda_in_use"}
POLICY |= {"_check", "check", "_act_on", "exhausted", "warn"}


class BreakCalls(pl.Callback):
    """Observes again and again in mid-training, and lets another call fail each time.

    It does so for the calls of an observation, and for those of a check that fails and is
    confirmed: for the first and the last from each line of the code, or for every single one.
    """

    def __init__(self, observer: SaliencyCallback, error: type[BaseException], every: bool) -> None:
        self.observer, self.error, self.every = observer, error, every
        self.survived: list[str] = []
        self.raised: list[str] = []
        self.noticed: list[str] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if trainer.global_step != 3:
            return
        for step in (self.observe, self.judge):
            self.observer._session._observe(trainer, pl_module, "whole", 0)
            before = run_state(trainer, pl_module)
            step(trainer, pl_module, CallBreaker(None))  # the first time, fonts are searched for
            counting = CallBreaker(None)
            step(trainer, pl_module, counting)
            assert counting.calls > 50
            numbers = range(1, counting.calls + 1) if self.every else counting.ends()
            for number in numbers:
                breaker = CallBreaker(number, self.error)
                try:
                    step(trainer, pl_module, breaker)
                    self.survived.append(breaker.where)
                except (SaliencyError, self.error):
                    self.raised.append(breaker.where)
                if differences(before, run_state(trainer, pl_module)):
                    self.noticed.append(breaker.where)

    def observe(self, trainer: Any, pl_module: Any, breaker: CallBreaker) -> None:
        with breaker.active():
            self.observer._session._observe(trainer, pl_module, "broken", 0)

    def judge(self, trainer: Any, pl_module: Any, breaker: CallBreaker) -> None:
        session = self.observer._session
        session._gate.started, session._gate.judged_at = True, -1
        with breaker.active():
            session._check(trainer, pl_module, last=False)


# Each takes half a minute, so two of the six are slow tests.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "every", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["ends", "every"]
)
@pytest.mark.parametrize(
    ("on_error", "error", "files"),
    [
        pytest.param("warn", InjectedError, False, id="warn-tensorboard"),
        pytest.param("warn", InjectedError, True, id="warn-files"),
        pytest.param("raise", InjectedError, False, id="raise-tensorboard"),
        pytest.param("raise", InjectedError, True, id="raise-files", marks=pytest.mark.slow),
        pytest.param("warn", KeyboardInterrupt, True, id="interrupted-files"),
        pytest.param(
            "warn", KeyboardInterrupt, False, id="interrupted-tensorboard", marks=pytest.mark.slow
        ),
    ],
)
def test_training_goes_on_bitwise_whatever_call_of_an_observation_fails(
    on_error, error, files, every, tmp_path
):
    """The calls of an observation, and of a check that fails and is confirmed, fail once each."""
    options = {"logger": False} if files else {}
    ends = []
    for observed in (False, True):
        pl.seed_everything(3)
        ours = {"targets": "label", "tile_size": 24, "check": failing_check()}
        observer = SaliencyCallback(probe(), on_error=on_error, **ours)
        breaking = BreakCalls(observer, error, every)
        module = Touchy()
        callbacks = [observer, breaking] if observed else []
        trainer = training.fit(tmp_path / str(observed), *callbacks, module=module, **options)
        ends.append(run_state(trainer, module))
    assert differences(*ends) == []
    assert breaking.noticed == []
    assert len(breaking.survived) + len(breaking.raised) > 300
    called = {where.split(":")[1] for where in (*breaking.survived, *breaking.raised)}
    assert called >= {"add", "encode_observation", "judge", "evaluate", "hidden", "draw", "as_text"}
    if on_error == "warn" and error is InjectedError:
        assert {where.split(":")[1] for where in breaking.raised} == POLICY
    else:
        assert breaking.survived == []
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in FAULTS])
def test_a_fault_leaves_no_trace(name, tmp_path):
    kept = faults.cells(FAULTS[name], tmp_path)
    assert kept == dict.fromkeys((*faults.COLUMNS, faults.LOGGED), True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if not fault.by_hand])
def test_a_fault_is_told_with_where_and_what(name, tmp_path):
    fault = FAULTS[name]
    options = {"logger": False} if fault.files else {}
    with pytest.raises(SaliencyError, match=rf"{fault.doing} failed: .*{fault.says}"):
        training.fit(tmp_path, faults.Struck(fault), max_epochs=1, **options)


# --- around an observation


def _once(whole: Any, error: Exception) -> Any:
    """Wrap ``whole`` so that its first call fails."""
    calls: list[None] = []

    def fail(*args: Any, **named: Any) -> Any:
        calls.append(None)
        if len(calls) == 1:
            torch.rand(3)
            raise error
        return whole(*args, **named)

    return fail


AROUND = {
    "beginning the record": (
        "record.writer.RunWriter.begin",
        r"observing the model \(untrained\)",
        2,
    ),
    "what is known of the run": (
        "callback.session.run_info",
        r"observing the model \(untrained\)",
        2,
    ),
    "writing down how it ended": (
        "record.writer.RunWriter.end",
        "writing down how the run ended",
        3,
    ),
    "film strips": ("draw.mosaics.MosaicRenderer.filmstrip", "drawing the film strips", 3),
    "judging": ("check.attention.evaluate", "checking where the model looks", 3),
    "hiding what gained most": ("observe.occlusion.hidden", "hiding what gained most", 3),
    "the pass with it hidden": ("observe.occlusion.run_forward", "hiding what gained most", 3),
    "drawing what moved": ("callback.publisher.draw", "drawing what moved", 3),
    "logging what moved": ("callback.publisher.Publisher.publish_verdict", "drawing what moved", 3),
    "the words of the verdict": ("callback.checking.as_text", "telling what came of the check", 3),
}


def broken_around(folder: Path, name: str, monkeypatch: Any, **ours: Any) -> tuple[Any, list[str]]:
    """Train with a fault around observations; return what is left, and the warnings."""
    place = f"lightning_saliency.{AROUND[name][0]}"
    callback = SaliencyCallback(probe(), targets="label", tile_size=24, **ours)
    with monkeypatch.context() as patched, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        patched.setattr(place, _once(pkgutil.resolve_name(place), OSError("injected")))
        left = state_after(folder, callback)
    return left, [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]


def state_after(folder: Path, *callbacks: Any) -> dict[str, Any]:
    pl.seed_everything(3)
    module = Touchy()
    trainer = training.fit(folder, *callbacks, module=module)
    return {**run_state(trainer, module), "scalars": training.scalars(folder)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", AROUND)
def test_what_fails_around_observations_is_warned_of_and_costs_nothing_else(
    name, tmp_path, monkeypatch
):
    _, doing, observations = AROUND[name]
    check = copy.copy(failing_check())
    check.start_after = None  # so that it is judged once
    left, told = broken_around(tmp_path / "1", name, monkeypatch, on_error="warn", check=check)
    assert differences(state_after(tmp_path / "0"), left) == []
    failures = [t for t in told if re.match(f"{doing} failed, training goes on: .*injected", t)]
    assert len(failures) == 1, told
    # The verdict is reported all the same, unless computing or wording it is what failed.
    words = {"judging": [], "the words of the verdict": ["fail"]}
    verdicts = [t.split()[0] for t in told if t not in failures]
    assert verdicts == words.get(name, ["FAIL"])
    run = open_run(tmp_path / "1")
    assert len([run.observation(step) for step in run.steps()]) == observations
    assert run.info.finished == (name != "writing down how it ended")
    strips = logged(tmp_path / "1", "saliency_filmstrip")
    assert strips == ([] if name == "film strips" else [[9]] * 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", AROUND)
def test_what_fails_around_observations_is_raised_once_the_rest_is_done(
    name, tmp_path, monkeypatch
):
    _, doing, _ = AROUND[name]
    check = copy.copy(failing_check())
    check.start_after = None
    with pytest.raises(SaliencyError, match=f"{doing} failed: OSError: injected"):
        broken_around(tmp_path, name, monkeypatch, check=check)
    if "untrained" in doing:
        return  # before the first step
    run = open_run(tmp_path)
    assert len([run.observation(step) for step in run.steps()]) == 3
    assert run.info.finished == (name != "writing down how it ended")
    strips = logged(tmp_path, "saliency_filmstrip")
    assert strips == ([] if name == "film strips" else [[9]] * 4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["writing down how it ended", "film strips"])
def test_a_failure_at_the_end_does_not_let_a_run_pass(name, tmp_path, monkeypatch):
    check = copy.copy(failing_check())
    check.start_after, check.on_fail = None, "raise"
    with pytest.raises(SaliencyError, match=r"^FAIL  saliency at epoch 1"):
        broken_around(tmp_path, name, monkeypatch, check=check)


@pytest.mark.filterwarnings("ignore")
def test_a_check_that_raises_in_mid_training_leaves_everything_written(tmp_path):
    check = copy.copy(failing_check())
    check.on_fail = "raise"
    with pytest.raises(SaliencyError, match=r"^FAIL  saliency at epoch 0"):
        state_after(tmp_path, SaliencyCallback(probe(), targets="label", check=check))
    run = open_run(tmp_path)
    assert [run.observation(step).caption for step in run.steps()] == ["untrained", "epoch 0"]
    assert run.info.metrics.keys() == {"loss", "val_acc"}
    assert not run.info.finished
    assert logged(tmp_path, "saliency_filmstrip") == [[4]] * 4
    assert logged(tmp_path, "saliency_attention") == [[4]]


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_could_not_be_observed_in_the_end_does_not_pass_by_what_it_was(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(Touchy, "forward", fails_late(Touchy.forward))
    callback = SaliencyCallback(probe(), targets="label", check=failing_check(), on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state_after(tmp_path, callback)
    told = [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]
    assert [t.split(",")[0].split(":")[0] for t in told] == [
        "FAIL  saliency at epoch 0",
        "observing the model (epoch 1) failed",
        "INCONCLUSIVE  saliency",
    ]


@pytest.mark.filterwarnings("ignore")
def test_a_run_interrupted_while_it_is_judged_is_over_all_the_same(tmp_path, monkeypatch):
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lightning_saliency.check.attention.evaluate", interrupted)
    check = copy.copy(failing_check())
    check.start_after = None
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        state_after(tmp_path, SaliencyCallback(probe(), targets="label", check=check))
    assert open_run(tmp_path).info.finished
    assert logged(tmp_path, "saliency_filmstrip") == [[9]] * 4  # once, not twice


@pytest.mark.filterwarnings("ignore")
def test_each_thing_that_fails_is_warned_of_once(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise OSError("no strips")

    monkeypatch.setattr(Touchy, "forward", fails_late(Touchy.forward))
    monkeypatch.setattr("lightning_saliency.draw.mosaics.MosaicRenderer.filmstrip", fail)
    callback = SaliencyCallback(probe(), every_n_train_steps=2, on_error="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        state_after(tmp_path, callback)
    told = [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]
    assert [t.split(", training goes on")[0] for t in told] == [
        "observing the model (step 6) failed",
        "drawing the film strips failed",
    ]


def fails_late(whole: Any) -> Any:
    def forward(module: Touchy, images: torch.Tensor) -> torch.Tensor:
        if images.requires_grad and module.current_epoch == 1:
            raise ArithmeticError("late")
        return whole(module, images)

    return forward


def fit(
    folder: Path, callback: SaliencyCallback, *, module: pl.LightningModule | None = None
) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
    )
    data = Shapes(16, augment=False)
    trainer.fit(module or Touchy(), DataLoader(data, batch_size=8), DataLoader(data, batch_size=8))
    return trainer


def logged(folder: Path, kind: str = "saliency") -> list[list[int]]:
    """The steps of the pictures under ``kind``, one list per tag."""
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith(kind + "/")]
    return [[e.step for e in events.Images(tag)] for tag in tags]


class Exploding(Touchy):
    """Its weights become infinite after the first epoch."""

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.current_epoch == 1:
            torch.nn.init.constant_(self.head.weight, float("inf"))


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
def test_a_run_that_diverges_is_drawn_as_such_with_a_warning(tmp_path):
    with pytest.warns(SaliencyWarning, match="NaN or infinite values. Has training diverged"):
        fit(tmp_path, SaliencyCallback(probe()), module=Exploding())
    assert logged(tmp_path) == [[0, 1, 3]] * 4


class Unreadable(Touchy):
    def forward(self, images: torch.Tensor) -> Any:
        return {"prediction": super().forward(images).argmax(dim=1)}

    def training_step(self, batch: Any, _: int) -> None:
        return None

    def validation_step(self, batch: Any, _: int) -> None:
        return None


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_cannot_be_explained_fails_before_the_first_step(tmp_path):
    module = Unreadable()
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(SaliencyError, match="no logits found in the model's output, a dict"):
        fit(tmp_path, SaliencyCallback(probe()), module=module)
    assert differences(before, dict(module.state_dict())) == []


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.parametrize("on_error", ["raise", "warn"])
def test_a_logger_that_fails(on_error, tmp_path, monkeypatch):
    callback = SaliencyCallback(probe(), on_error=on_error)
    from lightning_saliency.callback.adapters import ADAPTERS, Adapter

    calls = []

    def full(*args: object) -> None:
        calls.append(args)
        if len(calls) == 7:
            raise OSError(28, "No space left on device")
        send_picture(*args)

    send_picture = ADAPTERS["TensorBoardLogger"].send_picture
    monkeypatch.setitem(ADAPTERS, "TensorBoardLogger", Adapter(full))
    message = r"observing the model \(epoch 0\) failed.*No space left on device"
    if on_error == "raise":
        with pytest.raises(SaliencyError, match=message):
            fit(tmp_path, callback)
    else:
        with pytest.warns(SaliencyWarning, match=message):
            fit(tmp_path, callback)
    steps = logged(tmp_path)
    # What was logged before stays, and under "warn" the next observation is complete again.
    assert steps == (
        [[0, 1, 3]] * 2 + [[0, 3]] * 2 if on_error == "warn" else [[0, 1]] * 2 + [[0]] * 2
    )


@pytest.mark.filterwarnings("ignore")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the run's folder should be")
    trainer = pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=blocked / "run",
        callbacks=[SaliencyCallback(probe(), on_error="warn")],
    )
    loader = DataLoader(Shapes(16, augment=False), batch_size=8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(Touchy(), loader)
    told = [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]
    assert len(told) == 1
    assert "observing the model (untrained) failed, training goes on" in told[0]
    assert trainer.global_step == 2
    assert blocked.read_text() == "a file where the run's folder should be"


@pytest.mark.filterwarnings("ignore")
def test_an_interruption_in_mid_observation_still_leaves_film_strips(tmp_path, monkeypatch):
    from lightning_saliency.observe import observer

    reduced = observer.take_snapshot

    def interrupted(*args: Any, **named: Any) -> Any:
        if named["caption"] == "epoch 1":
            raise KeyboardInterrupt
        return reduced(*args, **named)

    monkeypatch.setattr(observer, "take_snapshot", interrupted)
    module = Touchy()
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, SaliencyCallback(probe()), module=module)
    assert logged(tmp_path) == [[0, 1]] * 4
    assert logged(tmp_path, "saliency_filmstrip") == [[1]] * 4


# --- memory


class Short(Touchy):
    """Has memory for a limited number of images in a pass that needs gradients."""

    room = 4

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if not self.training and torch.is_grad_enabled() and len(images) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(images)


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning")
@pytest.mark.parametrize(("room", "chunk"), [(2, 2), (1, 1), (3, 2)])
def test_when_memory_runs_out_fewer_images_pass_at_a_time(room, chunk, tmp_path):
    module, whole = Short(), SaliencyCallback(probe(), name="whole")
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    same = copy.deepcopy(module)
    fit(tmp_path / "1", whole, module=module)
    same.room = room
    chunked = SaliencyCallback(probe(), name="chunked")
    with pytest.warns(SaliencyWarning, match=rf"memory ran out; .* Set `chunk_size={chunk}`"):
        fit(tmp_path / "2", chunked, module=same)
    first, second = (training.shown(c)[0] for c in (whole, chunked))
    torch.testing.assert_close(second.peaks, first.peaks, rtol=1e-5, atol=0)
    assert logged(tmp_path / "2", "chunked") == [[0, 1, 3]] * 4


@pytest.mark.filterwarnings("ignore")
def test_memory_that_is_not_enough_for_one_image_is_reported(tmp_path):
    module = Short()
    module.room = 0
    with pytest.raises(SaliencyError, match="memory ran out while explaining a single image"):
        explain(module.eval(), probe().images)


def test_memory_of_a_pass_that_others_take_part_in_is_reported_with_the_remedy():
    """If one rank alone halved its chunks, the ranks would no longer make the same passes."""
    module, images = Short().eval(), probe().images
    module.room = 3
    plan = PassOptions(lambda model, x: model(x), alone=False)
    with pytest.raises(SaliencyError, match=r"Other processes take part.*Set `chunk_size=2`"):
        compute(plan, module, images, [Request(("gradient",))])


# --- what a model returns and takes


@dataclass
class Output:
    logits: torch.Tensor
    hidden: torch.Tensor


FORMS = {
    "a dict": lambda logits: {"hidden": logits * 2, "logits": logits},
    "a tuple": lambda logits: (logits, logits * 2),
    "an object": lambda logits: Output(logits, logits * 2),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", FORMS)
def test_a_model_may_return_more_than_logits(form, tmp_path):
    class Wrapped(Touchy):
        def forward(self, images: torch.Tensor) -> Any:
            return FORMS[form](super().forward(images))

        def loss(self, batch: Any) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(Touchy.forward(self, batch[0]), batch[1])

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("val_loss", self.loss(batch))

    fit(tmp_path, SaliencyCallback(probe()), module=Wrapped())
    assert logged(tmp_path) == [[0, 1, 3]] * 4


class Positioned(Touchy):
    """Needs more than images, and knows itself where to take it from."""

    def forward(self, images: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return super().forward(images + positions)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        logits = self(batch[0], torch.zeros(()))
        return torch.nn.functional.cross_entropy(logits, batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_loss", self.training_step(batch, 0))


@pytest.mark.filterwarnings("ignore")
def test_a_model_that_needs_more_than_images_is_called_by_a_function(tmp_path):
    with pytest.raises(SaliencyError, match=r"missing 1 required positional argument: .positions"):
        fit(tmp_path / "1", SaliencyCallback(probe()), module=Positioned())
    called = SaliencyCallback(probe(), forward=lambda module, images: module(images, images * 0))
    fit(tmp_path / "2", called, module=Positioned())
    assert logged(tmp_path / "2") == [[0, 1, 3]] * 4
