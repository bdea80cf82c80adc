"""What can be required of a run: a table of measures, each with a value and with bounds.

To add a measure, write a :class:`Measure` and put it into :data:`MEASURES`. Nothing else has to
change: requirements can then name it, it is judged and reported, and a live run logs it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from lightning_saliency.check.bounds import IMAGE_DIRECTIONS, moved_mass_bound, share_bounds
from lightning_saliency.check.moves import ENOUGH, find_move, left_out_moves
from lightning_saliency.functional.text import figures
from lightning_saliency.record.observation import Measured

# Rules of thumb for references of too few runs to have a spread. Violations are only warnings.
MOST_MOVED = 0.25  # At most this part of the mass may move, for maps of a single view.
MOST_CHANGED = 0.5  # A share may change by this part of the share in good runs,
LEAST_CHANGED = 0.02  # and always by this much, because half of a tiny share is nothing.


class GoodRuns(Protocol):
    """What a measure may use of the good runs; a :class:`reference.Reference` provides it."""

    @property
    def views(self) -> Tensor:
        """The views of each image in each run, ``(runs, N, V, 8, 8)``."""

    def run_views(self) -> Tensor:
        """The mean of each view over the images of each run, ``(runs, V, 8, 8)``."""

    def run_shares(self, region: str) -> list[float]:
        """The mean share of ``region`` in each run, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The values of a measure that are allowed.

    Attributes:
        low: The lowest value; ``None`` if there is no lower bound.
        high: The highest value; ``None`` if there is no upper bound.
        source: Where the bounds come from, in words.
        serious: Whether a value outside of the bounds is a failure rather than a warning.
    """

    low: float | None
    high: float | None
    source: str
    serious: bool = True

    def only(self, relation: str) -> Bounds:
        """Drop the bound that a requirement with ``relation`` does not ask for."""
        return replace(
            self,
            low=self.low if relation != "<=" else None,
            high=self.high if relation != ">=" else None,
        )

    def allow(self, value: float) -> bool:
        """Whether ``value`` lies within the bounds; NaN never does if there are any."""
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


@dataclass(frozen=True, slots=True)
class Measure:
    """Something that can be required of a run.

    Attributes:
        name: The name in requirements, reports and logs. The name of a regional measure begins
            with a dot and follows the name of the region: ``".share"`` for ``"object.share"``.
        value: Computes the value, in [0, 1], from what a run measured, the region (``""`` if the
            measure is not regional), and the good runs (``None`` if there are none).
        bounds: Computes the bounds that ``auto`` stands for from the good runs, the region, and
            the probability with which a good run must stay within each bound.
        regional: Whether there is one value for each region that the probe has a mask of.
        relations: The relations that a requirement may use.
        compares: Whether the value is a comparison with the good runs, and undefined without them.
    """

    name: str
    value: Callable[[Measured, str, GoodRuns | None], float]
    bounds: Callable[[GoodRuns, str, float], Bounds]
    regional: bool = False
    relations: tuple[str, ...] = ("<=", ">=", "within")
    compares: bool = False

    def region_in(self, name: str) -> str | None:
        """The region in ``name``, ``""`` if there is none; ``None`` if it names another measure."""
        if not self.regional:
            return "" if name == self.name else None
        region = name.removesuffix(self.name)
        return region if region and region != name else None


@dataclass(frozen=True, slots=True)
class Quantity:
    """A measure, of one region if it is regional: something with exactly one value per run."""

    measure: Measure
    region: str = ""

    @property
    def name(self) -> str:
        """The full name, such as ``"object.share"``."""
        return self.region + self.measure.name

    def value(self, measured: Measured, good: GoodRuns | None) -> float:
        """The value in a run; NaN if it cannot be computed."""
        return self.measure.value(measured, self.region, good)

    def bounds(self, good: GoodRuns, confidence: float) -> Bounds:
        """The bounds that good runs imply, each with ``confidence``."""
        return self.measure.bounds(good, self.region, confidence)


def _moved_mass(measured: Measured, _: str, good: GoodRuns | None) -> float:
    return math.nan if good is None else find_move(measured.mean_views(), good.run_views())


def _moved_mass_bounds(good: GoodRuns, _: str, confidence: float) -> Bounds:
    views = good.run_views()
    if len(views) < ENOUGH:
        return _bound_few(views, confidence)
    left_out = left_out_moves(views)
    bound, source = moved_mass_bound(left_out, confidence), _describe_spread(left_out)
    if bound >= 1:  # Moved mass cannot exceed 1, so such a bound would never be violated.
        return Bounds(None, 1.0, f"{source}, too far apart to judge by; add more")
    return Bounds(None, bound, source)


def _bound_few(views: Tensor, confidence: float) -> Bounds:
    if views.shape[1] == 1:  # How far good runs lie apart was measured for the joint views only.
        source = f"a rule of thumb: {_too_few(len(views))}"
        return Bounds(None, MOST_MOVED, source, serious=False)
    source = f"typical of other trainings: {_too_few(len(views))}"
    return Bounds(None, moved_mass_bound(left_out_moves(views), confidence), source, serious=False)


def _image_moved_mass(measured: Measured, _: str, good: GoodRuns | None) -> float:
    # Images of another probe cannot be compared one by one, which the verdict will report.
    if good is None or len(measured.views) != good.views.shape[1]:
        return math.nan
    return find_move(measured.views, good.views)


def _image_moved_mass_bounds(good: GoodRuns, _: str, confidence: float) -> Bounds:
    views = good.views
    if len(views) < ENOUGH:
        return Bounds(None, 1.0, f"not judged: {_too_few(len(views))}")
    if views.shape[2] == 1:  # Their spread was measured for the joint views only.
        return Bounds(None, 1.0, "not judged: the gradient was measured in one way alone")
    left_out = left_out_moves(views)
    bound = moved_mass_bound(left_out, confidence, IMAGE_DIRECTIONS)
    return Bounds(None, min(1.0, bound), _describe_spread(left_out))


def _share(measured: Measured, region: str, _: GoodRuns | None) -> float:
    return measured.mean_share(region)


def _share_bounds(good: GoodRuns, region: str, confidence: float) -> Bounds:
    shares = good.run_shares(region)
    mean = math.fsum(shares) / len(shares)
    if len(shares) < ENOUGH:
        source = f"a change by at most half: {_too_few(len(shares))}"
        change = max(mean * MOST_CHANGED, LEAST_CHANGED)
        return Bounds(max(0.0, mean - change), min(1.0, mean + change), source, serious=False)
    low, high = share_bounds(shares, confidence)
    # A share hardly changes by more than the mass that moves between cells. From three runs, the
    # spread of a small share is so uncertain that its own bound may allow a hundred times as much.
    moves = moved_mass_bound(left_out_moves(good.run_views()), confidence)
    return Bounds(max(low, mean - moves), min(high, mean + moves), _describe_spread(shares))


MOVED_MASS = Measure(
    name="moved_mass",
    value=_moved_mass,
    bounds=_moved_mass_bounds,
    relations=("<=",),
    compares=True,
)
IMAGE_MOVED_MASS = Measure(
    name="image_moved_mass",
    value=_image_moved_mass,
    bounds=_image_moved_mass_bounds,
    relations=("<=",),
    compares=True,
)
SHARE = Measure(name=".share", value=_share, bounds=_share_bounds, regional=True)
MEASURES = (SHARE, MOVED_MASS, IMAGE_MOVED_MASS)


def quantities(regions: Collection[str]) -> list[Quantity]:
    """Everything that is measured if the probe has masks of ``regions``."""
    return [
        Quantity(measure, region)
        for measure in MEASURES
        for region in (regions if measure.regional else ("",))
    ]


def find_measure(name: str) -> tuple[Measure, str] | None:
    """Find the measure that ``name`` asks for, and the region in ``name``.

    Example:
        >>> measure, region = find_measure("object.share")
        >>> measure.name, region
        ('.share', 'object')
    """
    for measure in MEASURES:
        region = measure.region_in(name)
        if region is not None:
            return measure, region
    return None


def list_names() -> str:
    """List in words what :func:`find_measure` can find.

    Example:
        >>> list_names()
        "'<region>.share' or 'moved_mass' or 'image_moved_mass'"
    """
    return " or ".join(repr(f"<region>{m.name}" if m.regional else m.name) for m in MEASURES)


def _describe_spread(values: Sequence[float]) -> str:
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    low, high = figures(min(values)), figures(max(values))
    return f"{len(values)} good runs: {figures(mean)} ± {figures(spread)}, from {low} to {high}"


def _too_few(count: int) -> str:
    return "one good run has no spread" if count == 1 else f"{count} good runs are too few"
