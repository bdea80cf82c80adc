"""When to observe: which epoch ends, which training steps, and what monitors expect of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from lightning_saliency.callback.trainer import Trainer
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.arguments import is_integer


@dataclass(frozen=True, slots=True)
class Schedule:
    """The epoch ends and training steps at which the probe is explained.

    Attributes:
        every_n_epochs: Epoch E, counted from 0, is due if ``(E + 1) % every_n_epochs == 0``; 0
            makes no epoch due.
        epochs: Epochs counted from 0, in place of ``every_n_epochs``.
        every_n_train_steps: Optimizer steps between observations, in addition to epoch ends.
        at_start: Whether the untrained model is observed.

    Example:
        >>> schedule = Schedule(every_n_epochs=5)
        >>> [epoch for epoch in range(12) if schedule.due_epoch(epoch)]
        [4, 9]
    """

    every_n_epochs: int = 1
    epochs: Sequence[int] | None = None
    every_n_train_steps: int | None = None
    at_start: bool = True

    def __post_init__(self) -> None:
        if not is_integer(self.every_n_epochs) or self.every_n_epochs < 0:
            raise ValueError(
                "`every_n_epochs` must be an integer of at least 1, or 0 for no epoch end, "
                f"got {self.every_n_epochs!r}."
            )
        steps = self.every_n_train_steps
        if steps is not None and (not is_integer(steps) or steps < 1):
            raise ValueError(
                f"`every_n_train_steps` must be None or an integer of at least 1, got {steps!r}."
            )
        if self.epochs is None:
            return
        listed = isinstance(self.epochs, Sequence) and not isinstance(self.epochs, str)
        if not listed or not all(is_integer(e) and e >= 0 for e in self.epochs):
            raise ValueError(
                f"`epochs` must be a list of epochs counted from 0, got {self.epochs!r}."
            )
        object.__setattr__(self, "epochs", tuple(self.epochs))

    @property
    def metadata(self) -> dict[str, Any]:
        """When a run is observed, for its record; primitives only."""
        epochs = None if self.epochs is None else list(self.epochs)
        return {
            "every_n_epochs": self.every_n_epochs,
            "epochs": epochs,
            "every_n_train_steps": self.every_n_train_steps,
        }

    def due_epoch(self, epoch: int) -> bool:
        """Whether the end of ``epoch``, counted from 0, is observed."""
        if self.epochs is not None:
            return epoch in self.epochs
        return self.every_n_epochs > 0 and (epoch + 1) % self.every_n_epochs == 0

    def due_step(self, step: int, previous: int) -> bool:
        """Whether a multiple of ``every_n_train_steps`` lies in ``(previous, step]``.

        Several optimizers take several steps per batch, which may step past a multiple.
        """
        n = self.every_n_train_steps
        return n is not None and step // n > previous // n


def check_monitors(trainer: Trainer, prefix: str, schedule: Schedule) -> None:
    """Refuse an ``EarlyStopping`` or ``ModelCheckpoint`` that looks more often than we observe.

    Between two observations it would decide by the value of an earlier epoch, or by none.

    Raises:
        SaliencyError: It names the monitor and says how to make both agree.
    """
    for callback in trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        if _is_ours(monitor, prefix):
            looks = _looks_every(trainer, callback)
            _check_look(type(callback).__name__, monitor, looks, schedule)


def check_schedulers(trainer: Trainer, prefix: str, schedule: Schedule) -> None:
    """Refuse a learning rate scheduler, such as ``ReduceLROnPlateau``, likewise.

    Raises:
        SaliencyError: It names the scheduler and says how to make both agree.
    """
    for config in trainer.lr_scheduler_configs:
        if config.reduce_on_plateau and _is_ours(config.monitor, prefix):
            looks = int(config.frequency) if config.interval == "epoch" else None
            _check_look(type(config.scheduler).__name__, config.monitor, looks, schedule)


def _is_ours(monitor: object, prefix: str) -> TypeGuard[str]:
    return isinstance(monitor, str) and monitor.startswith(prefix + "/")


def _check_look(who: str, monitor: str, looks: int | None, schedule: Schedule) -> None:
    if looks is None or not _always_due(schedule, looks):
        raise SaliencyError(
            f"{who} looks at {monitor!r} {_in_words(looks)}, more often than it is measured "
            f"({_observed_in_words(schedule)}). Observe every epoch (`every_n_epochs=1`) and let "
            f"{who} look at epoch ends."
        )


def _looks_every(trainer: Trainer, callback: Any) -> int | None:
    """Epochs from one look of a monitor to the next; ``None`` for looks within an epoch."""
    if getattr(callback, "_every_n_train_steps", 0) or getattr(
        callback, "_train_time_interval", None
    ):
        return None
    at_epoch_end = getattr(
        callback, "_check_on_train_epoch_end", getattr(callback, "_save_on_train_epoch_end", None)
    )
    own = int(getattr(callback, "_every_n_epochs", 1) or 1)
    if at_epoch_end:
        return own
    if trainer.val_check_interval not in (None, 1.0):
        return None
    return int(trainer.check_val_every_n_epoch or 1) if own == 1 else own


def _always_due(schedule: Schedule, every: int) -> bool:
    if schedule.epochs is not None or schedule.every_n_epochs == 0:
        return False
    return every % schedule.every_n_epochs == 0


def _in_words(epochs: int | None) -> str:
    if epochs is None:
        return "within an epoch"
    return "every epoch" if epochs == 1 else f"every {epochs} epochs"


def _observed_in_words(schedule: Schedule) -> str:
    if schedule.epochs is not None:
        return f"in the epochs {list(schedule.epochs)}"
    return _in_words(schedule.every_n_epochs) if schedule.every_n_epochs else "at no epoch end"
