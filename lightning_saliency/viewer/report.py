"""Runs in one HTML file, which opens from a disk, asks for nothing, and works without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from lightning_saliency.errors import RecordError
from lightning_saliency.viewer.bundle import bundle_scripts, bundle_styles
from lightning_saliency.viewer.discovery import Root, find_records
from lightning_saliency.viewer.events import read_curves
from lightning_saliency.viewer.packing import Selection, select
from lightning_saliency.viewer.record import Record, describe_moments
from lightning_saliency.viewer.remote import as_local
from lightning_saliency.viewer.sprite import draw_sprite
from lightning_saliency.viewer.still import draw_still
from lightning_saliency.viewer.verdict import ShownVerdict, as_html

BUDGET = 10_000_000  # bytes

# The page may run what is in it, and can neither load nor send anything.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)
_ENTRY = "page.js"
# How the page looks until a script replaces what is in it, and where no script runs.
_STILL_STYLES = """
body { margin: 0 }
.still { font: 14px/1.5 system-ui, sans-serif; max-width: 64rem; margin: auto; padding: 1rem }
.still figure { margin: 0 }
.still img { max-width: 100% }
.still td, .still th { padding: 0.1rem 1rem 0.1rem 0; text-align: left }
"""


@dataclass(frozen=True, slots=True)
class Report:
    """A page of runs.

    Attributes:
        html: The page.
        runs: The names of the runs.
        cut: For each run, what was left out so that the page fits into its budget, in sentences.
    """

    html: str
    runs: Sequence[str]
    cut: Sequence[Sequence[str]]


def open_records(folders: Sequence[str | Path]) -> list[Record]:
    """Find the recorded runs in folders; a folder can hold several.

    Args:
        folders: Log folders, or the callback's own folders within them; also URLs.

    Returns:
        The runs, named by as much of their paths as tells them apart.

    Raises:
        RecordError: A folder holds no recorded run, or one without any observation.
    """
    records: dict[Path, Record] = {}
    paths = [as_local(folder) for folder in folders]
    for path in paths:
        if not path.is_dir():
            raise RecordError(f"{path} is not a folder; pass the log folder of a run")
        found = find_records([Root(path)])
        if not found:
            raise RecordError(
                f"no recorded run in {path}. A run with `SaliencyCallback(record=True)` writes it "
                "into its logger's folder"
            )
        for record in found:
            _check_readable(record)
            records.setdefault(record.folder, record)
    _name_apart(list(records.values()))
    return list(records.values())


def _check_readable(record: Record) -> None:
    """Refuse a run of which there is nothing to show."""
    try:
        record.facts()
        moments, unreadable = record.moments()
    except RecordError as error:
        raise RecordError(f"{error}. Copy the folder again, or pass another run") from error
    if not moments and unreadable:
        raise RecordError(
            f"{record.folder} holds no observation that can be read; {unreadable} damaged file(s). "
            "Copy the folder again, or pass another run"
        )
    if not moments:
        raise RecordError(
            f"{record.folder} holds no observations yet. The callback writes the first one when "
            "training begins"
        )


def _name_apart(records: Sequence[Record]) -> None:
    """Name each run by the path of its log folder, without what all of them share."""
    parts = [record.folder.parent.parts for record in records]
    shortest = min(map(len, parts)) - 1
    shared = next(
        (i for i in range(shortest) if len({each[i] for each in parts}) > 1), max(0, shortest)
    )
    for record, each in zip(records, parts, strict=True):
        record.rename("/".join(each[shared:]))


def build_report(
    records: Sequence[Record],
    *,
    verdicts: Mapping[str, ShownVerdict] | None = None,
    budget: int = BUDGET,
) -> Report:
    """Build the page of some runs.

    Args:
        records: The runs; see :func:`open_records`.
        verdicts: For each id of a record, its verdict, in place of the one in its folder.
        budget: The most bytes of the page. Maps lose levels, pixels and observations to fit.

    Raises:
        RecordError: A run cannot be read.
        ValueError: The runs do not fit into the budget.
    """
    shown = [_describe(record, (verdicts or {}).get(record.id)) for record in records]
    page = partial(_page, bundle_styles(), bundle_scripts(_ENTRY), shown)
    chosen, blobs = select(records, budget, lambda chosen: len(page(chosen, []).encode()))
    html = page(chosen, blobs)
    return Report(html, [record.run for record in records], [each.cut() for each in chosen])


@dataclass(frozen=True, slots=True)
class _Run:
    """What a page has of a run, whichever observations are shown.

    Attributes:
        index: As the tab serves it, with curves and photos.
        still: A picture and the verdict, as HTML.
    """

    index: dict[str, Any]
    still: str


def _describe(record: Record, verdict: ShownVerdict | None) -> _Run:
    index = record.index()
    if verdict is not None:
        index["verdict"] = verdict.as_json()
    index["scalars"] = read_curves(record.folder.parent, index["name"])
    try:
        photos = record.photos()
    except RecordError:
        index["unreadable"] += 1
        photos = np.full((len(index["images"]), 16, 16, 3), 200, np.uint8)  # grey squares
    index["photos_uri"] = _data_uri("image/jpeg", draw_sprite(photos, "JPEG"))
    last = record.moments()[0][-1]
    picture = _data_uri("image/jpeg", draw_still(record, last))
    words = f"The images of {record.run} and their maps at {last.caption}"
    still = f'<figure><img src="{picture}" alt="{escape(words)}"></figure>'
    shown = index["verdict"] and ShownVerdict.parse(index["verdict"])
    # The verdict comes first: the picture can be taller than a window.
    return _Run(index, (as_html(shown) if shown else "") + still)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _page(
    styles: str,
    script: str,
    runs: Sequence[_Run],
    chosen: Sequence[Selection],
    blobs: Sequence[Mapping[tuple[int, str], str]],
) -> str:
    """Write the page; without ``blobs`` it has no maps."""
    index = [
        run.index
        | describe_moments(selection.moments())
        | {"levels": selection.plan.levels, "cut": selection.cut()}
        | {"thinned": sorted(run.index["thinned"] + selection.dropped(), key=itemgetter("step"))}
        for run, selection in zip(runs, chosen, strict=True)
    ]
    names = ", ".join(run["run"] for run in index)
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Saliency: {escape(names)}</title><style>{styles}{_STILL_STYLES}</style></head>"
    )
    still = "".join(map(_write_still, runs, index))
    body = f'<body><div id="app"><main class="still"><h1>Saliency</h1>{still}</main></div>'
    data = [f'<script type="application/json" id="saliency-index">{_as_json(index)}</script>']
    for number, run in enumerate(blobs):
        firsts = {moment.step: moment.rules[0] for moment in chosen[number].recorded}
        for (step, rule), text in run.items():
            name = f"m-{number}-{step}" + ("" if rule == firsts[step] else f"-{rule}")
            data.append(f'<script type="text/plain" id="{escape(name)}">{text}</script>')
    data.append(f'<script type="module">{script}</script>')
    page = "\n".join([head, body, *data, "</body></html>\n"])
    # Names of files that are not valid UTF-8 hold lone surrogates, which no file can hold.
    return page.encode("utf-8", "replace").decode()


def _write_still(run: _Run, index: Mapping[str, Any]) -> str:
    """A run as it stands in the page until a script replaces it."""
    sentences = "".join(f"<p>{escape(sentence)}</p>" for sentence in index["cut"])
    return f"<section><h2>{escape(index['run'])}</h2>{run.still}{sentences}</section>"


def _as_json(value: Any) -> str:
    """JSON in ASCII that can stand in an element: no character of it begins markup."""
    compact = partial(json.dumps, separators=(",", ":"), allow_nan=False)
    return compact(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
