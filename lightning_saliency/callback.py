"""The callback: when to observe. What an observation is, other modules say."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lightning_saliency.attribution import Forward
from lightning_saliency.autoprobe import probe_of
from lightning_saliency.check import AttentionCheck
from lightning_saliency.errors import SaliencyError, SaliencyWarning
from lightning_saliency.gate import Gate
from lightning_saliency.grid import ImageFormat, Style
from lightning_saliency.isolation import random_streams_kept
from lightning_saliency.judge import Seen
from lightning_saliency.live import (
    begin_record,
    callable_model,
    current_step,
    log_verdict,
    metrics_of,
    observer_of,
)
from lightning_saliency.logbook import Logbook
from lightning_saliency.monitors import check_monitors
from lightning_saliency.observer import Observer, check_tags
from lightning_saliency.occlusion import doubtful
from lightning_saliency.options import OnError, Options
from lightning_saliency.pictures import Scale
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.ranks import Ranks
from lightning_saliency.record import Observation, RunInfo
from lightning_saliency.report import accepting, as_text
from lightning_saliency.rules import Rule
from lightning_saliency.schedule import Schedule
from lightning_saliency.verdict import Verdict

UNTRAINED = "untrained"
_FILES = "No logger of this trainer takes pictures: the maps are PNG files in {}"


class SaliencyWatch:
    """Explain a fixed probe batch at epoch ends and log the maps as pictures.

    For each probe image a mosaic goes to the loggers at each observation, under
    ``saliency/<image name>``: the image, then a tile a class with its probability, the true class
    framed, the predicted one bold. When training ends, a film strip an image follows under
    ``saliency_filmstrip/<image name>``: a row a class, a column an observation, at most twelve.
    TensorBoard, W&B and MLflow take the pictures; with none of these they are PNG files in the
    run's folder.

    The run is left as it was: weights, metrics and random streams are those of a run without it.

    Args:
        probe: The images. Without, eight of the validation dataset (training, where there is
            none), spread over its classes, the same ones in every run with the same data.
        targets: The classes to explain: ``"auto"``, all up to ten, else the label and the four
            strongest others; ``"all"``; ``"label"``; ``"predicted"``; ``"top3"`` or any number;
            or a list of indices or class names.
        rule: ``"guided_backprop"``, ``"gradient"`` or ``"deconvnet"``.
        every_n_epochs: Epoch E, counted from 0, is observed at its end where
            ``(E + 1) % every_n_epochs == 0``; 0 for none.
        epochs: The epochs to observe, counted from 0, in place of ``every_n_epochs``.
        every_n_train_steps: Optimizer steps between observations, in addition to epoch ends.
        at_start: Whether the untrained model is observed. The trained one always is.
        forward: ``forward(pl_module, images)`` returns the logits, for a module that is not
            called plainly.
        style: ``"signed"``, red where the logit rises with the pixel, blue where it falls;
            ``"magnitude"``; or ``"overlay"`` on the image.
        scale: ``"map"``: each map is as strong as its own peak; or a number, logits per input
            unit, at which all maps of the run saturate, so that strengths can be compared.
        tile_size: Pixels a side of a tile, at most.
        image_format: ``"jpeg"`` or ``"png"``, of the pictures in TensorBoard.
        chunk_size: Images in one forward pass; all by default.
        check: What the run is held against; see :class:`AttentionCheck`.
        record: Whether each observation is kept in the run's folder, for checks and comparisons.
        keep: Observations that stay there, at most, the first and the last among them.
        on_error: ``"raise"``, or ``"warn"`` to go on training when an observation fails.
        name: Prefix of the tags, different for each callback of a trainer.

    Raises:
        TypeError: ``probe`` is no :class:`ProbeBatch`.
        ValueError: An argument out of range; the message says what is allowed.
        SaliencyError: While training, a model that cannot be explained.
    """

    def __init__(
        self,
        probe: ProbeBatch | None = None,
        *,
        targets: str | list[int] | list[str] = "auto",
        rule: Rule = "guided_backprop",
        every_n_epochs: int = 1,
        epochs: Sequence[int] | None = None,
        every_n_train_steps: int | None = None,
        at_start: bool = True,
        forward: Forward | None = None,
        style: Style = "signed",
        scale: Scale = "map",
        tile_size: int = 96,
        image_format: ImageFormat = "jpeg",
        chunk_size: int | None = None,
        check: AttentionCheck | None = None,
        record: bool = True,
        keep: int | None = None,
        on_error: OnError = "raise",
        name: str = "saliency",
    ) -> None:
        super().__init__()
        if probe is not None and not isinstance(probe, ProbeBatch):
            raise TypeError(
                f"`probe` must be a ProbeBatch or None, got {type(probe).__name__}. "
                "Wrap tensors as `ProbeBatch(images, labels)`."
            )
        self.options = Options(
            targets=targets,
            rule=rule,
            forward=forward,
            style=style,
            scale=scale,
            tile_size=tile_size,
            image_format=image_format,
            chunk_size=chunk_size,
            record=record,
            keep=keep,
            on_error=on_error,
            name=name,
        )
        self.schedule = Schedule(every_n_epochs, epochs, every_n_train_steps)
        if check is not None and not isinstance(check, AttentionCheck):
            raise TypeError(
                f"`check` must be an AttentionCheck or None, got {type(check).__name__}. "
                "Wrap the folder of a reference as `AttentionCheck('folder')`."
            )
        self._given, self._at_start, self.check = probe, at_start, check
        self._trainer: weakref.ref[Any] | None = None
        self._stage = ""
        self._begin()

    def _begin(self) -> None:
        """Know nothing of any run."""
        self.probe = self._given
        self._logbook = Logbook()
        self._observer: Observer | None = None
        self._epoch = self._told_epoch = -1  # that is trained; that monitors were told of
        self._steps_done = 0  # by the optimizers, at the last look
        self._sharded = self._concluded = False
        self._warned: set[str] = set()  # of what failed
        self._info: RunInfo | None = None
        self._past: int | None = None  # the last step of it
        self._gate = None if self.check is None else Gate(self.check)
        self._seen: Observation | None = None

    @property
    def name(self) -> str:
        """The prefix of the tags."""
        return self.options.name

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps this callback's state; by name, so that several can live."""
        return f"SaliencyCallback[{self.name}]"

    def __getstate__(self) -> dict[str, Any]:
        """What tuners and spawned processes copy: nothing that belongs to a trainer."""
        return {**self.__dict__, "_trainer": None, "_observer": None, "_seen": None}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what could not work, and begin anew where this is another trainer's run."""
        if self._trainer is None or self._trainer() is not trainer:
            self._trainer = weakref.ref(trainer)
            self._begin()
        self._stage = stage
        check_monitors(trainer, self.name, self.schedule)
        others = [c.name for c in trainer.callbacks if isinstance(c, SaliencyWatch)]
        check_tags(self.name, others, self.probe)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of the model."""
        self._observer = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose the probe and the classes, and observe the untrained model."""
        self._prepare(trainer, pl_module)
        # A run that is resumed in mid-epoch does not begin the epoch again.
        self._epoch, self._steps_done = trainer.current_epoch, trainer.global_step
        if self._at_start and trainer.global_step == 0:
            self._observe(trainer, pl_module, UNTRAINED, current_step(trainer))

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Observe where a training step is due."""
        before, self._steps_done = self._steps_done, trainer.global_step
        # Remembered, for once the epoch has ended, the trainer already counts the next.
        self._epoch, self._logbook.changed = trainer.current_epoch, True
        if self.schedule.due_step(self._steps_done, before):
            self._observe(trainer, pl_module, f"step {self._steps_done}", current_step(trainer))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe a due epoch's end at its last validation, which monitors wait for."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit":
            self._observe_alone(trainer, pl_module, "validated")
        elif trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._observe_epoch(trainer, pl_module, current_step(trainer))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the model that is tested."""
        self._observe_alone(trainer, pl_module, "tested")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe a due epoch's end where no validation has."""
        self._observe_epoch(trainer, pl_module, current_step(trainer) - 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the trained model, if that is still to be done; draw, write down, judge."""
        _in_turn(
            lambda: self._observe_last(trainer, pl_module),
            lambda: self._conclude(trainer, finished=True),
            lambda: self._judge(trainer, pl_module, last=True),
        )

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Draw the film strips also of a training that is interrupted by hand."""
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1:
            self._conclude(trainer, finished=False)

    def state_dict(self) -> dict[str, Any]:
        """The probe and what was seen of it so far; tensors and primitives only."""
        probe = None if self.probe is None else self.probe.state()
        gate = None if self._gate is None else self._gate.state()
        known = {"probe": probe, "shown": self.options.shown, "gate": gate}
        return {**known, **self._logbook.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run that is resumed left off, with its probe."""
        if self._logbook.last_step >= 0 and self._stage != "fit":
            return  # an earlier model of this very run is tested, the log holds more already
        logbook = Logbook.from_state(state_dict)
        stored = state_dict["probe"] and ProbeBatch.from_state(state_dict["probe"])
        if self.probe is None:
            self.probe = stored
        others = list(self._other_than(stored, state_dict["shown"]))
        if self._gate is not None and not others:
            self._gate.go_on(state_dict["gate"])
        for then, now in others:
            self._say(
                f"the run that is resumed had {then}; the pictures of {self.name!r} begin anew "
                f"with {now}."
            )
            logbook = logbook.blank()
        logbook.last_step = max(logbook.last_step, self._logbook.last_step)
        self._logbook = logbook

    def _other_than(
        self, probe: ProbeBatch | None, shown: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """In words, what a run had and what is passed to go on with it, where these differ."""
        given = self.probe
        if probe is not None and given is not None and probe.fingerprint != given.fingerprint:
            yield "another probe", "the one passed. Pass `probe=None` to go on with that of the run"
        for key, value in self.options.shown.items():
            if value != shown[key]:
                yield f"`{key}={shown[key]!r}`", f"`{key}={value!r}`"

    def _prepare(self, trainer: Any, pl_module: Any) -> None:
        ranks = Ranks(trainer)
        self._sharded = ranks.sharded
        if ranks.sharded and self.options.on_error == "warn":
            raise SaliencyError(
                "`on_error='warn'` cannot be kept under a sharded strategy: a process that fails "
                "in a pass leaves the others waiting. Use `on_error='raise'`."
            )
        with ranks.together("preparing to observe"):
            if self.probe is None:
                self.probe = probe_of(trainer, pl_module)
        if ranks.world > 1:
            self.probe = ProbeBatch.from_state(ranks.of_first(self.probe.state()))
        self._observer = observer_of(
            trainer, pl_module, self.probe, self.options, self._logbook, self.check
        )
        # Outside of training, what is in the folder is of the model's past, and stays.
        self._past = self._logbook.last_step if self._stage == "fit" else None
        self._info, self._concluded = None, False

    def _observe_alone(self, trainer: Any, pl_module: Any, caption: str) -> None:
        """Observe outside of training, once; a failure there does not cost the metrics."""
        with self._tolerant("preparing to observe"):
            self._prepare(trainer, pl_module)
            self._observe(trainer, pl_module, caption, current_step(trainer))

    def _observe_last(self, trainer: Any, pl_module: Any) -> None:
        if self._logbook.changed:
            step = current_step(trainer) - 1
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step)

    def _observe_epoch(self, trainer: Any, pl_module: Any, step: int) -> None:
        if not self.schedule.due_epoch(self._epoch):
            return
        if self._logbook.changed:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step)
        if self._told_epoch != self._epoch:
            with self._tolerant("telling monitors what was measured"):
                self._tell_monitors(pl_module)
        # After a validation, and again where it waits for what the module logs later in the epoch.
        self._judge(trainer, pl_module, last=False)

    def _tell_monitors(self, pl_module: Any) -> None:
        """Log what was last measured where monitors look; the loggers have it already."""
        self._told_epoch = self._epoch
        if self._logbook.measured:
            pl_module.log_dict(
                self._logbook.measured,
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                logger=False,
            )

    def _observe(self, trainer: Any, pl_module: Any, caption: str, step: int) -> None:
        if self._observer is None:
            return
        self._seen = None  # what was seen before is not of the model as it is now
        with self._tolerant("observing the model", caption):
            if self._info is None:
                told = {**self.options.told, **self.schedule.told}
                self._info = begin_record(self._observer, self.name, told, after=self._past)
            step = self._logbook.turn_page(step)
            model = callable_model(trainer, pl_module)
            shown, self._seen = self._observer.observe(model, caption, step, epoch=self._epoch)
            self._observer.keep(shown, self._seen)

    def _conclude(self, trainer: Any, *, finished: bool) -> None:
        """Draw the film strips, and write down how the run ended; once."""
        if self._concluded:
            return
        _in_turn(self._draw_filmstrips, lambda: self._end_record(trainer, finished=finished))
        self._concluded = True

    def _draw_filmstrips(self) -> None:
        if self._observer is None:
            return
        with self._tolerant("drawing the film strips"):
            self._observer.draw_filmstrips()
            if self._observer.files_at is not None:
                rank_zero_info(_FILES.format(self._observer.files_at))

    def _end_record(self, trainer: Any, *, finished: bool) -> None:
        if self._observer is None:
            return
        with self._tolerant("writing down how the run ended"):
            # On every rank, for metrics that are of all ranks are brought together only now.
            self._observer.end_record(self._metrics(trainer), finished=finished)

    def _metrics(self, trainer: Any) -> dict[str, float]:
        ours = [c.name for c in trainer.callbacks if isinstance(c, SaliencyWatch)]
        return metrics_of(trainer, ours)

    def _judge(self, trainer: Any, pl_module: Any, *, last: bool) -> None:
        """Hold what was seen last against the check, where that is due, and act on the verdict."""
        gate, observer = self._gate, self._observer
        if gate is None or observer is None:
            return
        verdict = seen = None
        with self._tolerant("checking where the model looks"):
            # Metrics may differ from rank to rank; what is decided by them must not.
            metrics = observer.ranks.of_first(self._metrics(trainer))
            if self._info is not None and self._seen is not None:
                seen = Seen(self._info, self._seen, metrics)
            verdict = gate.judge(seen, metrics, last=last)
        if verdict is not None and seen is not None:
            # Neither makes the verdict, so that neither can hide it.
            with self._tolerant("hiding what gained most"):
                model = callable_model(trainer, pl_module)
                verdict = observer.confirm(verdict, model, seen.observation.measured)
            with self._tolerant("drawing what moved"):
                log_verdict(observer, gate.check, seen, verdict)
        if verdict is not None:
            self._act_on(verdict, gate, trainer, last=last)

    def _act_on(self, verdict: Verdict, gate: Gate, trainer: Any, *, last: bool) -> None:
        """Do on all ranks what a verdict asks for, and tell it on one."""
        told: str = verdict.outcome
        with self._tolerant("telling what came of the check"):
            moment = f" at {self._seen.caption}" if self._seen is not None else ""
            told = as_text(
                verdict,
                f"{self.name}{moment}",
                pictures=self._drawn_at(verdict),
                accept=self._accept(gate),
            )
        if gate.shut and gate.check.on_fail == "raise":
            _in_turn(
                lambda: None if last else self._conclude(trainer, finished=False),
                lambda: _raise(SaliencyError(told)),
            )
        if gate.shut and gate.check.on_fail == "stop":
            trainer.should_stop = True
            told += "" if last else "\n  Training stops."
        if verdict.outcome == "pass" and not verdict.warnings:
            rank_zero_info(told.splitlines()[0])
        elif trainer.is_global_zero:
            self._say(told)

    def _drawn_at(self, verdict: Verdict) -> str:
        """Where the picture of a verdict is, if one was drawn."""
        return f"logged as {self.name}_attention/difference" if doubtful(verdict) else ""

    def _accept(self, gate: Gate) -> str:
        """The command that accepts a change, where the run is recorded and the reference kept."""
        folder = None if self._observer is None else self._observer.recorded_at
        if folder is None or gate.check.folder is None:
            return ""
        return accepting(str(folder), str(gate.check.folder))

    @contextmanager
    def _tolerant(self, doing: str, when: str = "") -> Iterator[None]:
        """Raise what fails inside with a word on where, or warn of it once and go on."""
        # Loggers draw random numbers too: for names of files, for pauses before they try again.
        with random_streams_kept():
            try:
                yield
            except Exception as error:
                self._deal_with(error, doing, when)

    def _deal_with(self, error: Exception, doing: str, when: str) -> None:
        told = f"{type(error).__name__}: {error}"
        failed = f"{doing} ({when}) failed" if when else f"{doing} failed"
        if self.options.on_error == "raise" and (self._stage == "fit" or self._sharded):
            raise SaliencyError(
                f"{failed}: {told}\nWith `on_error='warn'` training goes on in such a case."
            ) from error
        if doing not in self._warned:
            what = "training" if self._stage == "fit" else "the run"
            self._say(f"{failed}, {what} goes on: {told}")
        self._warned.add(doing)

    def _say(self, message: str) -> None:
        warnings.warn(message, SaliencyWarning, stacklevel=3)


def _in_turn(*steps: Callable[[], None]) -> None:
    """Take each step, whatever error the ones before it ended in; then raise it."""
    if not steps:
        return
    try:
        steps[0]()
    except Exception:
        _in_turn(*steps[1:])
        raise
    _in_turn(*steps[1:])


def _raise(error: Exception) -> None:
    raise error


class SaliencyCallback(SaliencyWatch, pl.Callback):  # noqa: D101
    __doc__ = SaliencyWatch.__doc__
