"""The verdict: whether a run looks where good runs look, and if not, where it looks instead."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.check.bounds import CONFIDENCE, ENOUGH, moved_mass_bound
from lightning_saliency.check.measures import Bounds, Quantity, left_out_moves
from lightning_saliency.check.reference import Reference, why_not_comparable
from lightning_saliency.check.requirements import Requirement
from lightning_saliency.check.verdict import Finding, Growth, Mark, Moved, Verdict
from lightning_saliency.functional.measures import moved_mass
from lightning_saliency.record.observation import Measured, Numbers, Observation
from lightning_saliency.record.run import RunInfo


@dataclass(frozen=True, slots=True)
class Candidate:
    """A run at the observation that is judged.

    Attributes:
        info: What is known of the run.
        observation: The one that counts.
        metrics: What the run logged.
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
    """Hold a run against a reference and requirements.

    Args:
        candidate: The run, at the observation that counts.
        reference: Where good runs look; without it, only bounds that are numbers can be judged.
        requirements: What is required.
        strict: Whether warnings are failures.

    Raises:
        ValueError: A requirement on a region that the probe has no mask of.
    """
    verdict = Verdict("pass", metrics=candidate.metrics)
    if reference is not None:
        classes = reference.classes, candidate.measured.classes
        if why_not := why_not_comparable(reference.info, candidate.info, *classes):
            return replace(verdict, outcome="not comparable", why=why_not)
    judged = [(r, q) for r in requirements for q in r.quantities(candidate.info.areas)]
    empty = _unmeasured(candidate, reference)
    verdict = replace(verdict, left_out=int(empty.sum()))
    if 2 * verdict.left_out >= len(empty):
        here = "here or in a good run " if reference is not None else ""
        why = f"{verdict.left_out} of {len(empty)} maps are {here}all zero or not finite"
        return replace(verdict, outcome="inconclusive", why=why)
    candidate, reference = _without(empty, candidate, reference)
    if reference is not None:
        verdict = replace(verdict, **_compared(candidate, reference))
    verdict = replace(verdict, findings=tuple(_findings(candidate, reference, judged, strict)))
    if any(f.mark == "fail" for f in verdict.findings) or (strict and verdict.warnings):
        return replace(verdict, outcome="fail")
    return _passed_if_evaluated(verdict, judged, reference)


def _passed_if_evaluated(
    verdict: Verdict, judged: Sequence[tuple[Requirement, Quantity]], reference: Reference | None
) -> Verdict:
    """Never pass a requirement that was not evaluated."""
    if reference is None and len(verdict.findings) < max(1, len(judged)):
        needs = next((r.text for r, _ in judged if r.needs_reference), "")
        why = f"{needs!r} needs one" if needs else "nothing is required"
        return replace(verdict, outcome="no reference", why=why)
    if not judged:
        why = "no requirement is on anything that was measured"
        return replace(verdict, outcome="inconclusive", why=why)
    return verdict


def _unmeasured(candidate: Candidate, reference: Reference | None) -> Tensor:
    """The images that have no measure here or in one of the good runs: bool ``(images,)``."""
    found = candidate.measured.profiles.sum(dim=(1, 2)).isnan()
    for shares in candidate.measured.shares.values():
        found = found | shares.isnan()
    if reference is not None:
        found = found | reference.profiles.sum(dim=(2, 3)).isnan().any(dim=0)
        for shares in reference.shares.values():
            found = found | shares.isnan().any(dim=0)
    return found


def _without(
    images: Tensor, candidate: Candidate, reference: Reference | None
) -> tuple[Candidate, Reference | None]:
    """The same without some images: means are compared, and must be of the same images."""
    if not bool(images.any()):
        return candidate, reference
    measured = candidate.measured
    measured = replace(measured, **_masked(measured.profiles, measured.shares, images))
    if reference is not None:
        reference = replace(reference, **_masked(reference.profiles, reference.shares, images))
    observation = replace(candidate.observation, measured=measured)
    return replace(candidate, observation=observation), reference


def _masked(profiles: Tensor, shares: Mapping[str, Tensor], images: Tensor) -> dict[str, Any]:
    return {
        "profiles": profiles.masked_fill(images[:, None, None], math.nan),
        "shares": {name: each.masked_fill(images, math.nan) for name, each in shares.items()},
    }


def _findings(
    candidate: Candidate,
    reference: Reference | None,
    judged: Sequence[tuple[Requirement, Quantity]],
    strict: bool,
) -> Iterable[Finding]:
    confidence = _shared_out(_count_bounds(judged))
    for requirement, quantity in judged:
        if reference is None and requirement.needs_reference:
            continue
        value = quantity.value(candidate.measured, reference)
        allowed = _allowed(requirement, quantity, reference, confidence)
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
    """The number of distinct automatic bounds."""
    sides = {"within": ("<=", ">=")}
    auto = [(r.relation, q) for r, q in judged if r.bound is None]
    return len({(q, side) for relation, q in auto for side in sides.get(relation, (relation,))})


def _shared_out(bounds: int) -> float:
    """The confidence of each of several bounds, so that a good run passes all of them."""
    return 1 - (1 - CONFIDENCE) / max(1, bounds)


def _allowed(
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


def _compared(candidate: Candidate, reference: Reference) -> dict[str, Any]:
    """How a run compares with good ones, whatever the verdict."""
    return {
        "growth": _growth(candidate, reference),
        "classes": _by_class(candidate, reference),
        "images": _by_image(candidate, reference),
        "reference_metrics": reference.metrics(),
        "good_runs": len(reference.runs),
    }


def _growth(candidate: Candidate, reference: Reference) -> Growth:
    """The region, or else the cell of the grid, that gained most."""
    before, now = reference.profile(), candidate.measured.mean_profile()
    row, column = divmod(int((now - before).argmax()), now.shape[1])
    found = Growth(None, row, column, float(before[row, column]), float(now[row, column]))
    for region in candidate.info.areas:
        shares = reference.run_shares(region)
        mean, share_now = math.fsum(shares) / len(shares), candidate.measured.mean_share(region)
        share = Growth(region, row, column, mean, share_now)
        if share.now - share.before >= found.now - found.before:
            found = share
    return found


def _by_class(candidate: Candidate, reference: Reference) -> tuple[Moved, ...]:
    classes = candidate.measured.classes
    present = sorted(set(classes.tolist()))
    confidence = _shared_out(len(present))
    found = []
    for index in present:
        mine = classes == index
        good = reference.profiles[:, mine].nanmean(dim=1)
        moved = moved_mass(candidate.measured.profiles[mine].nanmean(dim=0), good.nanmean(dim=0))
        bound = None
        if len(good) >= ENOUGH and bool(torch.isfinite(good).all()):
            bound = moved_mass_bound(left_out_moves(good), confidence)
        found.append(Moved(candidate.info.class_name(index), index, moved, bound))
    return _most_first(found)


def _by_image(candidate: Candidate, reference: Reference) -> tuple[Moved, ...]:
    before = reference.image_profiles()
    moves = (candidate.measured.profiles - before).abs().sum(dim=(1, 2)) / 2
    named = zip(candidate.info.images, moves.tolist(), strict=True)
    return _most_first(Moved(name, index, moved) for index, (name, moved) in enumerate(named))


def _most_first(moves: Iterable[Moved]) -> tuple[Moved, ...]:
    known = [move for move in moves if math.isfinite(move.moved)]
    return tuple(sorted(known, key=lambda move: -move.moved))
