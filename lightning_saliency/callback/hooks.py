"""The callback: its arguments, and one short hook for each moment of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_saliency.attribution.logits import Forward
from lightning_saliency.attribution.methods import Method
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.callback.last_hook import drop_last, run_last
from lightning_saliency.callback.options import OnError, Options
from lightning_saliency.callback.publisher import check_tags
from lightning_saliency.callback.schedule import Schedule, check_monitors
from lightning_saliency.callback.session import Session
from lightning_saliency.callback.trainer import (
    Trainer,
    current_step,
    is_last_batch_of_epoch,
    is_last_batch_of_evaluation,
)
from lightning_saliency.check.attention import AttentionCheck
from lightning_saliency.draw.canvas import ImageFormat
from lightning_saliency.draw.colours import Style
from lightning_saliency.draw.mosaics import Scale
from lightning_saliency.probe.batch import ProbeBatch


class SaliencyCallbackBase:
    """Explain a fixed probe batch at epoch ends and log the maps as pictures.

    At each observation, every probe image gets a mosaic in the loggers, under
    ``saliency/<image name>``: the image, then one tile per class with its probability; the true
    class is framed, the predicted one bold. When training ends, every image gets a film strip
    under ``saliency_filmstrip/<image name>``: one row per class and one column per observation, at
    most twelve. TensorBoard, W&B, MLflow, Comet, SwanLab and any logger with a ``log_image`` like
    that of ``WandbLogger`` take the pictures; with none of these they become PNG files in the run's
    folder. A trainer that has no logger, no checkpoints and no ``default_root_dir`` keeps no files,
    unless there is a ``check``.

    The run is left as it was: weights, metrics and random streams are those of a run without the
    callback.

    Args:
        probe: The images. By default eight of the validation dataset (of the training dataset if
            there is none), spread over its classes; the same ones in every run with the same data.
            Images that come from a dataset, a loader or a batch pass the module's batch hooks.
        targets: The classes to explain: ``"auto"``, all up to ten, else the label and the four
            strongest others; ``"all"``; ``"label"``; ``"predicted"``; ``"top3"`` or any number;
            or a list of indices or class names.
        rule: ``"guided_backprop"``, ``"gradient"`` or ``"deconvnet"``, which share one forward
            pass; a callable ``(model, images, targets) -> attributions``, such as
            :func:`lightning_saliency.captum.rule` makes; or a tuple of these, which are shown side
            by side. Guided backprop is good to look at, the gradient says more about the model:
            look at both before you conclude anything.
        every_n_epochs: Epoch E, counted from 0, is observed at its end if
            ``(E + 1) % every_n_epochs == 0``; 0 for no epoch.
        epochs: The epochs to observe, counted from 0, in place of ``every_n_epochs``.
        every_n_train_steps: Optimizer steps between observations, in addition to epoch ends.
        at_start: Whether the untrained model is observed. The trained one always is, once more if
            its weights change after the last epoch, as averaged or pruned ones do.
        forward: ``forward(pl_module, images)`` returns the logits, for a module that is not
            called plainly.
        style: ``"signed"``, red where the logit rises with the pixel, blue where it falls;
            ``"magnitude"``; or ``"overlay"`` on the image.
        scale: ``"map"``: each map is as strong as its own peak; or a number, logits per input
            unit, at which all maps of the run saturate, so that strengths can be compared.
        tile_size: Pixels per side of a tile, at most.
        image_format: Of the pictures in TensorBoard, ``"jpeg"`` or ``"png"``.
        chunk_size: Images in one forward pass; all by default.
        check: What the run is checked against; see :class:`AttentionCheck`.
        record: Whether each observation is kept in the run's folder, for checks and comparisons.
            Otherwise checkpoints hold the maps that the film strips will show.
        keep: The most observations to keep there, the first and the last included; all by default.
        on_error: ``"warn"`` to go on training if an observation fails, or ``"raise"``. By default
            a failure is an error, except that training goes on without observations, with a
            warning, if no probe was passed and none can be chosen.
        name: Prefix of the tags; every callback of a trainer needs its own.

    Raises:
        TypeError: ``probe`` is not a :class:`ProbeBatch`.
        ValueError: An argument out of range; the message says what is allowed.
        SaliencyError: While training, a model that cannot be explained.
    """

    def __init__(
        self,
        probe: ProbeBatch | None = None,
        *,
        targets: str | list[int] | list[str] = "auto",
        rule: Rule | tuple[Rule | Method, ...] | Method = "guided_backprop",
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
        on_error: OnError | None = None,
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
        self.schedule = Schedule(every_n_epochs, epochs, every_n_train_steps, at_start)
        if check is not None and not isinstance(check, AttentionCheck):
            raise TypeError(
                f"`check` must be an AttentionCheck or None, got {type(check).__name__}. "
                "Wrap the folder of a reference as `AttentionCheck('folder')`."
            )
        self.check, self._given = check, probe
        self._session = self._new_session()

    def _new_session(self, trainer: Trainer | None = None) -> Session:
        return Session(self._given, self.options, self.schedule, self.check, trainer)

    @property
    def name(self) -> str:
        """The prefix of the tags."""
        return self.options.name

    @property
    def probe(self) -> ProbeBatch | None:
        """The images; ``None`` until they are chosen, if none were passed."""
        return self._session.probe

    @property
    def state_key(self) -> str:
        """Where a checkpoint keeps this callback's state; by name, so that several can live."""
        return f"SaliencyCallback[{self.name}]"

    def state_dict(self) -> dict[str, Any]:
        """The probe and what was seen of it so far; tensors and primitives only."""
        return self._session.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the run that is resumed left off, with its probe."""
        self._session.load_state_dict(state_dict)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Refuse what could not work, and begin a session if this is another run."""
        if not self._session.belongs_to(trainer):
            self._session = self._new_session(trainer)
        elif stage == "fit" and self._session.has_trained_another(pl_module):
            earlier, self._session = self._session, self._new_session(trainer)
            self._session.follow(earlier)
        self._session.set_stage(stage, _names_in(trainer))
        check_monitors(trainer, self.name, self.schedule)
        check_tags(self.name, _names_in(trainer), self.probe)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let go of the model."""
        if stage == "fit" and trainer.is_global_zero:
            self._session.warn_of_late_changes(pl_module)
        self._session.release()
        self._drop_log()

    def _drop_log(self) -> None:
        # Lightning gives every callback the `log` of the model, and with it the model itself.
        for name in ("log", "log_dict"):
            self.__dict__.pop(name, None)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Choose the probe and the classes, and observe the untrained model."""
        self._session.start(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Observe the model if a training step is due."""
        self._session.step(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Observe the model that was validated, at the last batch.

        When the epoch ends, a callback that comes before this one may already have put the weights
        back that it had replaced by their averages for the time of the validation.
        """
        if not trainer.sanity_checking and is_last_batch_of_evaluation(trainer):
            self._observe_validated(trainer, pl_module)

    def _observe_validated(self, trainer: Any, pl_module: Any) -> None:
        if trainer.state.fn != "fit":
            self._session.observe_alone(trainer, pl_module, "validated")
        elif is_last_batch_of_epoch(trainer):
            self._session.observe_epoch(trainer, pl_module, current_step(trainer))

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Give monitors, which wait for the validation, what was observed at its last batch."""
        if trainer.sanity_checking:
            return
        self._observe_validated(trainer, pl_module)  # if the last batch was not known as such
        if trainer.state.fn == "fit" and is_last_batch_of_epoch(trainer):
            self._session.end_epoch(trainer, pl_module, current_step(trainer))

    def on_test_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Observe the model that was tested, at the last batch."""
        if is_last_batch_of_evaluation(trainer):
            self._session.observe_alone(trainer, pl_module, "tested")

    def on_test_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the model that was tested, if the last batch was not known as such."""
        self._session.observe_alone(trainer, pl_module, "tested")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe a due epoch's end if no validation has."""
        self._session.end_epoch(trainer, pl_module, current_step(trainer) - 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Observe the trained model, if that is still to be done; draw, write down, judge.

        This waits for the other callbacks and the module, who may change the weights in this hook.
        """
        session = self._session
        run_last(trainer.strategy, lambda: session.end(trainer, pl_module))

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Draw the film strips also of a training that is interrupted by hand; let go of it."""
        drop_last(trainer.strategy)
        try:
            if isinstance(exception, KeyboardInterrupt) and trainer.world_size == 1:
                self._session.conclude(trainer, finished=False)
        finally:
            # Lightning calls no `teardown` after an exception.
            self._session.release()
            self._drop_log()


def _names_in(trainer: Trainer) -> list[str]:
    return [c.name for c in trainer.callbacks if isinstance(c, SaliencyCallbackBase)]
