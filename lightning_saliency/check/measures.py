"""What can be required of a run: a table of measures, each with its value and its own bound.

To add a measure, write a :class:`Measure` and put it into :data:`MEASURES`. It can then be required
by name, is judged and reported, and a live run logs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from lightning_saliency.check.bounds import ENOUGH, moved_mass_bound, share_bounds
from lightning_saliency.functional.measures import moved_mass
from lightning_saliency.functional.text import figures
from lightning_saliency.record.observation import Measured

MOST_MOVED = 0.25  # of the mass, if there are too few runs to know a spread; more is warned of
MOST_CHANGED = 0.5  # of a share, likewise,
LEAST_CHANGED = 0.02  # and no less than this of the whole: half of next to nothing is nothing

EVERY = "*"  # in place of a region: each that the probe has a mask of


class GoodRuns(Protocol):
    """What a measure needs to know of the runs of a reference."""

    def profile(self) -> Tensor:
        """The mean profile of the runs, ``(8, 8)``."""

    def run_profiles(self) -> Tensor:
        """The profile of each run, ``(runs, 8, 8)``."""

    def run_shares(self, region: str) -> list[float]:
        """The share of ``region`` in each run."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is allowed of a measure.

    Attributes:
        low: The least that is allowed, if there is such a bound.
        high: The most that is allowed, likewise.
        source: Where the bounds come from, in words.
        serious: Whether a value outside fails; otherwise it is warned of.
    """

    low: float | None
    high: float | None
    source: str
    serious: bool = True

    def only(self, relation: str) -> Bounds:
        """The bounds that a requirement with ``relation`` asks for."""
        return replace(
            self,
            low=self.low if relation != "<=" else None,
            high=self.high if relation != ">=" else None,
        )

    def allow(self, value: float) -> bool:
        """Whether ``value`` lies within the bounds."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that can be required of a run.

    Attributes:
        name: Its whole name; or, for a measure of a region, the ending after the region's name.
        regional: Whether it is taken of each region that the probe has a mask of.
        relations: What a requirement may ask of it: ``"<="``, ``">="``, ``"within"``.
        compares: Whether its value itself is a comparison with good runs.
        value: From what was measured, the region (empty if not regional) and the good runs.
        bounds: The bounds that good runs imply, from these, the region and the confidence.
    """

    name: str
    regional: bool
    relations: tuple[str, ...]
    compares: bool
    value: Callable[[Measured, str, GoodRuns | None], float]
    bounds: Callable[[GoodRuns, str, float], Bounds]

    def region_in(self, name: str) -> str | None:
        """The region in a name of this measure; ``None`` if ``name`` is of another measure."""
        if not self.regional:
            return "" if name == self.name else None
        region = name.removesuffix(self.name)
        return region if region and region != name else None


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measure of one region, or of the whole image: what has one value per run."""

    measure: Measure
    region: str = ""

    @property
    def name(self) -> str:
        """As it is required, reported and logged: ``"object.share"``."""
        return self.region + self.measure.name

    def value(self, measured: Measured, good: GoodRuns | None) -> float:
        """Its value in a run; NaN if it needs good runs and there are none."""
        if self.measure.compares and good is None:
            return math.nan
        return self.measure.value(measured, self.region, good)

    def bounds(self, good: GoodRuns, confidence: float) -> Bounds:
        """What good runs allow of it."""
        return self.measure.bounds(good, self.region, confidence)


def _moved_mass(measured: Measured, _: str, good: GoodRuns | None) -> float:
    return math.nan if good is None else moved_mass(measured.mean_profile(), good.profile())


def _moved_mass_bounds(good: GoodRuns, _: str, confidence: float) -> Bounds:
    profiles = good.run_profiles()
    if len(profiles) < ENOUGH:
        source = f"a rule of thumb: {_too_few(len(profiles))}"
        return Bounds(None, MOST_MOVED, source, serious=False)
    left_out = left_out_moves(profiles)
    bound, source = moved_mass_bound(left_out, confidence), _spread(left_out)
    if bound >= 1:
        return Bounds(None, 1.0, f"{source}, too far apart to tell; add good runs")
    return Bounds(None, bound, source)


def _share(measured: Measured, region: str, _: GoodRuns | None) -> float:
    return measured.mean_share(region)


def _share_bounds(good: GoodRuns, region: str, confidence: float) -> Bounds:
    shares = good.run_shares(region)
    if len(shares) < ENOUGH:
        mean = math.fsum(shares) / len(shares)
        source = f"changed by half at most: {_too_few(len(shares))}"
        change = max(mean * MOST_CHANGED, LEAST_CHANGED)
        return Bounds(max(0.0, mean - change), min(1.0, mean + change), source, serious=False)
    return Bounds(*share_bounds(shares, confidence), _spread(shares))


MOVED_MASS = Measure(
    name="moved_mass",
    regional=False,
    relations=("<=",),
    compares=True,
    value=_moved_mass,
    bounds=_moved_mass_bounds,
)
SHARE = Measure(
    name=".share",
    regional=True,
    relations=("<=", ">=", "within"),
    compares=False,
    value=_share,
    bounds=_share_bounds,
)
MEASURES = (SHARE, MOVED_MASS)


def quantities(regions: Collection[str]) -> list[Quantity]:
    """Everything that is measured in a probe with masks of ``regions``."""
    return [
        Quantity(measure, region)
        for measure in MEASURES
        for region in (regions if measure.regional else ("",))
    ]


def find_measure(name: str) -> tuple[Measure, str] | None:
    """The measure that ``name`` asks for, and the region in it, which may be ``"*"``."""
    for measure in MEASURES:
        region = measure.region_in(name)
        if region is not None:
            return measure, region
    return None


def left_out_moves(profiles: Tensor) -> list[float]:
    """How far the profile of each run ``(runs, 8, 8)`` lies from the mean of the others."""
    count = len(profiles)
    total = profiles.sum(dim=0)
    return [moved_mass(p, (total - p) / (count - 1)) for p in profiles]


def _spread(values: Sequence[float]) -> str:
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    low, high = figures(min(values)), figures(max(values))
    return f"{len(values)} good runs: {figures(mean)} ± {figures(spread)}, from {low} to {high}"


def _too_few(count: int) -> str:
    return "one good run tells no spread" if count == 1 else f"{count} good runs tell no spread"
