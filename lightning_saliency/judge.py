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
from lightning_saliency.requirements import MOVED_MASS, SHARE, Requirement
from lightning_saliency.verdict import Finding, Growth, Mark, Moved, Verdict, figures

MOST_MOVED = 0.25  # of the mass, with fewer runs than tell a spread; more is warned of
MOST_CHANGED = 0.5  # of a share, likewise,
LEAST_CHANGED = 0.02  # and no less than this of the whole: half of next to nothing is nothing


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
    verdict = Verdict("pass", metrics=seen.metrics)
    if reference is not None:
        classes = reference.classes, seen.observation.measured.classes
        if why_not := why_not_comparable(reference.info, seen.info, *classes):
            return replace(verdict, outcome="not comparable", why=why_not)
    judged = [(r, measure) for r in requirements for measure in r.measures(seen.info.areas)]
    empty = _unmeasured(seen, reference)
    verdict = replace(verdict, left_out=int(empty.sum()))
    if 2 * verdict.left_out >= len(empty):
        here = "here or in a good run " if reference is not None else ""
        why = f"{verdict.left_out} of {len(empty)} maps are {here}all zero or not finite"
        return replace(verdict, outcome="inconclusive", why=why)
    seen, reference = _without(empty, seen, reference)
    if reference is not None:
        verdict = replace(verdict, **_compared(seen, reference))
    verdict = replace(verdict, findings=tuple(_findings(seen, reference, judged, strict)))
    if any(f.mark == "fail" for f in verdict.findings) or (strict and verdict.warnings):
        return replace(verdict, outcome="fail")
    return _if_all_was_judged(verdict, judged, reference)


def _if_all_was_judged(
    verdict: Verdict, judged: Sequence[tuple[Requirement, str]], reference: Reference | None
) -> Verdict:
    """``verdict``, but that nothing passes which was not looked at."""
    if reference is None and len(verdict.findings) < max(1, len(judged)):
        needs = next((r.text for r, m in judged if _needs_reference(r, m)), "")
        why = f"{needs!r} needs one" if needs else "nothing is required"
        return replace(verdict, outcome="no reference", why=why)
    if not judged:
        why = "no requirement is on anything that was measured"
        return replace(verdict, outcome="inconclusive", why=why)
    return verdict


def _unmeasured(seen: Seen, reference: Reference | None) -> Tensor:
    """The images that have no measure here or in one of the good runs: bool ``(images,)``."""
    found = seen.profiles.sum(dim=(1, 2)).isnan()
    for shares in seen.observation.measured.shares.values():
        found = found | shares.isnan()
    if reference is not None:
        found = found | reference.profiles.sum(dim=(2, 3)).isnan().any(dim=0)
        for shares in reference.shares.values():
            found = found | shares.isnan().any(dim=0)
    return found


def _without(
    images: Tensor, seen: Seen, reference: Reference | None
) -> tuple[Seen, Reference | None]:
    """The same without some images: what is compared are means, and of the same images."""
    if not bool(images.any()):
        return seen, reference
    measured = seen.observation.measured
    measured = replace(
        measured,
        profiles=measured.profiles.masked_fill(images[:, None, None], math.nan),
        shares={name: s.masked_fill(images, math.nan) for name, s in measured.shares.items()},
    )
    if reference is not None:
        reference = replace(
            reference,
            profiles=reference.profiles.masked_fill(images[:, None, None], math.nan),
            shares={name: s.masked_fill(images, math.nan) for name, s in reference.shares.items()},
        )
    return replace(seen, observation=replace(seen.observation, measured=measured)), reference


def _needs_reference(requirement: Requirement, measure: str) -> bool:
    return requirement.bound is None or measure == MOVED_MASS


def _findings(
    seen: Seen,
    reference: Reference | None,
    judged: Sequence[tuple[Requirement, str]],
    strict: bool,
) -> Iterable[Finding]:
    confidence = _shared_out(_count_bounds(judged))
    for requirement, measure in judged:
        if reference is None and _needs_reference(requirement, measure):
            continue
        value = _value(seen, reference, measure)
        allowed = _allowed(requirement, measure, reference, confidence)
        mark = allowed.mark(value)
        yield Finding(
            requirement=requirement.text,
            measure=measure,
            value=value,
            low=allowed.low,
            high=allowed.high,
            source=allowed.source,
            mark="fail" if strict and mark == "warn" else mark,
            area=None if measure == MOVED_MASS else seen.info.areas[measure.removesuffix(SHARE)],
        )


def _count_bounds(judged: Sequence[tuple[Requirement, str]]) -> int:
    """How many bounds a reference tells; one that two sentences ask for is one."""
    sides = {"within": ("<=", ">=")}
    auto = [(r.relation, measure) for r, measure in judged if r.bound is None]
    return len({(m, side) for relation, m in auto for side in sides.get(relation, (relation,))})


def _shared_out(bounds: int) -> float:
    """The confidence of each of several bounds, so that a good run passes all of them."""
    return 1 - (1 - CONFIDENCE) / max(1, bounds)


def _value(seen: Seen, reference: Reference | None, measure: str) -> float:
    if measure == MOVED_MASS and reference is not None:
        return moved_mass(seen.profiles.nanmean(dim=0), reference.profile())
    return seen.share(measure.removesuffix(SHARE))


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
        allowed = _allowed_share(reference.run_shares(measure.removesuffix(SHARE)), confidence)
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
    bound, source = moved_mass_bound(left_out, confidence), _told(left_out)
    if bound >= 1:
        return _Allowed(None, 1.0, f"{source}, too far apart to tell; add good runs")
    return _Allowed(None, bound, source)


def _allowed_share(shares: Sequence[float], confidence: float) -> _Allowed:
    if len(shares) < ENOUGH:
        mean = math.fsum(shares) / len(shares)
        source = f"changed by half at most: {_too_few(len(shares))}"
        change = max(mean * MOST_CHANGED, LEAST_CHANGED)
        low, high = max(0.0, mean - change), min(1.0, mean + change)
        return _Allowed(low, high, source, serious=False)
    return _Allowed(*share_bounds(shares, confidence), _told(shares))


def _told(values: Sequence[float]) -> str:
    mean = math.fsum(values) / len(values)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))
    low, high = figures(min(values)), figures(max(values))
    return f"{len(values)} good runs: {figures(mean)} ± {figures(spread)}, from {low} to {high}"


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
