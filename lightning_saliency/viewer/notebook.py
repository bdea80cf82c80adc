"""Runs in the output of a notebook's cell."""

from __future__ import annotations

from html import escape
from os import PathLike
from pathlib import Path

from lightning_saliency.viewer.report import BUDGET, Report, build_report, open_records


class View:
    """A page of runs, which a notebook shows as the result of a cell.

    The page is in a sandboxed frame: it can neither reach the notebook nor load anything, and it
    does not take the keys from the cell.

    Attributes:
        report: The page.
    """

    def __init__(self, report: Report, height: int) -> None:
        self.report, self._height = report, height

    def __repr__(self) -> str:
        return f"<saliency of {', '.join(self.report.runs)}; a notebook shows it>"

    def _repr_html_(self) -> str:
        style = "width: 100%; border: 0"
        return (
            f'<iframe title="Saliency over training" sandbox="allow-scripts" style="{style}" '
            f'height="{self._height}" srcdoc="{escape(self.report.html)}"></iframe>'
        )


def show(*runs: str | Path, height: int = 720, budget: int = BUDGET) -> View:
    """Show recorded runs in a notebook.

    Args:
        runs: Log folders of runs, or the callback's own folders within them.
        height: The height of the frame in pixels.
        budget: The most bytes of the page, which the notebook keeps if it is saved. Maps lose
            levels, pixels and observations to fit.

    Returns:
        A view, which must be the last expression of a cell or be passed to ``display``.

    Raises:
        RecordError: There is no recorded run, or it is damaged.
        TypeError: A run is not a path, or ``height`` or ``budget`` is not an integer.
        ValueError: No run is given, a number is not positive, or the runs do not fit into the
            budget.

    Example:
        >>> show("logs/version_0")  # doctest: +SKIP
        <saliency of version_0; a notebook shows it>
    """
    if not runs:
        raise ValueError("pass at least one log folder, such as `show('logs/version_0')`")
    for run in runs:
        if not isinstance(run, str | PathLike):
            raise TypeError(
                f"each run must be a path or URL, got {type(run).__name__}. Pass several runs as "
                "`show(first, second)`, not as a list"
            )
    for name, value, example in (("height", height, "720"), ("budget", budget, "10_000_000")):
        if isinstance(value, bool) or not isinstance(value, int):
            unit = "pixels" if name == "height" else "bytes"
            raise TypeError(
                f"`{name}` must be an integer, a number of {unit} such as {example}, got {value!r}"
            )
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
    return View(build_report(open_records(runs), budget=budget), height)
