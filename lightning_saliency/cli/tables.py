"""Describe and compare recorded runs as tables for a terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from lightning_saliency.check.comparable import why_not_comparable
from lightning_saliency.check.measures import SHARE, Quantity
from lightning_saliency.check.moves import find_move
from lightning_saliency.errors import NotComparableError
from lightning_saliency.functional.measures import at_one_size, moved_mass, spearman
from lightning_saliency.functional.text import align, plain
from lightning_saliency.record.observation import Measured, Numbers, Observation
from lightning_saliency.record.run import Run

_BARS = "▁▂▃▄▅▆▇█"
_MOST_ROWS = 40
_MOST_BARS = 60


def describe_run(run: Run) -> str:
    """Describe a run: its metadata, and what it measured at each observation."""
    info, steps = run.info, run.steps()
    count = f"{len(steps)} observation{'s' * (len(steps) != 1)}"
    lines = [f"{plain(str(run.folder))}: {count} of {len(info.images)} images"]
    known = {
        "commit": info.commit,
        "seed": info.seed,
        "started": info.started or None,
        "measured": f"{info.rule}, {info.reduce}",
        "logged last": ", ".join(f"{n} {v:.4g}" for n, v in info.metrics.items()) or None,
    }
    lines += [
        f"  {name:12} {plain(str(value))}" for name, value in known.items() if value is not None
    ]
    if not info.finished:
        lines.append("  It is unfinished or was interrupted.")
    if not steps:
        return "\n".join(lines)
    # Read one observation at a time and let go of its maps: a long run holds gigabytes of them.
    rows = [_Row.read(run.observation(step)) for step in steps]
    return "\n".join([*lines, "", *_history(rows, info.areas)])


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """The numbers of an observation that a table shows."""

    step: int
    caption: str
    probability: float
    profile: Tensor
    shares: dict[str, float]

    @classmethod
    def read(cls, observation: Observation) -> _Row:
        measured = observation.measured
        return cls(
            step=observation.step,
            caption=plain(observation.caption),
            probability=float(measured.probabilities.mean()),
            profile=measured.mean_profile(),
            shares={region: measured.mean_share(region) for region in measured.shares},
        )


def _history(observations: Sequence[_Row], regions: Iterable[str]) -> Iterable[str]:
    """One row per observation, then one line of bars per measure."""
    profiles = [o.profile for o in observations]
    columns: dict[str, list[float]] = {
        "p(label)": [o.probability for o in observations],
        **{Quantity(SHARE, r).name: [o.shares[r] for o in observations] for r in regions},
        "from first": [moved_mass(p, profiles[0]) for p in profiles],
        "from last": [
            moved_mass(a, b) for a, b in zip(profiles, profiles[:1] + profiles[:-1], strict=True)
        ],
    }
    names = [plain(name) for name in columns]
    first = max(len("when"), *(len(o.caption) for o in observations))
    yield "  ".join([f"{'when':{first}}", "  step", *names])
    for number, observation in enumerate(observations):
        if len(observations) > _MOST_ROWS and _MOST_ROWS // 2 <= number < len(observations) - 5:
            if number == _MOST_ROWS // 2:
                yield "…"
            continue
        cells = [f"{v[number]:{len(n)}.3f}" for n, v in zip(names, columns.values(), strict=True)]
        yield "  ".join([f"{observation.caption:{first}}", f"{observation.step:6}", *cells])
    yield ""
    yield from align(list(zip(names, map(_draw_bars, columns.values()), strict=True)))


def _draw_bars(values: Sequence[float]) -> str:
    """Draw values in [0, 1] as bars, thinned out if there are too many for a line."""
    every = max(1, math.ceil(len(values) / _MOST_BARS))
    finite = [v if math.isfinite(v) else 0.0 for v in values[::every]]
    return "".join(_BARS[min(len(_BARS) - 1, int(v * len(_BARS)))] for v in finite)


def compare_runs(first: Run, second: Run, names: tuple[str, str]) -> str:
    """Show next to each other where two runs look.

    Args:
        first: One run.
        second: The other run.
        names: The headings of their columns.

    Raises:
        NotComparableError: The runs differ in their probe, rule or classes.
    """
    a, b = first.last(), second.last()
    classes = a.measured.classes, b.measured.classes
    if why := why_not_comparable(first.info, second.info, *classes):
        raise NotComparableError(f"{first.folder} and {second.folder} cannot be compared: {why}")
    moved = find_move(b.measured.mean_views(), a.measured.mean_views()[None])
    return "\n".join(
        align(
            [
                ("", *map(plain, names)),
                ("observed at", plain(a.caption), plain(b.caption)),
                *_metrics(first.info.metrics, second.info.metrics),
                *(_shares(region, a.measured, b.measured) for region in first.info.areas),
                ("moved mass", f"{moved:.3f}", ""),
                ("maps: Spearman", f"{_rank_correlation(a.measured, b.measured):.3f}", ""),
            ]
        )
    )


def _metrics(first: Numbers, second: Numbers) -> Iterable[tuple[str, str, str]]:
    for name in dict.fromkeys((*first, *second)):
        one, other = (f"{m[name]:.4g}" if name in m else "–" for m in (first, second))
        yield plain(name), one, other


def _shares(region: str, first: Measured, second: Measured) -> tuple[str, str, str]:
    name = Quantity(SHARE, region).name
    return plain(name), f"{first.mean_share(region):.3f}", f"{second.mean_share(region):.3f}"


def _rank_correlation(first: Measured, second: Measured) -> float:
    """The mean rank correlation of the maps of each image, which is low between good runs too."""
    a, b = at_one_size(first.maps.float(), second.maps.float())
    return float(spearman(a, b).nanmean())
