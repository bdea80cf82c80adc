"""The callback: when to observe. What an observation is, other modules say."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import pytorch_lightning as pl

from lightning_saliency.attribution import Forward
from lightning_saliency.autoprobe import probe_of
from lightning_saliency.errors import SaliencyError, SaliencyWarning
from lightning_saliency.grid import IMAGE_FORMATS, STYLES, ImageFormat, Style
from lightning_saliency.loggers import PictureLog, run_folder
from lightning_saliency.observer import Observer, count_classes
from lightning_saliency.pictures import Artist, Scale
from lightning_saliency.probe import ProbeBatch
from lightning_saliency.rules import RULES, Rule
from lightning_saliency.schedule import Schedule
from lightning_saliency.targets import check_words, choose_targets

UNTRAINED = "untrained"


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
        self._observer: Observer | None = None
        self._warned = False

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps this callback's state; by name, so that several can live."""
        return f"SaliencyCallback[{self.name}]"

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse two callbacks of one name, whose pictures would overwrite each other."""
        names = [c.name for c in trainer.callbacks if isinstance(c, SaliencyWatch)]
        if names.count(self.name) > 1:
            raise SaliencyError(
                f"two callbacks are named {self.name!r}; give each its own `name=…`."
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose the probe and the classes, and observe the untrained model."""
        if self.probe is None:
            self.probe = probe_of(trainer, pl_module)
        self._observer = self._new_observer(trainer, pl_module, self.probe)
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
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            self._observe_epoch(trainer, pl_module, _step(trainer))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe a due epoch's end where no validation has."""
        self._observe_epoch(trainer, pl_module, _step(trainer) - 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the trained model, if that is still to be done, and draw the film strips."""
        if self._seen_at != trainer.global_step:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", _step(trainer) - 1)
        if self._observer is not None:
            self._observer.draw_filmstrips()

    def state_dict(self) -> dict[str, Any]:
        """The probe and where the pictures have got to; tensors and primitives only."""
        return {
            "probe": None if self.probe is None else self.probe.state(),
            "last_step": self._last_step,
            "seen_at": self._seen_at,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the probe of the run that is resumed, unless another one was passed."""
        if self.probe is None and state_dict["probe"] is not None:
            self.probe = ProbeBatch.from_state(state_dict["probe"])
        self._last_step, self._seen_at = state_dict["last_step"], state_dict["seen_at"]

    def _observe_epoch(self, trainer: Any, pl_module: Any, step: int) -> None:
        if self.schedule.due_epoch(self._epoch) and self._seen_at != trainer.global_step:
            self._observe(trainer, pl_module, f"epoch {self._epoch}", step)

    def _observe(self, trainer: Any, pl_module: Any, caption: str, step: int) -> None:
        if self._observer is None:
            return
        self._seen_at = trainer.global_step
        # A picture at the step of an earlier one of its tag would hide it.
        self._last_step = max(step, self._last_step + 1)
        try:
            self._observer.observe(pl_module, caption, self._last_step)
        except Exception as error:
            if self._on_error == "raise":
                raise SaliencyError(
                    f"observing the model ({caption}) failed: {error}\n"
                    "With `on_error='warn'` training goes on in such a case."
                ) from error
            self._warn_once(f"observing the model ({caption}) failed, training goes on: {error}")

    def _new_observer(self, trainer: Any, pl_module: Any, probe: ProbeBatch) -> Observer:
        forward = _in_precision_of(trainer, self._forward)
        classes = count_classes(pl_module, probe, forward)
        folder = run_folder(trainer)  # collective: on every rank
        log = PictureLog(trainer.loggers, folder, self._image_format)
        return Observer(
            probe=probe,
            targets=choose_targets(self._targets, probe, classes),
            rule=self._rule,
            forward=forward,
            chunk_size=self._chunk_size,
            tag=self.name,
            artist=Artist(
                probe, style=self._style, scale=self._scale, size=self._tile_size, rule=self._rule
            ),
            log=log if trainer.is_global_zero else None,
        )

    def _warn_once(self, message: str) -> None:
        if not self._warned:
            warnings.warn(message, SaliencyWarning, stacklevel=2)
        self._warned = True


class SaliencyCallback(SaliencyWatch, pl.Callback):  # noqa: D101
    __doc__ = SaliencyWatch.__doc__


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
