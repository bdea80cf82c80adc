"""The result of a check: the outcome, the findings behind it, and what helps to explain them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from lightning_saliency.functional.measures import CELLS
from lightning_saliency.functional.text import figures
from lightning_saliency.record.observation import Numbers

Outcome: TypeAlias = Literal["pass", "fail", "no reference", "not comparable", "inconclusive"]
Mark: TypeAlias = Literal["pass", "warn", "fail"]

EXIT_CODES: dict[Outcome, int] = {
    "pass": 0,
    "fail": 1,
    "no reference": 3,
    "not comparable": 4,
    "inconclusive": 5,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One value and the bounds that a requirement sets for it.

    Attributes:
        requirement: The sentence that requires it.
        measure: The name of what was measured, such as ``"moved_mass"`` or ``"object.share"``.
        value: The measured value, in [0, 1].
        low: The lowest value that is allowed; ``None`` if there is no lower bound.
        high: The highest value that is allowed; ``None`` if there is no upper bound.
        source: Where the bounds come from, in words.
        mark: Whether the value passes, fails, or is only a warning.
        area: The part of the images that the region covers, in [0, 1]. A uniform map would have
            this share. ``None`` if there is no region.
    """

    requirement: str
    measure: str
    value: float
    low: float | None
    high: float | None
    source: str
    mark: Mark
    area: float | None = None


@dataclass(frozen=True, slots=True)
class Growth:
    """The place whose part of the gradient grew most.

    Attributes:
        region: The name of the region; ``None`` if the place is a cell of the grid.
        row: The row of the cell, counted from 0 at the top.
        column: The column of the cell, counted from 0 at the left.
        before: The place's part of the gradient in the good runs, in [0, 1].
        now: Its part of the gradient in this run, in [0, 1].
        scattered: Whether no one place grew, but many cells a little, and this one not much more.
    """

    region: str | None
    row: int
    column: int
    before: float
    now: float
    scattered: bool = False

    @property
    def place(self) -> str:
        """The place in words."""
        if self.region is not None:
            return f"the region {self.region!r}"
        return f"row {self.row + 1}, column {self.column + 1} of the {CELLS}×{CELLS} grid"


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the maps of a class or of an image moved.

    Attributes:
        name: The name of the class or image.
        index: Its index.
        moved: The moved mass, in [0, 1].
        bound: The most that classes of good runs move; ``None`` if that is not known.
    """

    name: str
    index: int
    moved: float
    bound: float | None = None

    @property
    def surprising(self) -> bool:
        """Whether it moved further than in good runs."""
        return self.bound is not None and self.moved > self.bound


@dataclass(frozen=True, slots=True)
class Occluded:
    """The mean probability of the label before and after a place in the images was hidden."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check.

    Attributes:
        outcome: The outcome.
        why: The reason in words, if the outcome is neither a pass nor a failure.
        findings: Everything that was judged.
        growth: The place that gained most; ``None`` without a reference.
        classes: How far each class moved, furthest first.
        images: How far each image moved, furthest first.
        metrics: The metrics that the run logged last.
        reference_metrics: The mean of each metric that all good runs logged.
        good_runs: The number of good runs.
        left_out: The number of images that were left out, because their maps are all zero or not
            finite in this run or in a good one.
        occluded: The effect of hiding ``growth``; ``None`` if that was not tried.
    """

    outcome: Outcome
    why: str = ""
    findings: tuple[Finding, ...] = ()
    growth: Growth | None = None
    classes: tuple[Moved, ...] = ()
    images: tuple[Moved, ...] = ()
    metrics: Numbers = field(default_factory=dict)
    reference_metrics: Numbers = field(default_factory=dict)
    good_runs: int = 0
    left_out: int = 0
    occluded: Occluded | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        return EXIT_CODES[self.outcome]

    @property
    def failed(self) -> bool:
        """Whether the run looks elsewhere than good runs do."""
        return self.outcome == "fail"

    @property
    def doubtful(self) -> bool:
        """Whether the run failed or there are warnings, so that a person should look at it."""
        return self.failed or bool(self.warnings)

    @property
    def confirmable(self) -> bool:
        """Whether it is worth a forward pass to find out what hiding ``growth`` does."""
        return self.growth is not None and self.doubtful

    @property
    def violations(self) -> tuple[Finding, ...]:
        """The findings that fail."""
        return tuple(f for f in self.findings if f.mark == "fail")

    @property
    def surprising_classes(self) -> tuple[Moved, ...]:
        """The classes that moved further than in good runs."""
        return tuple(c for c in self.classes if c.surprising)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is suspicious but not a failure unless ``strict`` is set, in words."""
        found = [f"{f.measure} is {figures(f.value)}" for f in self.findings if f.mark == "warn"]
        found += [
            f"class {c.name} moved {c.moved:.3f} (bound {c.bound:.3f})"
            for c in self.surprising_classes
        ]
        return tuple(found)
