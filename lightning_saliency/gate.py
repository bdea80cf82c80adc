"""A check as a run goes on: when it judges, and when failures add up to one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lightning_saliency.check import AttentionCheck
from lightning_saliency.judge import Seen
from lightning_saliency.record import Numbers
from lightning_saliency.verdict import Verdict


@dataclass(slots=True, eq=False)
class Gate:
    """Carries out an :class:`AttentionCheck`.

    Attributes:
        check: What is checked.
        begun: Whether its condition has held, from when on every epoch's end is judged.
        failed: Observations in a row that failed.
        judged_at: The step that was judged last.
    """

    check: AttentionCheck
    begun: bool = False
    failed: int = 0
    judged_at: int = -1

    def judge(self, seen: Seen | None, metrics: Numbers, *, last: bool) -> Verdict | None:
        """The verdict on an observation; ``None`` where none is due.

        Args:
            seen: The run at that observation; ``None`` where the model was not observed.
            metrics: What the run has logged.
            last: Whether training is over.
        """
        condition = self.check.start_after
        if condition is not None:
            self.begun = self.begun or condition.holds(metrics)
        if not (last or (self.begun and seen is not None)):
            return None
        if seen is None:
            return Verdict("inconclusive", why="the model could not be observed", metrics=metrics)
        step = seen.observation.step
        if step == self.judged_at:
            return None
        if condition is not None and not self.begun:
            return Verdict("inconclusive", why=f"{condition} was not reached", metrics=metrics)
        verdict = self.check.judge(seen)
        self.judged_at = step
        self.failed = self.failed + 1 if verdict.outcome == "fail" else 0
        return verdict

    def state(self) -> dict[str, Any]:
        """What a run that is resumed has to know; primitives only."""
        condition = self.check.start_after
        told = None if condition is None else str(condition)
        return {"start_after": told, "begun": self.begun, "failed": self.failed}

    def go_on(self, state: Mapping[str, Any] | None) -> None:
        """Go on from :meth:`state` of a run with the same condition."""
        if state is not None and state["start_after"] == self.state()["start_after"]:
            self.begun, self.failed = state["begun"], state["failed"]

    @property
    def shut(self) -> bool:
        """Whether so many observations failed in a row that the check has."""
        return self.failed >= self.check.patience
