"""The runs of one trainer, from their first observation to their verdict."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_saliency.callback.build import build_observer, build_publisher
from lightning_saliency.callback.checking import Checking
from lightning_saliency.callback.default_probe import choose_probe
from lightning_saliency.callback.failures import Tolerance, in_turn, warn
from lightning_saliency.callback.options import Options
from lightning_saliency.callback.publisher import Publisher
from lightning_saliency.callback.schedule import Schedule, check_schedulers
from lightning_saliency.callback.trainer import (
    Trainer,
    build_ranks,
    callable_model,
    current_step,
    inform,
    logged_metrics,
)
from lightning_saliency.check.attention import AttentionCheck, Gate
from lightning_saliency.observe.history import History
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import Observation
from lightning_saliency.record.run import RunInfo

UNTRAINED = "untrained"


class Session:
    """What a callback knows of the runs of one trainer: a training, validations and tests.

    Args:
        probe: What the user passed; ``None`` to choose one of the trainer's data.
        options: What to show and how.
        schedule: When to observe.
        check: What the run is held against.
        trainer: Whose run it is; ``None`` before there is one.

    Attributes:
        ours: The names of all our callbacks in the trainer.
        probe: The images, once they are known.
        history: What was seen so far.
        tolerance: What happens if part of an observation fails.
    """

    def __init__(
        self,
        probe: ProbeBatch | None,
        options: Options,
        schedule: Schedule,
        check: AttentionCheck | None,
        trainer: Trainer | None = None,
    ) -> None:
        self.probe, self.history = probe, History()
        self.tolerance = Tolerance(options.on_error)
        self._options, self._schedule = options, schedule
        self.ours: list[str] = []
        self._trainer = None if trainer is None else weakref.ref(trainer)
        self._gate = None if check is None else Gate(check)
        self._epoch = -1  # the current one, or the last; trainers count on before hooks are called
        self._reported_epoch = -1  # the last one whose scalars were given to monitors
        self._steps_done = 0  # by the optimizers, when last looked at
        self._concluded = False
        self._past: int | None = None  # the last step of the run that is resumed
        self._info: RunInfo | None = None
        self._forget()

    def _forget(self) -> None:
        self._observer: Observer | None = None
        self._publisher: Publisher | None = None
        self._checking: Checking | None = None
        self._observation: Observation | None = None  # of the model as it is now

    def __getstate__(self) -> dict[str, Any]:
        """What tuners and spawned processes copy: nothing that belongs to a trainer."""
        live = ("_trainer", "_observer", "_publisher", "_checking", "_observation")
        return {**self.__dict__, **dict.fromkeys(live)}

    def belongs_to(self, trainer: Trainer) -> bool:
        """Whether this is a run of ``trainer``."""
        return self._trainer is not None and self._trainer() is trainer

    def release(self) -> None:
        """Let go of the model and of all that refers to it."""
        self._forget()

    # The moments of a run, called by the hooks.

    def start(self, trainer: Trainer, pl_module: Any) -> None:
        """Choose the probe and the classes, and observe the untrained model."""
        ranks = self._join_ranks(trainer)
        check_schedulers(trainer, self._options.name, self._schedule)
        with self.tolerance("preparing to observe", unchanged=True):
            self._prepare(trainer, pl_module, ranks)
        # A run that is resumed in mid-epoch does not begin the epoch again.
        self._epoch, self._steps_done = trainer.current_epoch, trainer.global_step
        if self._schedule.at_start and trainer.global_step == 0:
            self._observe(trainer, pl_module, UNTRAINED, current_step(trainer))

    def step(self, trainer: Trainer, pl_module: Any) -> None:
        """Note that the model was trained, and observe it if a training step is due."""
        before, self._steps_done = self._steps_done, trainer.global_step
        self._epoch, self.history.changed = trainer.current_epoch, True
        if self._schedule.due_step(self._steps_done, before):
            self._observe(trainer, pl_module, f"step {self._steps_done}", current_step(trainer))

    def end_epoch(self, trainer: Trainer, pl_module: Any, step: int) -> None:
        """Observe the end of a due epoch, once; give its scalars to monitors; check it."""
        if not self._schedule.due_epoch(self._epoch):
            return
        if self.history.changed:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step)
        if self._reported_epoch != self._epoch:
            with self.tolerance("telling monitors what was measured"):
                self._report_to_monitors(pl_module)
        # After a validation, and again when training's part of the epoch ends: the condition of a
        # check may wait for what the module logs in between.
        self._check(trainer, pl_module, last=False)

    def observe_alone(self, trainer: Trainer, pl_module: Any, caption: str) -> None:
        """Observe outside of training, once; a failure there does not cost the metrics."""
        with self.tolerance("preparing to observe"):
            self._prepare(trainer, pl_module, self._join_ranks(trainer))
            self._observe(trainer, pl_module, caption, current_step(trainer))

    def end(self, trainer: Trainer, pl_module: Any) -> None:
        """Observe the trained model, if that is still to be done; draw, write down, judge."""
        in_turn(
            lambda: self._observe_last(trainer, pl_module),
            lambda: self.conclude(trainer, finished=True),
            lambda: self._check(trainer, pl_module, last=True),
        )

    def conclude(self, trainer: Trainer, *, finished: bool) -> None:
        """Draw the film strips, and write down how the run ended; once."""
        publisher = self._publisher
        if self._concluded or publisher is None:
            return
        in_turn(
            lambda: self._draw_filmstrips(trainer, publisher),
            lambda: self._end_record(trainer, publisher, finished=finished),
        )
        self._concluded = True

    # What a checkpoint keeps.

    def state_dict(self) -> dict[str, Any]:
        """The probe and what was seen of it so far; tensors and primitives only."""
        known = {
            "probe": None if self.probe is None else self.probe.state(),
            "shown": self._options.display_key,
            "gate": None if self._gate is None else self._gate.state_dict(),
        }
        return {**known, **self.history.state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the run that is resumed left off, with its probe."""
        if self.history.last_step >= 0 and self.tolerance.stage != "fit":
            return  # an earlier model of this very run is tested, the log holds more already
        shown = state["shown"]
        history = History.from_state(state, rule=str(shown["rule"]))
        stored = None if state["probe"] is None else ProbeBatch.from_state(state["probe"])
        if self.probe is None:
            self.probe = stored
        differences = list(self._differences(stored, shown))
        if self._gate is not None and not differences:
            self._gate.load_state_dict(state["gate"])
        for then, now in differences:
            warn(
                f"the run that is resumed had {then}; the pictures of {self._options.name!r} begin "
                f"again with {now}."
            )
            history = history.reset()
        history.last_step = max(history.last_step, self.history.last_step)
        self.history = history

    def _differences(
        self, stored: ProbeBatch | None, shown: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """In words, what the resumed run had and what was passed to resume it, if they differ."""
        probe = self.probe
        if stored is not None and probe is not None and stored.fingerprint != probe.fingerprint:
            yield "another probe", "the one passed. Pass `probe=None` to go on with that of the run"
        for key, value in self._options.display_key.items():
            if value != shown[key]:
                yield f"`{key}={shown[key]!r}`", f"`{key}={value!r}`"

    # The parts of the above.

    def _join_ranks(self, trainer: Trainer) -> Ranks:
        """Find the processes of the run, and refuse what cannot be promised with them."""
        ranks = build_ranks(trainer)
        self.tolerance.sharded = ranks.sharded
        self.tolerance.check_sharded()
        return ranks

    def _prepare(self, trainer: Trainer, pl_module: Any, ranks: Ranks) -> None:
        # After an exception Lightning calls no `teardown`, so an earlier run may still be here.
        self._forget()
        self._info, self._concluded = None, False
        with ranks.synchronized("preparing to observe"):
            if self.probe is None:
                self.probe = choose_probe(trainer, pl_module)
        if ranks.world > 1:
            self.probe = ProbeBatch.from_state(ranks.broadcast(self.probe.state()))
        check = None if self._gate is None else self._gate.check
        self._observer = build_observer(trainer, pl_module, self.probe, self._options, ranks, check)
        self._publisher = build_publisher(trainer, self._observer, self._options)
        if self._gate is not None:
            self._checking = Checking(
                self._gate, self.tolerance, self._observer, self._publisher, self.ours
            )
        # Outside of training, what is in the folder is of the model's past, and stays.
        self._past = self.history.last_step if self.tolerance.stage == "fit" else None

    def _observe(self, trainer: Trainer, pl_module: Any, caption: str, step: int) -> None:
        observer, publisher = self._observer, self._publisher
        if observer is None or publisher is None:
            return
        self._observation = None  # earlier observations no longer describe this model
        with self.tolerance("observing the model", caption):
            if self._info is None:
                self._info = self._begin_record(observer, publisher)
            step = self.history.next_step(step)
            observation = observer.observe(
                callable_model(trainer, pl_module),
                caption,
                step,
                epoch=self._epoch,
                first=self.history.first_profile,
                previous=self.history.last_profile,
            )
            self.history.add(observation, publisher.scalars(observation.measures))
            self._observation = observation
            publisher.publish(observation)

    def _begin_record(self, observer: Observer, publisher: Publisher) -> RunInfo:
        with observer.ranks.synchronized("beginning the record"):
            settings = {**self._options.metadata, **self._schedule.metadata}
            info = run_info(self._options.name, observer.meter, settings)
            last = publisher.begin(info, after=self._past)
        # A step of the record's past would overwrite it.
        self.history.last_step = max(self.history.last_step, observer.ranks.broadcast(last))
        return info

    def _observe_last(self, trainer: Trainer, pl_module: Any) -> None:
        if self.history.changed:
            step = current_step(trainer) - 1
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step)

    def _report_to_monitors(self, pl_module: Any) -> None:
        """Log what was last measured where monitors look; the loggers have it already."""
        self._reported_epoch = self._epoch
        if self.history.last_scalars:
            pl_module.log_dict(
                self.history.last_scalars,
                on_step=False,
                on_epoch=True,
                sync_dist=True,
                logger=False,
                # Lightning would otherwise look for it in the batch, and may not find one there.
                batch_size=1 if self.probe is None else len(self.probe),
            )

    def _check(self, trainer: Trainer, pl_module: Any, *, last: bool) -> None:
        if self._checking is None:
            if last and self._gate is not None and trainer.is_global_zero:
                warn(f"INCONCLUSIVE  {self._options.name}: the model could not be observed")
        else:
            self._checking.check(
                trainer,
                pl_module,
                self._info,
                self._observation,
                lambda: self.conclude(trainer, finished=False),
                last=last,
            )

    def _draw_filmstrips(self, trainer: Trainer, publisher: Publisher) -> None:
        with self.tolerance("drawing the film strips"):
            publisher.publish_filmstrips(self.history.frames)
            if publisher.files_at is not None:
                where = f"the maps are PNG files in {publisher.files_at}"
                inform(trainer, f"No logger of this trainer takes pictures: {where}")

    def _end_record(self, trainer: Trainer, publisher: Publisher, *, finished: bool) -> None:
        with self.tolerance("writing down how the run ended"):
            # On every rank: metrics that are of all ranks are brought together only now.
            publisher.end(logged_metrics(trainer, self.ours), finished=finished)
