"""Judge a run: does it look where good runs look, and if not, where does it look instead?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.check.bounds import CONFIDENCE, moved_mass_bound
from lightning_saliency.check.comparable import why_not_comparable
from lightning_saliency.check.measures import Bounds, Quantity
from lightning_saliency.check.moves import ENOUGH, find_move, find_weights, left_out_moves
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.requirements import Requirement
from lightning_saliency.check.verdict import Finding, Growth, Mark, Moved, Verdict
from lightning_saliency.functional.measures import moved_mass
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import Measured, Numbers, Observation

# A cell that gained less than this part of all that moved is not the place that changed. Where a
# shortcut had a place, a cell gained 0.46 and more; in good runs that failed by accident, 0.1 and
# less. See "What grew" in benchmarks/RESULTS.md.
ONE_PLACE = 0.25


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run at the observation that is judged.

    Attributes:
        info: The metadata of the run.
        observation: The observation that is judged.
        metrics: The metrics that the run logged.
    """

    info: RunInfo
    observation: Observation
    metrics: Numbers = field(default_factory=dict)

    @property
    def measured(self) -> Measured:
        """What was measured at the observation."""
        return self.observation.measured


def evaluate(
    candidate: Candidate,
    reference: Reference | None,
    requirements: Sequence[Requirement],
    *,
    strict: bool = False,
) -> Verdict:
    """Judge a run by a reference and requirements.

    Args:
        candidate: The run, at the observation that is judged.
        reference: The good runs. Without them, only bounds that are numbers can be judged.
        requirements: What is required of the run.
        strict: Whether warnings are failures.

    Raises:
        ValueError: A requirement names a region that the probe has no mask of.
    """
    verdict = Verdict("pass", metrics=candidate.metrics)
    if reference is not None:
        classes = reference.classes, candidate.measured.classes
        if why := why_not_comparable(reference.info, candidate.info, *classes):
            return replace(verdict, outcome="not comparable", why=why)
    judged = [(r, q) for r in requirements for q in r.quantities(candidate.info.areas)]
    empty = _find_unmeasured(candidate, reference)
    verdict = replace(verdict, left_out=int(empty.sum()))
    if 2 * verdict.left_out >= len(empty):
        why = f"{verdict.left_out} of {len(empty)} maps are all zero or not finite"
        why += ", here or in a good run" if reference is not None else ""
        return replace(verdict, outcome="inconclusive", why=why)
    candidate, reference = _leave_out(empty, candidate, reference)
    if reference is not None:
        verdict = replace(verdict, **_compare(candidate, reference))
    verdict = replace(verdict, findings=tuple(_judge(candidate, reference, judged, strict)))
    if verdict.violations or (strict and verdict.warnings):
        return replace(verdict, outcome="fail")
    return _pass_if_evaluated(verdict, judged, reference)


def _pass_if_evaluated(
    verdict: Verdict, judged: Sequence[tuple[Requirement, Quantity]], reference: Reference | None
) -> Verdict:
    """Give another outcome than a pass if a requirement could not be evaluated."""
    if reference is None and len(verdict.findings) < max(1, len(judged)):
        needs = next((r.text for r, _ in judged if r.needs_reference), "")
        why = f"{needs!r} needs one" if needs else "nothing is required"
        return replace(verdict, outcome="no reference", why=why)
    if not judged:
        why = "no requirement applies to anything that was measured"
        return replace(verdict, outcome="inconclusive", why=why)
    return verdict


def _find_unmeasured(candidate: Candidate, reference: Reference | None) -> Tensor:
    """The images that could not be measured here or in a good run: bool ``(images,)``."""
    found = candidate.measured.views.sum(dim=(1, 2, 3)).isnan()
    for shares in candidate.measured.shares.values():
        found = found | shares.isnan()
    if reference is not None:
        found = found | reference.views.sum(dim=(2, 3, 4)).isnan().any(dim=0)
        for shares in reference.shares.values():
            found = found | shares.isnan().any(dim=0)
    return found


def _leave_out(
    images: Tensor, candidate: Candidate, reference: Reference | None
) -> tuple[Candidate, Reference | None]:
    """Leave ``images`` out of all runs, because means can only be compared over the same images."""
    if not bool(images.any()):
        return candidate, reference
    measured = candidate.measured
    measured = replace(measured, **_mask(measured.views, measured.shares, images))
    if reference is not None:
        reference = replace(reference, **_mask(reference.views, reference.shares, images))
    observation = replace(candidate.observation, measured=measured)
    return replace(candidate, observation=observation), reference


