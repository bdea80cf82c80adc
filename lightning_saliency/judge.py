"""The verdict: whether a run looks where good runs look, and if not, where it looks instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.bounds import CONFIDENCE, ENOUGH, moved_mass_bound, share_bounds
from lightning_saliency.measures import moved_mass
from lightning_saliency.record import Numbers, Observation, RunInfo
from lightning_saliency.reference import Reference, left_out_moves, why_not_comparable
from lightning_saliency.requirements import MOVED_MASS, Requirement
from lightning_saliency.verdict import Finding, Growth, Mark, Moved, Verdict

MOST_MOVED = 0.25  # of the mass, with fewer runs than tell a spread; more is warned of
MOST_CHANGED = 0.5  # of a share, likewise
_SHARE = ".share"


@dataclass(frozen=True, slots=True)
class Seen:
    """A run at the observation that is judged."""

    info: RunInfo
    observation: Observation
    metrics: Numbers = field(default_factory=dict)

    @property
    def profiles(self) -> Tensor:
        """``(images, 8, 8)``."""
        return self.observation.measured.profiles

    def share(self, region: str) -> float:
        """The mean share of a region."""
        return float(self.observation.measured.shares[region].nanmean())


def judge(
    seen: Seen,
    reference: Reference | None,
    requirements: Sequence[Requirement],
    *,
    strict: bool = False,
) -> Verdict:
    """Hold a run against a reference and requirements.

    Args:
        seen: The run, at the observation that counts.
        reference: Where good runs look; without, only bounds that are numbers can be judged.
        requirements: What is required.
        strict: Whether what is warned of fails.

    Raises:
        ValueError: A requirement on a region that the probe has no mask of.
    """
    judged = [(r, measure) for r in requirements for measure in r.measures(seen.info.areas)]
    empty = int(seen.profiles.isnan().any(dim=-1).any(dim=-1).sum())
    verdict = Verdict("pass", metrics=seen.metrics, left_out=empty)
    if 2 * empty >= len(seen.profiles):
        why = f"{empty} of {len(seen.profiles)} maps are all zero or not finite"
        return replace(verdict, outcome="inconclusive", why=why)
    if reference is not None:
        classes = reference.classes, seen.observation.measured.classes
        if why_not := why_not_comparable(reference.info, seen.info, *classes):
            return replace(verdict, outcome="not comparable", why=why_not)
        verdict = replace(verdict, **_compared(seen, reference))
    verdict = replace(verdict, findings=tuple(_findings(seen, reference, judged)))
    if any(f.mark == "fail" for f in verdict.findings) or (strict and verdict.warnings):
        return replace(verdict, outcome="fail")
    if reference is None and len(verdict.findings) < max(1, len(judged)):
        needs = next((r.text for r, m in judged if _needs_reference(r, m)), "")
        why = f"{needs!r} needs one" if needs else "nothing is required"
        return replace(verdict, outcome="no reference", why=why)
    return verdict


def _needs_reference(requirement: Requirement, measure: str) -> bool:
    return requirement.bound is None or measure == MOVED_MASS


def _findings(
    seen: Seen, reference: Reference | None, judged: Sequence[tuple[Requirement, str]]
) -> Iterable[Finding]:
    bounds = sum(r.sides for r, _ in judged if r.bound is None)
    confidence = _shared_out(bounds)
    for requirement, measure in judged:
        if reference is None and _needs_reference(requirement, measure):
            continue
        value = _value(seen, reference, measure)
        allowed = _allowed(requirement, measure, reference, confidence)
        yield Finding(
            requirement=requirement.text,
            measure=measure,
            value=value,
            low=allowed.low,
            high=allowed.high,
            source=allowed.source,
            mark=allowed.mark(value),
            area=seen.info.areas.get(measure.removesuffix(_SHARE)),
        )


def _shared_out(bounds: int) -> float:
    """The confidence of each of several bounds, so that a good run passes all of them."""
    return 1 - (1 - CONFIDENCE) / max(1, bounds)


def _value(seen: Seen, reference: Reference | None, measure: str) -> float:
    if measure == MOVED_MASS and reference is not None:
        return moved_mass(seen.profiles.nanmean(dim=0), reference.profile())
    return seen.share(measure.removesuffix(_SHARE))


@dataclass(frozen=True, slots=True)
class _Allowed:
    low: float | None
    high: float | None
    source: str
    serious: bool = True

    def mark(self, value: float) -> Mark:
        inside = (self.low is None or value >= self.low) and (
            self.high is None or value <= self.high
        )
        if inside:
            return "pass"
        return "fail" if self.serious else "warn"


def _allowed(
    requirement: Requirement, measure: str, reference: Reference | None, confidence: float
) -> _Allowed:
    if requirement.bound is not None or reference is None:
        low = high = requirement.bound
        allowed = _Allowed(low, high, "as required")
    elif measure == MOVED_MASS:
        allowed = _allowed_move(reference.run_profiles(), confidence)
    else:
        allowed = _allowed_share(reference.run_shares(measure.removesuffix(_SHARE)), confidence)
    return replace(
        allowed,
        low=allowed.low if requirement.relation != "<=" else None,
        high=allowed.high if requirement.relation != ">=" else None,
    )


def _allowed_move(profiles: Tensor, confidence: float) -> _Allowed:
    if len(profiles) < ENOUGH:
        source = f"a rule of thumb: {_too_few(len(profiles))}"
        return _Allowed(None, MOST_MOVED, source, serious=False)
    left_out = left_out_moves(profiles)
    return _Allowed(None, moved_mass_bound(left_out, confidence), _told(left_out))


def _allowed_share(shares: Sequence[float], confidence: float) -> _Allowed:
    if len(shares) < ENOUGH:
        mean = math.fsum(shares) / len(shares)
        source = f"changed by half at most: {_too_few(len(shares))}"
        low, high = mean * (1 - MOST_CHANGED), min(1.0, mean * (1 + MOST_CHANGED))
        return _Allowed(low, high, source, serious=False)
    return _Allowed(*share_bounds(shares, confidence), _told(shares))


def _told(values: Sequence[float]) -> str:
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return (
        f"{len(values)} good runs: {mean:.3f} ± {spread:.3f}, from {min(values):.3f} to "
        f"{max(values):.3f}"
    )


def _too_few(count: int) -> str:
    return "one good run tells no spread" if count == 1 else f"{count} good runs tell no spread"


def _compared(seen: Seen, reference: Reference) -> dict[str, Any]:
    """What is told of a run beside good ones, whatever comes of it."""
    return {
        "growth": _growth(seen, reference),
        "classes": _by_class(seen, reference),
        "images": _by_image(seen, reference),
        "reference_metrics": reference.metrics(),
        "good_runs": len(reference.runs),
    }


def _growth(seen: Seen, reference: Reference) -> Growth:
    """The region, or else the cell of the grid, that gained most."""
    before, now = reference.profile(), seen.profiles.nanmean(dim=0)
    row, column = divmod(int((now - before).argmax()), now.shape[1])
    found = Growth(None, row, column, float(before[row, column]), float(now[row, column]))
    for region in seen.info.areas:
        shares = reference.run_shares(region)
        share = Growth(region, row, column, math.fsum(shares) / len(shares), seen.share(region))
        if share.now - share.before >= found.now - found.before:
            found = share
    return found


def _by_class(seen: Seen, reference: Reference) -> tuple[Moved, ...]:
    classes = seen.observation.measured.classes
    present = sorted(set(classes.tolist()))
    confidence = _shared_out(len(present))
    found = []
    for index in present:
        mine = classes == index
        good = reference.profiles[:, mine].nanmean(dim=1)
        moved = moved_mass(seen.profiles[mine].nanmean(dim=0), good.nanmean(dim=0))
        bound = None
        if len(good) >= ENOUGH and bool(torch.isfinite(good).all()):
            bound = moved_mass_bound(left_out_moves(good), confidence)
        found.append(Moved(seen.info.class_name(index), index, moved, bound))
    return _most_first(found)


def _by_image(seen: Seen, reference: Reference) -> tuple[Moved, ...]:
    before = reference.image_profiles()
    moves = (seen.profiles - before).abs().sum(dim=(1, 2)) / 2
    named = zip(seen.info.images, moves.tolist(), strict=True)
    return _most_first(Moved(name, index, moved) for index, (name, moved) in enumerate(named))


def _most_first(moves: Iterable[Moved]) -> tuple[Moved, ...]:
    known = [move for move in moves if math.isfinite(move.moved)]
    return tuple(sorted(known, key=lambda move: -move.moved))
