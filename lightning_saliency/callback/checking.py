"""Checking during a run: when an observation is judged, and what a verdict does to the training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_saliency.callback.failures import Tolerance, in_turn, warn
from lightning_saliency.callback.publisher import Publisher
from lightning_saliency.callback.trainer import Trainer, callable_model, inform, logged_metrics
from lightning_saliency.check.attention import Gate
from lightning_saliency.check.evaluate import Candidate
from lightning_saliency.check.report import accepting, as_text
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.errors import SaliencyError
from lightning_saliency.observe.observer import Observer
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import Observation


@dataclass(frozen=True, slots=True, eq=False)
class Checking:
    """Carries out an :class:`AttentionCheck` in a run. Its methods are collective.

    Attributes:
        gate: Which observations are judged, by which check.
        tolerance: What happens if checking itself fails.
        observer: Confirms what gained most.
        publisher: Takes the pictures.
        ours: The names of all our callbacks in the trainer, whose metrics are not the run's own.
    """

    gate: Gate
    tolerance: Tolerance
    observer: Observer
    publisher: Publisher
    ours: Sequence[str]

    def check(
        self,
        trainer: Trainer,
        pl_module: Any,
        info: RunInfo | None,
        observation: Observation | None,
        conclude: Callable[[], None],
        *,
        last: bool,
    ) -> None:
        """Judge what was seen last, if that is due, and act on the verdict.

        Args:
            trainer: Of the run.
            pl_module: Its model.
            info: What is known of the run; ``None`` if nothing was observed yet.
            observation: Of the model as it is now; ``None`` if it was not observed.
            conclude: Brings the run to its end, before an error that stops it.
            last: Whether training is over.

        Raises:
            SaliencyError: The check failed, and ``on_fail`` is ``"raise"``.
        """
        verdict = candidate = None
        with self.tolerance("checking where the model looks"):
            # Metrics may differ from rank to rank; what is decided by them must not.
            metrics = self.observer.ranks.broadcast(logged_metrics(trainer, self.ours))
            if info is not None and observation is not None:
                candidate = Candidate(info, observation, metrics)
            verdict = self.gate.judge(candidate, metrics, last=last)
        if verdict is None:
            return
        if candidate is not None:
            # A failure in either of these must not suppress the verdict.
            with self.tolerance("hiding what gained most"):
                model = callable_model(trainer, pl_module)
                verdict = self.observer.confirm(verdict, model, candidate.measured)
            with self.tolerance("drawing what moved"):
                self.publisher.publish_verdict(candidate, self.gate.check, verdict)
        self._act_on(verdict, candidate, trainer, None if last else conclude)

    def _act_on(
        self,
        verdict: Verdict,
        candidate: Candidate | None,
        trainer: Trainer,
        conclude: Callable[[], None] | None,
    ) -> None:
        """Do on all ranks what a verdict asks for, and report it on one."""
        told: str = verdict.outcome  # all that is said if the rest cannot be put in words
        with self.tolerance("telling what came of the check"):
            told = self._report(verdict, candidate)
        on_fail = self.gate.check.on_fail if self.gate.exhausted else "warn"
        if on_fail == "raise":
            in_turn(conclude or _nothing, lambda: _raise(SaliencyError(told)))
        if on_fail == "stop":
            trainer.should_stop = True
            told += "\n  Training stops." if conclude is not None else ""
        if verdict.outcome == "pass" and not verdict.warnings:
            inform(trainer, told.splitlines()[0])
        elif trainer.is_global_zero:
            warn(told)

    def _report(self, verdict: Verdict, candidate: Candidate | None) -> str:
        moment = "" if candidate is None else f" at {candidate.observation.caption}"
        return as_text(
            verdict,
            f"{self.publisher.tag}{moment}",
            pictures=f"logged as {self.publisher.verdict_tag}" if verdict.confirmable else "",
            accept=self._accept(),
        )

    def _accept(self) -> str:
        """The command that accepts a change, if the run is recorded and the reference a folder."""
        recorded_at, reference = self.publisher.recorded_at, self.gate.check.folder
        if recorded_at is None or reference is None:
            return ""
        return accepting(str(recorded_at), str(reference))


def _nothing() -> None:
    """Stand in for what need not be concluded."""


def _raise(error: Exception) -> None:
    raise error
