"""The check that a run carries: its reference, when it judges, and what a failure does."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lightning_saliency.attribution.rules import RULES, Rule
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.requirements import DEFAULT, Requirement, merge, parse_all
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.functional.arguments import check_choice, check_integer
from lightning_saliency.functional.maps import MASS_REDUCTIONS, MassReduce
from lightning_saliency.record.observation import Numbers

OnFail = Literal["warn", "raise", "stop"]
ON_FAIL: tuple[OnFail, ...] = ("warn", "raise", "stop")

_CONDITION = re.compile(r"\s*(?P<metric>\S+?)\s*(?P<relation>>=|<=|>|<)\s*(?P<number>\S+)\s*")
_RELATIONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}


class AttentionCheck:
    """Whether the model looks where good runs look; given to a ``SaliencyCallback``.

    Args:
        reference: A :class:`Reference` or the folder of one. Without, only requirements whose
            bounds are numbers can be judged.
        rule: Of the gradient that is measured. The plain one tells runs apart; guided backprop is
            good to look at and poor to judge by (Adebayo et al. 2018, arXiv 1810.03292).
        reduce: How its channels are reduced: ``"square"``, ``"abs_sum"``, ``"abs_max"``, or
            ``"contribution"``, gradient times contrast, which finds more where a shortcut is as
            large as a background.
        require: Sentences such as ``"object.share >= 0.6"``, in addition to those that the
            reference holds. Without a reference: ``"moved_mass <= auto"`` and
            ``"*.share within auto"``.
        on_fail: ``"warn"``; ``"raise"`` a :class:`SaliencyError`; or ``"stop"`` training.
        start_after: A condition on a metric, such as ``"val_acc>0.8"``: from the first epoch in
            which it holds, every observation at an epoch's end is judged. Without, the last is.
        patience: Observations in a row that have to fail, before that is a failure.

    Raises:
        RecordError: The reference is missing or damaged.
        TypeError, ValueError: An argument that is none of these.
    """

    def __init__(
        self,
        reference: Reference | str | None = None,
        *,
        rule: Rule = "gradient",
        reduce: MassReduce = "square",
        require: Sequence[str] | None = None,
        on_fail: OnFail = "warn",
        start_after: str | None = None,
        patience: int = 1,
    ) -> None:
        check_choice("rule", rule, RULES)
        check_choice("reduce", reduce, MASS_REDUCTIONS)
        check_choice("on_fail", on_fail, ON_FAIL)
        _check_when(on_fail, start_after, patience)
        self.reference = _loaded(reference)
        self.folder = Path(reference) if isinstance(reference, str | Path) else None
        if self.reference is not None:
            _check_measured_alike(self.reference, rule, reduce)
        if rule != "gradient":
            warnings.warn(
                f"a check on {rule!r} lets much pass: such maps show the image more than the model "
                "(Adebayo et al. 2018, arXiv 1810.03292). Use `rule='gradient'`.",
                SaliencyWarning,
                stacklevel=2,
            )
        self.requirements = self._all_of(require)
        self.rule, self.reduce, self.on_fail, self.patience = rule, reduce, on_fail, patience
        self.start_after = None if start_after is None else Condition.parse(start_after)

    def _all_of(self, require: Sequence[str] | None) -> tuple[Requirement, ...]:
        if self.reference is None:
            return parse_all(DEFAULT if require is None else require)
        return merge(self.reference.requirements, require)

    def evaluate(self, candidate: Candidate) -> Verdict:
        """The verdict on a run at an observation."""
        return evaluate(candidate, self.reference, self.requirements)


def _check_when(on_fail: str, start_after: str | None, patience: int) -> None:
    check_integer("patience", patience, 1)
    if patience > 1 and start_after is None:
        raise ValueError(
            "`patience` of more than 1 needs `start_after`: without, one observation is judged."
        )
    if on_fail == "stop" and start_after is None:
        raise ValueError(
            "`on_fail='stop'` needs `start_after`: without, training is over when it is judged."
        )


def _loaded(reference: Reference | str | Path | None) -> Reference | None:
    if isinstance(reference, str | Path):
        return Reference.load(reference)
    if reference is None or isinstance(reference, Reference):
        return reference
    raise TypeError(
        "`reference` must be a Reference, the folder of one, or None, got "
        f"{type(reference).__name__}."
    )


def _check_measured_alike(reference: Reference, rule: Rule, reduce: MassReduce) -> None:
    measured = reference.info.rule, reference.info.reduce
    if measured != (rule, reduce):
        raise ValueError(
            f"`rule` and `reduce` must be those that the reference was measured by, {measured}, "
            f"got {(rule, reduce)}: nothing else can be compared with it."
        )


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a metric with a number.

    Example:
        >>> Condition.parse("val_acc > 0.8").holds({"val_acc": 0.9})
        True
    """

    metric: str
    relation: str
    number: float

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Read a condition.

        Raises:
            ValueError: Not one.
        """
        found = _CONDITION.fullmatch(text) if isinstance(text, str) else None
        try:
            number = float(found["number"]) if found is not None else math.nan
        except ValueError:
            number = math.nan
        if found is None or not math.isfinite(number):
            raise ValueError(f"`start_after` must read like 'val_acc>0.8', got {text!r}.")
        return cls(found["metric"], found["relation"], number)

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.number:.12g}"

    def holds(self, metrics: Numbers) -> bool:
        """Whether it holds; not where the metric is not there."""
        value = metrics.get(self.metric)
        return value is not None and _RELATIONS[self.relation](value, self.number)


@dataclass(slots=True, eq=False)
class Gate:
    """Decides during a run which observations an :class:`AttentionCheck` judges.

    Attributes:
        check: What is checked.
        started: Whether ``start_after`` has held; from then on every epoch's end is judged.
        failures: Consecutive observations that failed.
        judged_at: The step that was judged last.
    """

    check: AttentionCheck
    started: bool = False
    failures: int = 0
    judged_at: int = -1

    def judge(self, candidate: Candidate | None, metrics: Numbers, *, last: bool) -> Verdict | None:
        """The verdict on an observation; ``None`` if none is due.

        Args:
            candidate: The run at that observation; ``None`` if the model was not observed.
            metrics: What the run has logged.
            last: Whether training is over.
        """
        condition = self.check.start_after
        if condition is not None:
            self.started = self.started or condition.holds(metrics)
        if not (last or (self.started and candidate is not None)):
            return None
        if candidate is None:
            return Verdict("inconclusive", why="the model could not be observed", metrics=metrics)
        step = candidate.observation.step
        if step == self.judged_at:
            return None
        if condition is not None and not self.started:
            return Verdict("inconclusive", why=f"{condition} was not reached", metrics=metrics)
        verdict = self.check.evaluate(candidate)
        self.judged_at = step
        self.failures = self.failures + 1 if verdict.failed else 0
        return verdict

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know; primitives only, named as in version 0.1."""
        condition = self.check.start_after
        text = None if condition is None else str(condition)
        return {"start_after": text, "begun": self.started, "failed": self.failures}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Go on from :meth:`state_dict` of a run with the same condition."""
        if state is not None and state["start_after"] == self.state_dict()["start_after"]:
            self.started, self.failures = state["begun"], state["failed"]

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` consecutive observations failed."""
        return self.failures >= self.check.patience
