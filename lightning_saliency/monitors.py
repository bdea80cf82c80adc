"""Monitors that wait for our scalars: those that would look in vain are refused before training."""

from __future__ import annotations

from typing import Any

from lightning_saliency.errors import SaliencyError
from lightning_saliency.schedule import Schedule


def check_monitors(trainer: Any, prefix: str, schedule: Schedule) -> None:
    """Refuse an ``EarlyStopping`` or ``ModelCheckpoint`` that looks more often than we observe.

    Between two observations it would judge by the value of an old epoch, or by none.

    Raises:
        SaliencyError: It names the monitor, and how both can be made to agree.
    """
    for callback in trainer.callbacks:
        monitor = getattr(callback, "monitor", None)
        if not (isinstance(monitor, str) and monitor.startswith(prefix + "/")):
            continue
        looks = _looks_every(trainer, callback)
        if looks is None or not _always_due(schedule, looks):
            raise SaliencyError(
                f"{type(callback).__name__} looks at {monitor!r} "
                f"{_in_words(looks)}, more often than {_observed_in_words(schedule)}. "
                "Observe every epoch (`every_n_epochs=1`) and let the monitor look at epoch ends."
            )


def _looks_every(trainer: Any, callback: Any) -> int | None:
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
        return f"the epochs {list(schedule.epochs)} that are observed"
    return f"every {schedule.every_n_epochs} epochs, which are observed"
