"""What was seen of a run so far, in a form that a checkpoint can keep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from lightning_saliency.snapshot import History, Snapshot


@dataclass(slots=True, eq=False)
class Logbook:
    """What a run that is resumed has to know of its past.

    Attributes:
        last_step: Where the latest pictures stand on the loggers' step axis.
        changed: Whether the model was trained since it was last observed. Not told by the number
            of optimizer steps: a module may step past Lightning, which then counts none.
        measured: The scalars of the last observation, which monitors may still wait for.
        first_profile: Where the gradient lay at the first observation, ``(8, 8)``.
        last_profile: The same at the last one.
        history: What the film strips will show.
    """

    last_step: int = -1
    changed: bool = False
    measured: dict[str, float] = field(default_factory=dict)
    first_profile: Tensor | None = None
    last_profile: Tensor | None = None
    history: History = field(default_factory=History)

    def turn_page(self, step: int) -> int:
        """Begin an observation at ``step``, or later: at that of another, it would hide it."""
        self.changed = False
        self.last_step = max(step, self.last_step + 1)
        return self.last_step

    def add(self, snapshot: Snapshot, profile: Tensor) -> None:
        """Note what was seen and where the gradient lay."""
        self.history.add(snapshot)
        self.first_profile = profile if self.first_profile is None else self.first_profile
        self.last_profile = profile

    def blank(self) -> Logbook:
        """One that knows nothing but which steps are taken."""
        return Logbook(self.last_step, self.changed)

    def state(self) -> dict[str, Any]:
        """Tensors and primitives only."""
        return {
            "last_step": self.last_step,
            "changed": self.changed,
            "measured": dict(self.measured),
            "first_profile": self.first_profile,
            "last_profile": self.last_profile,
            "history": self.history.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Logbook:
        """The logbook that :meth:`state` described."""
        history = History.from_state(state["history"])
        return cls(
            last_step=state["last_step"],
            changed=state["changed"],
            measured=dict(state["measured"]),
            first_profile=state["first_profile"],
            last_profile=state["last_profile"],
            history=history,
        )
