"""When to observe: which epoch ends, which training steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Schedule:
    """The epoch ends and training steps at which the probe is explained.

    Attributes:
        every_n_epochs: Epoch E, counted from 0, is due where ``(E + 1) % every_n_epochs == 0``;
            0 makes no epoch due.
        epochs: Epochs counted from 0, in place of ``every_n_epochs``.
        every_n_train_steps: Optimizer steps between observations, in addition to epoch ends.

    Example:
        >>> schedule = Schedule(every_n_epochs=5)
        >>> [epoch for epoch in range(12) if schedule.due_epoch(epoch)]
        [4, 9]
    """

    every_n_epochs: int = 1
    epochs: Sequence[int] | None = None
    every_n_train_steps: int | None = None

    def __post_init__(self) -> None:
        if not _is_int(self.every_n_epochs) or self.every_n_epochs < 0:
            raise ValueError(
                "`every_n_epochs` must be an integer of at least 1, or 0 for no epoch end, "
                f"got {self.every_n_epochs!r}."
            )
        steps = self.every_n_train_steps
        if steps is not None and (not _is_int(steps) or steps < 1):
            raise ValueError(
                f"`every_n_train_steps` must be None or an integer of at least 1, got {steps!r}."
            )
        if self.epochs is None:
            return
        listed = isinstance(self.epochs, Sequence) and not isinstance(self.epochs, str)
        if not listed or not all(_is_int(e) and e >= 0 for e in self.epochs):
            raise ValueError(
                f"`epochs` must be a list of epochs counted from 0, got {self.epochs!r}."
            )
        object.__setattr__(self, "epochs", tuple(self.epochs))

    @property
    def told(self) -> dict[str, Any]:
        """What a record tells of it; primitives only."""
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

        Several optimizers take several steps a batch, so a multiple may be passed by.
        """
        n = self.every_n_train_steps
        return n is not None and step // n > previous // n


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