def _mask(views: Tensor, shares: Mapping[str, Tensor], images: Tensor) -> dict[str, Any]:
    """Set what was measured of ``images`` to NaN, which means over images ignore."""
    return {
        "views": views.masked_fill(images[:, None, None, None], math.nan),
        "shares": {name: each.masked_fill(images, math.nan) for name, each in shares.items()},
    }


def _judge(
    candidate: Candidate,
    reference: Reference | None,
    judged: Sequence[tuple[Requirement, Quantity]],
    strict: bool,
) -> Iterable[Finding]:
    """Compare each quantity with what its requirement allows."""
    confidence = _share_out(_count_bounds(judged))
    for requirement, quantity in judged:
        if reference is None and requirement.needs_reference:
            continue
        value = quantity.value(candidate.measured, reference)
        allowed = _find_bounds(requirement, quantity, reference, confidence)
        yield Finding(
            requirement=requirement.text,
            measure=quantity.name,
            value=value,
            low=allowed.low,
            high=allowed.high,
            source=allowed.source,
            mark=_mark(value, allowed, strict),
            area=candidate.info.areas.get(quantity.region),
        )


def _count_bounds(judged: Sequence[tuple[Requirement, Quantity]]) -> int:
    """The number of distinct automatic bounds; two requirements may ask for the same one."""
    sides = {"within": ("<=", ">=")}
    auto = [(r.relation, q) for r, q in judged if r.bound is None]
    return len({(q, side) for relation, q in auto for side in sides.get(relation, (relation,))})


def _share_out(bounds: int) -> float:
    """The confidence that each bound needs for a good run to pass all of them (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(1, bounds)


def _find_bounds(
    requirement: Requirement, quantity: Quantity, reference: Reference | None, confidence: float
) -> Bounds:
    if requirement.bound is not None or reference is None:
        bounds = Bounds(requirement.bound, requirement.bound, "as required")
    else:
        bounds = quantity.bounds(reference, confidence)
    return bounds.only(requirement.relation)


def _mark(value: float, allowed: Bounds, strict: bool) -> Mark:
    if allowed.allow(value):
        return "pass"
    return "fail" if allowed.serious or strict else "warn"


def _compare(candidate: Candidate, reference: Reference) -> dict[str, Any]:
    """The fields of a verdict that compare a run with good ones, whatever the outcome."""
    return {
        "growth": _find_growth(candidate, reference),
        "classes": _compare_classes(candidate, reference),
        "images": _compare_images(candidate, reference),
        "reference_metrics": reference.metrics(),
        "good_runs": len(reference.runs),
    }


def _find_growth(candidate: Candidate, reference: Reference) -> Growth:
    """The region that gained most, or the cell of the grid if that gained more."""
    before, now = reference.profile(), candidate.measured.mean_profile()
    row, column = divmod(int((now - before).argmax()), now.shape[1])
    found = Growth(None, row, column, float(before[row, column]), float(now[row, column]))
    for region in candidate.info.areas:
        shares = reference.run_shares(region)
        mean, share_now = math.fsum(shares) / len(shares), candidate.measured.mean_share(region)
        share = Growth(region, row, column, mean, share_now)
        if share.now - share.before >= found.now - found.before:
            found = share
    gain = found.now - found.before
    scattered = found.region is None and gain < ONE_PLACE * moved_mass(now, before)
    return replace(found, scattered=scattered)


def _compare_classes(candidate: Candidate, reference: Reference) -> tuple[Moved, ...]:
    classes = candidate.measured.classes
    present = sorted(set(classes.tolist()))
    confidence = _share_out(len(present))
    # A class has few images, which would not tell how closely good runs agree in each view.
    weights = find_weights(reference.run_views())
    found = []
    for index in present:
        mine = classes == index
        good = reference.views[:, mine].nanmean(dim=1)
        moved = find_move(candidate.measured.views[mine].nanmean(dim=0), good, weights)
        bound = None
        if len(good) >= ENOUGH and bool(torch.isfinite(good).all()):
            bound = moved_mass_bound(left_out_moves(good, weights), confidence)
        found.append(Moved(candidate.info.class_name(index), index, moved, bound))
    return _sort(found)


def _compare_images(candidate: Candidate, reference: Reference) -> tuple[Moved, ...]:
    before = reference.image_profiles()
    moves = (candidate.measured.profiles - before).abs().sum(dim=(1, 2)) / 2
    named = zip(candidate.info.images, moves.tolist(), strict=True)
    return _sort(Moved(name, index, moved) for index, (name, moved) in enumerate(named))


def _sort(moves: Iterable[Moved]) -> tuple[Moved, ...]:
    """Sort by how far something moved, furthest first, without what could not be measured."""
    known = [move for move in moves if math.isfinite(move.moved)]
    return tuple(sorted(known, key=lambda move: -move.moved))
