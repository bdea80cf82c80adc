"""The check of a run: what it is compared with, when it is judged, and what a failure does."""

from __future__ import annotations

import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, cast

from lightning_saliency.attribution.rules import RULES, Rule
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.requirements import DEFAULT, merge, parse_all
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.functional.arguments import check_choice, check_integer
from lightning_saliency.functional.maps import MASS_REDUCTIONS, MassReduce
from lightning_saliency.record.observation import Numbers
from lightning_saliency.storage.places import RemotePath, find_place

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
        reference: A :class:`Reference`, or its folder or URL. Without one, only requirements whose
            bounds are numbers can be judged.
        rule: The rule of the gradient that is measured. The plain gradient tells runs apart;
            guided backprop is good to look at and poor to judge by (Adebayo et al. 2018,
            arXiv 1810.03292).
        reduce: How maps are made of that gradient. The default is ``"joint"``, or what the
            reference was measured by: the gradient is looked at in two ways at once,
            ``"sensitivity"`` (where the logit would change with a pixel) and ``"contribution"``
            (gradient times contrast: where it does). Either finds shortcuts that the other misses.
            One of them, ``"square"``, ``"abs_sum"`` or ``"abs_max"`` measures that alone.
        require: Sentences such as ``"object.share >= 0.6"``, in addition to those of the
            reference. Without a reference the default is :data:`requirements.DEFAULT`.
        on_fail: What a failure does: ``"warn"``, ``"raise"`` a :class:`SaliencyError`, or
            ``"stop"`` training.
        start_after: A condition on a metric, such as ``"val_acc>0.8"``. From the first epoch in
            which it holds, every observation at the end of an epoch is judged. Without it, only
            the last observation is.
        patience: How many observations in a row have to fail before ``on_fail`` applies. Until
            then a failure only warns.

    Raises:
        RecordError: The reference is missing or damaged.
        OSError: The reference cannot be reached, if it is a URL.
        TypeError, ValueError: An argument has the wrong type or value.
    """

    def __init__(
        self,
        reference: Reference | str | None = None,
        *,
        rule: Rule = "gradient",
        reduce: MassReduce | None = None,
        require: Sequence[str] | None = None,
        on_fail: OnFail = "warn",
        start_after: str | None = None,
        patience: int = 1,
    ) -> None:
        _check_rule(rule)
        if reduce is not None:
            check_choice("reduce", reduce, MASS_REDUCTIONS)
        check_choice("on_fail", on_fail, ON_FAIL)
        _check_when(on_fail, start_after, patience)
        self.reference = _load(reference)
        self.folder = None
        if not (reference is None or isinstance(reference, Reference)):
            self.folder = find_place(reference)
        reduce = reduce or _default_reduce(self.reference)
        if self.reference is not None:
            _check_same_measurement(self.reference, rule, reduce)
        if rule != "gradient":
            warnings.warn(
                f"a check on {rule!r} misses a lot: such maps show the image more than the model "
                "(Adebayo et al. 2018, arXiv 1810.03292). Use `rule='gradient'`.",
                SaliencyWarning,
                stacklevel=2,
            )
        if self.reference is None:
            self.requirements = parse_all(DEFAULT if require is None else require)
        else:
            self.requirements = merge(self.reference.requirements, require)
        self.rule, self.reduce, self.on_fail, self.patience = rule, reduce, on_fail, patience
        self.start_after = None if start_after is None else Condition.parse(start_after)

    def evaluate(self, candidate: Candidate) -> Verdict:
        """Judge a run at one of its observations."""
        return evaluate(candidate, self.reference, self.requirements)


def _check_rule(rule: object) -> None:
    if callable(rule):
        raise ValueError(
            f"`rule` must be one of {', '.join(RULES)}, got the callable {rule!r}: what runs are "
            "held against is measured by a gradient. Use `AttentionCheck(rule='gradient')`, and "
            "show the callable with `SaliencyCallback(rule=…)`."
        )
    check_choice("rule", rule, RULES)


def _check_when(on_fail: str, start_after: str | None, patience: int) -> None:
    check_integer("patience", patience, 1)
    if patience > 1 and start_after is None:
        raise ValueError(
            "`patience` above 1 needs `start_after`: without it, only one observation is judged."
        )
    if on_fail == "stop" and start_after is None:
        raise ValueError(
            "`on_fail='stop'` needs `start_after`: without it, a run is judged only once training "
            "is over."
        )


def _load(reference: Reference | str | PathLike[str] | RemotePath | None) -> Reference | None:
    if isinstance(reference, str | PathLike | RemotePath):
        return Reference.load(reference)
    if reference is None or isinstance(reference, Reference):
        return reference
    raise TypeError(
        "`reference` must be a Reference, the folder of one, or None, got "
        f"{type(reference).__name__}."
    )


def _default_reduce(reference: Reference | None) -> MassReduce:
    """Measure as the good runs were measured; without any, in the way that finds most."""
    if reference is None:
        return "joint"
    theirs = reference.info.reduce
    if theirs == "square":  # What was measured by default before there was a better way.
        warnings.warn(
            "the reference was measured by 'square', which finds fewer shortcuts than 'joint', so "
            "this run is too. Train good runs again with this version and make a reference of "
            "them to judge by 'joint'.",
            SaliencyWarning,
            stacklevel=3,
        )
    return cast(MassReduce, theirs)


def _check_same_measurement(reference: Reference, rule: Rule, reduce: MassReduce) -> None:
    expected = reference.info.rule, reference.info.reduce
    if expected != (rule, reduce):
        raise ValueError(
            f"`rule` and `reduce` must be those of the reference, {expected}, got "
            f"{(rule, reduce)}: runs that were measured differently cannot be compared."
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
            ValueError: ``text`` is not a condition, or its number is not finite.
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
        """Whether it holds for ``metrics``. It does not if the metric is missing."""
        value = metrics.get(self.metric)
        return value is not None and _RELATIONS[self.relation](value, self.number)


@dataclass(slots=True, eq=False)
class Gate:
    """Decides during a run which observations an :class:`AttentionCheck` judges.

    Attributes:
        check: The check.
        started: Whether ``start_after`` has held. From then on the end of every epoch is judged.
        failures: The number of consecutive observations that failed.
        judged_at: The step that was judged last; -1 before the first.
    """

    check: AttentionCheck
    started: bool = False
    failures: int = 0
    judged_at: int = -1

    def judge(self, candidate: Candidate | None, metrics: Numbers, *, last: bool) -> Verdict | None:
        """Judge an observation if a verdict is due.

        Args:
            candidate: The run at that observation; ``None`` if the model was not observed.
            metrics: The metrics that the run has logged so far.
            last: Whether training is over.

        Returns:
            The verdict, or ``None`` if none is due.
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
        """Return the state for a checkpoint: primitives only, under the names of version 0.1."""
        condition = self.check.start_after
        text = None if condition is None else str(condition)
        return {"start_after": text, "begun": self.started, "failed": self.failures}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        """Continue from :meth:`state_dict`, unless ``start_after`` has changed since."""
        if state is not None and state["start_after"] == self.state_dict()["start_after"]:
            self.started, self.failures = state["begun"], state["failed"]

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` consecutive observations failed."""
        return self.failures >= self.check.patience
