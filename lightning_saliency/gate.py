"""A check as a run goes on: when it judges, and when failures add up to one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

    def due(self, metrics: Numbers, *, last: bool) -> bool:
        """Whether to judge an observation: the last one, or any after the condition has held."""
        condition = self.check.start_after
        if condition is not None:
            self.begun = self.begun or condition.holds(metrics)
        return last or self.begun

    def judge(self, seen: Seen, confirm: Callable[[Verdict], Verdict]) -> Verdict:
        """The verdict on an observation that is due.

        Args:
            seen: The run at that observation.
            confirm: Hides what gained most.
        """
        self.judged_at = seen.observation.step
        condition = self.check.start_after
        if condition is not None and not self.begun:
            return Verdict("inconclusive", why=f"{condition} was not reached", metrics=seen.metrics)
        verdict = confirm(self.check.judge(seen))
        self.failed = self.failed + 1 if verdict.outcome == "fail" else 0
        return verdict

    @property
    def shut(self) -> bool:
        """Whether so many observations failed in a row that the check has."""
        return self.failed >= self.check.patience
