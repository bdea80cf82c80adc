"""The verdict of a check, as a page shows it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from lightning_saliency.functional.text import figures
from lightning_saliency.record.facts import VERDICT_FILE
from lightning_saliency.storage.decode import MISFITS, decode
from lightning_saliency.storage.files import damaged, read_json

_TITLES = {"pass": "Attention passes", "fail": "Attention fails"}


@dataclass(frozen=True, slots=True)
class ShownFinding:
    """One value and the bounds that a requirement sets for it; see :class:`verdict.Finding`.

    A value or a bound that is not finite is ``None``.
    """

    measure: str
    mark: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    requirement: str = ""
    source: str = ""
    area: float | None = None


@dataclass(frozen=True, slots=True)
class ShownGrowth:
    """The place whose part of the gradient grew most; see :class:`verdict.Growth`."""

    row: int
    column: int
    region: str | None = None
    before: float | None = None
    now: float | None = None
    scattered: bool = False


@dataclass(frozen=True, slots=True)
class ShownMove:
    """How far the maps of a class or of an image moved; see :class:`verdict.Moved`."""

    name: str
    index: int
    moved: float | None = None
    bound: float | None = None


@dataclass(frozen=True, slots=True)
class ShownOcclusion:
    """The probability of the label with and without ``growth``; see :class:`verdict.Occluded`."""

    before: float | None = None
    after: float | None = None


@dataclass(frozen=True, slots=True)
class ShownVerdict:
    """The part of a verdict that a page shows; :class:`verdict.Verdict` explains the fields."""

    outcome: str
    why: str = ""
    findings: tuple[ShownFinding, ...] = ()
    growth: ShownGrowth | None = None
    classes: tuple[ShownMove, ...] = ()
    images: tuple[ShownMove, ...] = ()
    metrics: Mapping[str, float | None] = field(default_factory=dict)
    reference_metrics: Mapping[str, float | None] = field(default_factory=dict)
    good_runs: int = 0
    left_out: int = 0
    occluded: ShownOcclusion | None = None
    warnings: tuple[str, ...] = ()

    @classmethod
    def parse(cls, content: Any) -> ShownVerdict:
        """Check the JSON of :func:`report.as_json`, as anybody may have written it.

        Raises:
            TypeError, ValueError, RecursionError: It is no verdict; the message says why.
        """
        return decode(cls, finite(content))

    @property
    def title(self) -> str:
        """The outcome in words."""
        return _TITLES.get(self.outcome, f"Attention check: {self.outcome}")

    def as_json(self) -> dict[str, Any]:
        """The verdict as a browser gets it."""
        return asdict(self)


def read_verdict(folder: Path) -> ShownVerdict | None:
    """Read the verdict in the folder of a run; ``None`` if there is none.

    Raises:
        RecordError: The file is damaged.
    """
    path = folder / VERDICT_FILE
    if not path.exists():
        return None
    try:
        return ShownVerdict.parse(read_json(path))
    except MISFITS as error:
        raise damaged(path, error) from error


def finite(value: Any) -> Any:
    """Replace NaN and infinity in JSON by ``None``; browsers refuse to parse them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return value


def as_html(verdict: ShownVerdict) -> str:
    """The verdict as a table, for places that run no script."""
    title = escape(verdict.title) + (f": {escape(verdict.why)}" if verdict.why else "")
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
        for cells in map(_cells, verdict.findings)
    )
    head = "<tr><th>Mark</th><th>Measure</th><th>Value</th><th>Allowed</th><th>Why</th></tr>"
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if rows else ""
    return f"<h3>{title}</h3>{table}{''.join(f'<p>{escape(t)}</p>' for t in _explain(verdict))}"


def _cells(finding: ShownFinding) -> tuple[str, ...]:
    value = "not finite" if finding.value is None else figures(finding.value)
    return finding.mark, finding.measure, value, _allowed(finding), finding.source


def _allowed(finding: ShownFinding) -> str:
    if finding.low is None:
        return "anything" if finding.high is None else f"at most {figures(finding.high)}"
    if finding.high is None:
        return f"at least {figures(finding.low)}"
    return f"{figures(finding.low)} to {figures(finding.high)}"


def _explain(verdict: ShownVerdict) -> Iterable[str]:
    growth = verdict.growth
    if growth is not None and growth.before is not None and growth.now is not None:
        place = f"row {growth.row + 1}, column {growth.column + 1} of the grid"
        place = place if growth.region is None else f"the region {growth.region!r}"
        gain = f"{place}, from {growth.before:.1%} to {growth.now:.1%} of the gradient"
        if growth.scattered:
            gain = f"no one place, the whole profile shifted; most: {gain}"
        yield f"What grew: {gain}."
    moved = [f"{m.name} ({m.moved:.2f})" for m in verdict.images[:5] if m.moved is not None]
    if moved:
        yield f"Images that moved most: {', '.join(moved)}."
