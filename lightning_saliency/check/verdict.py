"""What a check comes to: an outcome, what it is drawn from, and what a person asks next."""

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
    """One measure held against one requirement.

    Attributes:
        requirement: The sentence.
        measure: ``"moved_mass"`` or ``"<region>.share"``.
        value: What was measured, in [0, 1].
        low: The least that is allowed, where there is such a bound.
        high: The most that is allowed, likewise.
        source: Where the bounds are from, in words.
        mark: What came of it.
        area: The part of the images that the region covers: the share of a map that is even.
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
    """The place that gained most.

    Attributes:
        region: Its name; ``None`` for a cell of the grid.
        row: Of the cell, from 0 at the top.
        column: Of the cell, from 0 at the left.
        before: Its part of the gradient in the good runs.
        now: Its part of the gradient.
    """

    region: str | None
    row: int
    column: int
    before: float
    now: float

    @property
    def place(self) -> str:
        """In words."""
        if self.region is not None:
            return f"the region {self.region!r}"
        return f"row {self.row + 1}, column {self.column + 1} of the {CELLS}×{CELLS} grid"


@dataclass(frozen=True, slots=True)
class Moved:
    """How far the maps of a class or of an image moved.

    Attributes:
        name: Of the class or image.
        index: Its number.
        moved: In [0, 1].
        bound: The most that is no surprise, where enough good runs tell.
    """

    name: str
    index: int
    moved: float
    bound: float | None = None

    @property
    def surprising(self) -> bool:
        """Whether it moved further than the good runs do."""
        return self.bound is not None and self.moved > self.bound


@dataclass(frozen=True, slots=True)
class Occluded:
    """What hiding a place does: the mean probability of the label with it and without."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check came to.

    Attributes:
        outcome: The outcome.
        why: In words, where it is neither a pass nor a failure.
        findings: A line each for what was judged.
        growth: What gained most, where there is a reference.
        classes: The classes, those that moved most first.
        images: The images, likewise.
        metrics: What the run logged last.
        reference_metrics: The mean of the same of the good runs.
        good_runs: How many there are.
        left_out: Images whose map is all zero or not finite, and so could not be measured.
        occluded: What hiding the place that gained most does; ``None`` if it was not tried.
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
        """What a command line returns."""
        return EXIT_CODES[self.outcome]

    @property
    def failed(self) -> bool:
        """Whether the run looks elsewhere."""
        return self.outcome == "fail"

    @property
    def doubtful(self) -> bool:
        """Whether it is a failure, or a pass with warnings."""
        return self.failed or bool(self.warnings)

    @property
    def confirmable(self) -> bool:
        """Whether it is worth a forward pass to hide what gained most."""
        return self.growth is not None and self.doubtful

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is doubtful but no failure, in words."""
        found = [f"{f.measure} is {figures(f.value)}" for f in self.findings if f.mark == "warn"]
        found += [
            f"class {c.name} moved {c.moved:.3f} (bound {c.bound:.3f})"
            for c in self.classes
            if c.bound is not None and c.surprising
        ]
        return tuple(found)
