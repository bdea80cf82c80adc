"""The callback: when to observe. What an observation is, other modules say."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.utilities.rank_zero import rank_zero_info  # type: ignore[attr-defined]

from lightning_saliency.attribution import Forward, Plan
from lightning_saliency.autoprobe import probe_of
from lightning_saliency.errors import SaliencyError, SaliencyWarning
from lightning_saliency.grid import IMAGE_FORMATS, STYLES, ImageFormat, Style
from lightning_saliency.loggers import PictureLog, run_folder
from lightning_saliency.monitors import check_monitors
from lightning_saliency.observer import Observer, count_classes
from lightning_saliency.pictures import Artist, Scale
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.ranks import Ranks
from lightning_saliency.rules import RULES, Rule
from lightning_saliency.schedule import Schedule
from lightning_saliency.snapshot import History
from lightning_saliency.targets import check_words, choose_targets

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
        on_error: Literal["raise", "warn"] = "raise",
        name: str = "saliency",
    ) -> None:
        super().__init__()
        if probe is not None and not isinstance(probe, ProbeBatch):
            raise TypeError(
                f"`probe` must be a ProbeBatch or None, got {type(probe).__name__}. "
                "Wrap tensors as `ProbeBatch(images, labels)`."
            )
        check_words(targets)
        _check_choice("rule", rule, RULES)
        _check_choice("style", style, STYLES)
        _check_choice("image_format", image_format, IMAGE_FORMATS)
        _check_choice("on_error", on_error, ("raise", "warn"))
        _check_size("tile_size", tile_size, 16)
        if chunk_size is not None:
            _check_size("chunk_size", chunk_size, 1)
        if scale != "map" and not (isinstance(scale, int | float) and scale > 0):
            raise ValueError(f"`scale` must be 'map' or a number above 0, got {scale!r}.")
        if not name or "/" in name:
            raise ValueError(f"`name` must not be empty or hold a '/', got {name!r}.")
        self.schedule = Schedule(every_n_epochs, epochs, every_n_train_steps)
        self.probe = probe
        self.name = name
        self._targets, self._rule, self._forward = targets, rule, forward
        self._style, self._scale, self._tile_size = style, scale, tile_size
        self._image_format, self._chunk_size = image_format, chunk_size
        self._at_start, self._on_error = at_start, on_error
        self._last_step = -1  # of the pictures
        self._seen_at = -1  # optimizer steps done when last observed
        self._epoch = -1  # the last one that was begun
        self._history = History()
        self._observer: Observer | None = None
        self._warned = False

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps this callback's state; by name, so that several can live."""
        return f"SaliencyCallback[{self.name}]"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what could not work: two callbacks of one name, monitors that look in vain."""
        check_monitors(trainer, self.name, self.schedule)
        names = [c.name for c in trainer.callbacks if isinstance(c, SaliencyWatch)]
        if names.count(self.name) > 1:
            raise SaliencyError(
                f"two callbacks are named {self.name!r}; give each its own `name=…`."
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose the probe and the classes, and observe the untrained model."""
        self._prepare(trainer, pl_module)
        if self._at_start and trainer.global_step == 0:
            self._observe(trainer, pl_module, UNTRAINED, _step(trainer))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember the epoch: once it has ended, the trainer already counts the next."""
        self._epoch = trainer.current_epoch

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Observe where a training step is due."""
        if self.schedule.due_step(trainer.global_step, max(self._seen_at, 0)):
            self._observe(trainer, pl_module, f"step {trainer.global_step}", _step(trainer))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe a due epoch's end at its last validation, which monitors wait for."""
        if trainer.sanity_checking:
            return
        if trainer.state.fn != "fit":
            self._observe_alone(trainer, pl_module, "validated")
        elif trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._observe_epoch(trainer, pl_module, _step(trainer))

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the model that is tested."""
        self._observe_alone(trainer, pl_module, "tested")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe a due epoch's end where no validation has."""
        self._observe_epoch(trainer, pl_module, _step(trainer) - 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the trained model, if that is still to be done, and draw the film strips."""
        if self._seen_at != trainer.global_step:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", _step(trainer) - 1)
        self._draw_filmstrips()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Draw the film strips also of a training that is interrupted by hand."""
        if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1:
            self._draw_filmstrips()

    def state_dict(self) -> dict[str, Any]:
        """The probe and what was seen of it so far; tensors and primitives only."""
        return {
            "probe": None if self.probe is None else self.probe.state(),
            "last_step": self._last_step,
            "seen_at": self._seen_at,
            "history": self._history.state(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run that is resumed left off, with its probe."""
        stored = state_dict["probe"] and ProbeBatch.from_state(state_dict["probe"])
        if self.probe is None:
            self.probe = stored
        elif stored is not None and stored.fingerprint != self.probe.fingerprint:
            warnings.warn(
                f"the run that is resumed had another probe; the pictures of {self.name!r} begin "
                "anew with the one passed. Pass `probe=None` to go on with that of the run.",
                SaliencyWarning,
                stacklevel=2,
            )
            self._last_step = state_dict["last_step"]
            return
        self._last_step, self._seen_at = state_dict["last_step"], state_dict["seen_at"]
        self._history = History.from_state(state_dict["history"])

    def _prepare(self, trainer: Any, pl_module: Any) -> None:
        ranks = Ranks(trainer)
        if ranks.sharded and self._on_error == "warn":
            raise SaliencyError(
                "`on_error='warn'` cannot be kept under a sharded strategy: a process that fails "
                "in a pass leaves the others waiting. Use `on_error='raise'`."
            )
        with ranks.together("preparing to observe"):
            if self.probe is None:
                self.probe = probe_of(trainer, pl_module)
        if ranks.world > 1:
            self.probe = ProbeBatch.from_state(ranks.of_first(self.probe.state()))
        self._observer = self._new_observer(trainer, pl_module, self.probe, ranks)

    def _observe_alone(self, trainer: Any, pl_module: Any, caption: str) -> None:
        """Observe outside of training, once."""
        self._prepare(trainer, pl_module)
        self._observe(trainer, pl_module, caption, _step(trainer))

    def _observe_epoch(self, trainer: Any, pl_module: Any, step: int) -> None:
        if self.schedule.due_epoch(self._epoch) and self._seen_at != trainer.global_step:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step, at_epoch_end=True)

    def _observe(
        self, trainer: Any, pl_module: Any, caption: str, step: int, *, at_epoch_end: bool = False
    ) -> None:
        if self._observer is None:
            return
        self._seen_at = trainer.global_step
        # A picture at the step of an earlier one of its tag would hide it.
        self._last_step = max(step, self._last_step + 1)
        with self._tolerant(f"observing the model ({caption})"):
            model = _callable_model(trainer, pl_module)
            measured = self._observer.observe(model, caption, self._last_step)
            scalars = {f"{self.name}/{name}": value for name, value in measured.items()}
            if at_epoch_end:  # where monitors look; the loggers get them below, at our step
                pl_module.log_dict(
                    scalars, on_step=False, on_epoch=True, sync_dist=True, logger=False
                )
            if scalars and trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.log_metrics(scalars, step=self._last_step)

    def _draw_filmstrips(self) -> None:
        if self._observer is None:
            return
        with self._tolerant("drawing the film strips"):
            self._observer.draw_filmstrips()
            if self._observer.log is not None and self._observer.log.files_at is not None:
                rank_zero_info(_FILES.format(self._observer.log.files_at / self.name))

    @contextmanager
    def _tolerant(self, doing: str) -> Iterator[None]:
        """Raise what fails inside with a word on where, or warn of it once and go on."""
        try:
            yield
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            if self._on_error == "raise":
                raise SaliencyError(
                    f"{doing} failed: {told}\n"
                    "With `on_error='warn'` training goes on in such a case."
                ) from error
            if not self._warned:
                message = f"{doing} failed, training goes on: {told}"
                warnings.warn(message, SaliencyWarning, stacklevel=2)
            self._warned = True

    def _new_observer(
        self, trainer: Any, pl_module: Any, probe: ProbeBatch, ranks: Ranks
    ) -> Observer:
        forward = _in_precision_of(trainer, self._forward)
        plan = Plan(forward, self._chunk_size, alone=not ranks.sharded)
        with ranks.together("trying the model on an image of the probe"):
            classes = count_classes(_callable_model(trainer, pl_module), probe, forward)
        folder = run_folder(trainer)  # collective: on every rank
        log = PictureLog(trainer.loggers, folder, self._image_format)
        return Observer(
            probe=probe,
            targets=choose_targets(self._targets, probe, classes),
            rule=self._rule,
            plan=plan,
            tag=self.name,
            artist=Artist(
                probe, style=self._style, scale=self._scale, size=self._tile_size, rule=self._rule
            ),
            log=log if ranks.rank == 0 else None,
            ranks=ranks,
            history=self._history,
        )


class SaliencyCallback(SaliencyWatch, pl.Callback):  # noqa: D101
    __doc__ = SaliencyWatch.__doc__


def _callable_model(trainer: Any, pl_module: Any) -> Any:
    """What to call for a forward pass: FSDP's first version gathers weights in its wrapper only."""
    kinds = {c.__name__ for c in type(trainer.strategy).__mro__}
    return trainer.strategy.model if "FSDPStrategy" in kinds else pl_module


def _in_precision_of(trainer: Any, forward: Forward | None) -> Forward:
    """The forward pass under the trainer's own precision."""
    plugin = trainer.precision_plugin

    def in_precision(model: Any, images: Any) -> Any:
        images = plugin.convert_input(images)
        with plugin.forward_context():
            return model(images) if forward is None else forward(model, images)

    return in_precision


def _step(trainer: Any) -> int:
    """The step at which Lightning logs the scalars of this moment."""
    try:
        return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    except AttributeError:  # private, so it may go; the optimizer steps are nearly the same
        return int(trainer.global_step)


def _check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def _check_size(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")
