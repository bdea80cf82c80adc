"""The runs of one trainer, from their first observation to their verdict."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from lightning_saliency.callback.batch_hooks import transfer_probe
from lightning_saliency.callback.build import build_observer, build_publisher
from lightning_saliency.callback.checking import Checking
from lightning_saliency.callback.default_probe import choose_probe
from lightning_saliency.callback.failures import Tolerance, in_turn, said_once, warn
from lightning_saliency.callback.filmstrips import find_other_places, find_parts
from lightning_saliency.callback.options import Options
from lightning_saliency.callback.progress import Progress
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
from lightning_saliency.isolation.tensors import is_uninitialised
from lightning_saliency.observe.history import History
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.observe.weights import digest_tensors, digest_weights
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import Observation
from lightning_saliency.storage.places import Place

UNTRAINED = "untrained"
_ANOTHER_PROBE = "another probe"
TRAINED = "trained"  # what training leaves behind, if that is not the model at its last epoch's end


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
        self._trained: weakref.ref[Any] | None = None  # the module
        self._number = 1  # of the model, among those that this trainer has fitted
        self._begins = False  # whether nothing was seen of this model, unlike the ones before
        self._had_another_probe = False  # whether the run that is resumed had
        self._seen_alone = False  # whether the model was observed in this validation or test
        self._gate = None if check is None else Gate(check)
        self._epoch = -1  # the current one, or the last; trainers count on before hooks are called
        self._reported_epoch = -1  # the last one whose scalars were given to monitors
        self._steps_done = 0  # by the optimizers, when last looked at
        self._concluded = False
        self._past: int | None = None  # the last step of the run that is resumed
        self._info: RunInfo | None = None
        self._encoded: tuple[ProbeBatch, dict[str, Any]] | None = None  # for checkpoints
        self._forget()

    def _forget(self) -> None:
        self._observer: Observer | None = None
        self._publisher: Publisher | None = None
        self._checking: Checking | None = None
        self._observation: Observation | None = None  # of the model as it is now
        self._weights: dict[str, int] | None = None  # a digest of those that were observed last

    def __getstate__(self) -> dict[str, Any]:
        """What tuners and spawned processes copy: nothing that belongs to a trainer."""
        live = ("_trainer", "_trained", "_observer", "_publisher", "_checking", "_observation")
        return {**self.__dict__, **dict.fromkeys((*live, "_weights", "_encoded"))}

    def belongs_to(self, trainer: Trainer) -> bool:
        """Whether this is a run of ``trainer``."""
        return self._trainer is not None and self._trainer() is trainer

    def has_trained_another(self, pl_module: Any) -> bool:
        """Whether the model that was observed in training is another one than ``pl_module``."""
        if self._trained is None or self.history.first_profile is None:
            return False
        return self._trained() is not pl_module

    def follow(self, earlier: Session) -> None:
        """Begin the run of another model of the trainer; its steps go on where they are."""
        self.history.last_step = earlier.history.last_step
        self._number, self._begins = earlier._number + 1, True

    def set_stage(self, stage: str, ours: Sequence[str]) -> None:
        """Note what the trainer is about to do, and the names of all our callbacks in it."""
        self.tolerance.stage, self.ours[:] = stage, ours
        self._seen_alone = False

    def release(self) -> None:
        """Let go of the model and of all that refers to it."""
        self._forget()

    # The moments of a run, called by the hooks.

    def start(self, trainer: Trainer, pl_module: Any) -> None:
        """Choose the probe and the classes, and observe the untrained model."""
        ranks = self._join_ranks(trainer)
        check_schedulers(trainer, self._options.name, self._schedule)
        self._trained = weakref.ref(pl_module)
        with self.tolerance("preparing to observe", unchanged=True):
            self._prepare(trainer, pl_module, ranks)
        if self._schedule.at_start and (self._begins or trainer.global_step == 0):
            if is_uninitialised(pl_module):
                with said_once(ranks.rank):
                    warn(
                        f"{type(pl_module).__name__} has lazy layers, whose weights the first "
                        "training step will make, so the untrained model is not observed. Run one "
                        "batch through it before `fit`, or pass `at_start=False`."
                    )
            else:
                self._observe(trainer, pl_module, UNTRAINED, current_step(trainer))
        self._begins = False
        # A run that is resumed in mid-epoch does not begin the epoch again.
        self._epoch, self._steps_done = trainer.current_epoch, trainer.global_step

    def step(self, trainer: Trainer, pl_module: Any) -> None:
        """Note that the model was trained, and observe it if a training step is due."""
        before, self._steps_done = self._steps_done, trainer.global_step
        self._epoch, self.history.changed = trainer.current_epoch, True
        if self._schedule.due_step(self._steps_done, before):
            self._observe(trainer, pl_module, f"step {self._steps_done}", current_step(trainer))

    def observe_epoch(self, trainer: Trainer, pl_module: Any, step: int) -> None:
        """Observe the end of a due epoch, once."""
        if self._schedule.due_epoch(self._epoch) and self.history.changed:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step)

    def end_epoch(self, trainer: Trainer, pl_module: Any, step: int) -> None:
        """Observe the end of a due epoch, once; give its scalars to monitors; check it."""
        if not self._schedule.due_epoch(self._epoch):
            return
        self.observe_epoch(trainer, pl_module, step)
        if self._reported_epoch != self._epoch:
            with self.tolerance("telling monitors what was measured"):
                self._report_to_monitors(pl_module)
        with self.tolerance("recording the metrics"):
            self._note_metrics(trainer)
        # After a validation, and again when training's part of the epoch ends: the condition of a
        # check may wait for what the module logs in between.
        self._check(trainer, pl_module, last=False)

    def observe_alone(self, trainer: Trainer, pl_module: Any, caption: str) -> None:
        """Observe outside of training, once; a failure there does not cost the metrics."""
        if self._seen_alone:
            return
        self._seen_alone = True
        with self.tolerance("preparing to observe"):
            self._prepare(trainer, pl_module, self._join_ranks(trainer))
            self._observe(trainer, pl_module, caption, current_step(trainer))

    def end(self, trainer: Trainer, pl_module: Any) -> None:
        """Observe the trained model, if that is still to be done; draw, write down, judge."""
        in_turn(
            lambda: self._observe_last(trainer, pl_module),
            lambda: self.conclude(trainer, finished=True),
            lambda: self._check(trainer, pl_module, last=True),
            self._publish_page,
        )

    def warn_of_late_changes(self, pl_module: Any) -> None:
        """Warn if weights changed after training, when it was too late to observe them.

        Only parameters count, because a buffer may also count something. A sharded model is put
        together or taken apart when the strategy ends, so it cannot be compared.
        """
        if self._weights is None or self.tolerance.sharded:
            return
        now = digest_tensors(pl_module.named_parameters())
        if not now.items() <= self._weights.items():
            warn(
                f"the weights changed after training had ended, in `on_fit_end` or `teardown`: the "
                f"last observation of {self._options.name!r} is of the model before. Change them "
                "in `on_train_end`."
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
            "probe": self._probe_state(),
            "shown": self._options.display_key,
            "gate": None if self._gate is None else self._gate.state_dict(),
        }
        return {**known, **self.history.state()}

    def _probe_state(self) -> dict[str, Any] | None:
        """The probe as checkpoints hold it, encoded once."""
        if self.probe is None:
            return None
        if self._encoded is None or self._encoded[0] is not self.probe:
            self._encoded = self.probe, self.probe.compact_state()
        return self._encoded[1]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the run that is resumed left off, with its probe."""
        if self.history.last_step >= 0 and self.tolerance.stage != "fit":
            return  # an earlier model of this very run is tested, the log holds more already
        shown = state["shown"]
        history = History.from_state(state, rule=str(shown["rule"]))
        stored = None if state["probe"] is None else ProbeBatch.from_state(state["probe"])
        trainer = None if self._trainer is None else self._trainer()
        if self.probe is None:
            self.probe = stored
        else:
            # The probe of the run has passed the hooks. Where the module cannot pass batches yet,
            # the same is tried again, and its error raised, when training starts.
            if trainer is not None:
                with suppress(Exception):
                    self.probe = transfer_probe(trainer, trainer.lightning_module, self.probe)
        differences = list(self._differences(stored, shown))
        if self._gate is not None and not differences:
            self._gate.load_state_dict(state["gate"])
        self._had_another_probe = _ANOTHER_PROBE in dict(differences)
        for then, now in differences:
            with said_once(0 if trainer is None else trainer.global_rank):
                warn(
                    f"the run that is resumed had {then}; the pictures of {self._options.name!r} "
                    f"begin again with {now}."
                )
            history = history.reset()
        history.last_step = max(history.last_step, self.history.last_step)
        self.history = history
        if self._begins and history.first_profile is not None:
            # It is the run of the model before that is resumed, in another module.
            self._number, self._begins = self._number - 1, False

    def _differences(
        self, stored: ProbeBatch | None, shown: Mapping[str, Any]
    ) -> Iterator[tuple[str, str]]:
        """In words, what the resumed run had and what was passed to resume it, if they differ."""
        probe = self.probe
        if stored is not None and probe is not None and stored.fingerprint != probe.fingerprint:
            yield _ANOTHER_PROBE, "the one passed. Pass `probe=None` to go on with that of the run"
        elif stored is not None and probe is not None and stored.depth != probe.depth:
            yield f"`depth={stored.depth!r}`", f"`depth={probe.depth!r}`"
        for key, value in self._options.display_key.items():
            if value != shown[key]:
                yield f"`{key}={shown[key]!r}`", f"`{key}={value!r}`"

    # The parts of the above.

    def _join_ranks(self, trainer: Trainer) -> Ranks:
        """Find the processes of the run, and refuse what cannot be promised with them."""
        ranks = build_ranks(trainer)
        self.tolerance.sharded, self.tolerance.rank = ranks.sharded, ranks.rank
        self.tolerance.check_sharded()
        return ranks

    def _prepare(self, trainer: Trainer, pl_module: Any, ranks: Ranks) -> None:
        # After an exception Lightning calls no `teardown`, so an earlier run may still be here.
        self._forget()
        self._info, self._concluded = None, False
        self._find_probe(trainer, pl_module, ranks)
        if self.probe is None:
            return
        check = None if self._gate is None else self._gate.check
        progress = Progress(trainer, self._options.name)
        with said_once(ranks.rank):
            self._observer = build_observer(
                trainer, pl_module, self.probe, self._options, ranks, check, progress.note
            )
            self._publisher = build_publisher(
                trainer,
                self._observer,
                self._options,
                self._number,
                checked=check is not None,
                progress=progress,
            )
        if self._gate is not None:
            self._checking = Checking(
                self._gate, self.tolerance, self._observer, self._publisher, self.ours
            )
        self._find_record(trainer, ranks, self._observer, self._publisher)
        # Outside of training, what is in the folder is of the model's past, and stays.
        self._past = self.history.last_step if self.tolerance.stage == "fit" else None
        if self._begins and self.tolerance.stage == "fit":
            self._past = -1
            where = self._publisher.recorded_at
            recorded = "" if where is None else f", recorded in {where}"
            inform(
                trainer,
                f"This trainer has fitted another model before: {self._options.name!r} begins "
                f"again{recorded}",
            )

    def _find_record(
        self, trainer: Trainer, ranks: Ranks, observer: Observer, publisher: Publisher
    ) -> None:
        """Find the record of the run that is resumed, if there is one."""
        with ranks.synchronized("looking for the record of the run that is resumed"):
            if self.tolerance.stage == "fit" and ranks.rank == 0:
                others = find_other_places(trainer, publisher.recorded_at)
                self.history.parts = find_parts(
                    self.history.parts, others, observer.fingerprint, self._options.name
                )

    def _find_probe(self, trainer: Trainer, pl_module: Any, ranks: Ranks) -> None:
        """Choose a probe, or pass the one at hand through the hooks; the same on every rank."""
        if self.probe is not None:
            with (
                ranks.synchronized("passing the probe through the hooks"),
                said_once(ranks.rank),
            ):
                self.probe = transfer_probe(trainer, pl_module, self.probe)
        else:
            with self.tolerance("choosing a probe", unchanged=True, optional=True):
                with ranks.synchronized("choosing a probe"), said_once(ranks.rank):
                    chosen = choose_probe(trainer, pl_module)
                self.probe = chosen
        if self.probe is not None and ranks.world > 1:
            self.probe = ProbeBatch.from_state(ranks.broadcast(self.probe.state()))

    def _observe(
        self,
        trainer: Trainer,
        pl_module: Any,
        caption: str,
        step: int,
        unless: Observation | None = None,
    ) -> None:
        """Observe the model and publish what was seen, unless ``unless`` shows the very same."""
        observer, publisher = self._observer, self._publisher
        if observer is None or publisher is None:
            return
        # Earlier observations no longer describe this model.
        self._observation = self._weights = None
        with self.tolerance("observing the model", caption), publisher.progress():
            if self._info is None:
                self._info = self._begin_record(trainer, observer, publisher)
            step = self.history.next_step(step)
            observation = observer.observe(
                callable_model(trainer, pl_module),
                caption,
                step,
                epoch=self._epoch,
                first=self.history.first_profile,
                previous=self.history.last_profile,
            )
            if self.tolerance.stage == "fit":
                self._weights = digest_weights(pl_module)
            if unless is not None and observation.shows_same_as(unless):
                self._observation = unless
                return
            self._observation = observation
            try:
                publisher.publish(observation)
            finally:
                # What was seen is seen, even if it could not be recorded or logged.
                scalars = publisher.scalars(observation.measures)
                self.history.add(observation, scalars, publisher.find_record(step))

    def _begin_record(self, trainer: Trainer, observer: Observer, publisher: Publisher) -> RunInfo:
        with observer.ranks.synchronized("beginning the record"):
            settings = {**self._options.metadata, **self._schedule.metadata}
            if observer.probe.depth is not None:
                settings |= {"depth": observer.probe.depth, "depth_axis": observer.probe.depth_axis}
            info = run_info(self._options.name, observer.meter, settings)
            last = publisher.begin(info, after=self._past)
            if publisher.aside is not None:
                self._report_set_aside(trainer, publisher.recorded_at, publisher.aside)
        # A step of the record's past would overwrite it.
        self.history.last_step = max(self.history.last_step, observer.ranks.broadcast(last))
        return info

    def _report_set_aside(self, trainer: Trainer, folder: Place | None, aside: Place) -> None:
        said = (
            f"{folder} held observations that this run does not continue. They are now in {aside}"
        )
        if self._had_another_probe:
            warn(said)
        else:
            inform(trainer, said)

    def _observe_last(self, trainer: Trainer, pl_module: Any) -> None:
        step = current_step(trainer) - 1
        if self.history.changed:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step)
        elif self._weights_changed(pl_module):
            # Other weights may be the same model: when pruning is made permanent, or if all that
            # changed is a buffer that counts something. Then nothing is added.
            self._observe(trainer, pl_module, TRAINED, step, self._observation)

    def _weights_changed(self, pl_module: Any) -> bool:
        """Whether the weights are others than those that were observed last. Collective."""
        if self._observer is None or self._weights is None:
            return False
        return self._observer.ranks.any(digest_weights(pl_module) != self._weights)

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
                why = f": {self.tolerance.cause}" if self.tolerance.cause else ""
                warn(f"INCONCLUSIVE  {self._options.name}: the model could not be observed{why}")
        else:
            self._checking.check(
                trainer,
                pl_module,
                self._info,
                self._observation,
                lambda: self._stop(trainer),
                last=last,
            )

    def _stop(self, trainer: Trainer) -> None:
        """Bring a run to its end that a check is about to stop with an error."""
        in_turn(lambda: self.conclude(trainer, finished=False), self._publish_page)

    def _publish_page(self) -> None:
        """Log the page of the run, which shows how it ended and what the verdict is."""
        if self._publisher is not None:
            self._publisher.publish_page(self.history.last_step)

    def _draw_filmstrips(self, trainer: Trainer, publisher: Publisher) -> None:
        with self.tolerance("drawing the film strips"), publisher.progress():
            publisher.publish_filmstrips(self.history)
            if publisher.files_at is not None:
                where = f"the maps are PNG files in {publisher.files_at}"
                inform(trainer, f"No logger of this trainer takes pictures: {where}")

    def _end_record(self, trainer: Trainer, publisher: Publisher, *, finished: bool) -> None:
        with self.tolerance("writing down how the run ended"):
            self._note_metrics(trainer)
            # On every rank: metrics that are of all ranks are brought together only now.
            publisher.end(logged_metrics(trainer, self.ours), finished=finished)

    def _note_metrics(self, trainer: Trainer) -> None:
        """Record what the run has logged by now, under the step of its last observation."""
        publisher, observation = self._publisher, self._observation
        if publisher is not None and publisher.recorded_at is not None and observation is not None:
            publisher.note_metrics(observation.step, logged_metrics(trainer, self.ours))
