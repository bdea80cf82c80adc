"""The colour tables of the browser are those of the package."""

from __future__ import annotations

import base64
import json

from paths import REPOSITORY

from lightning_saliency.draw.colours import _colour_table

TABLES = REPOSITORY / "lightning_saliency/viewer/static/tables.js"
NAMES = ("RdBu_r", "inferno", "hot")


def tables_text() -> str:
    rows = {n: base64.b64encode(_colour_table(n).tobytes()).decode() for n in NAMES}
    lines = [f"  {name}: {json.dumps(row)}," for name, row in rows.items()]
    head = [
        "// The colour tables of draw/colours.py: 256 × RGB in base64, written by",
        "// `python tests/viewer/test_colours.py`.",
    ]
    return "\n".join([*head, "export const TABLES = {", *lines, "};", ""])


def test_the_tables_are_those_of_the_package():
    assert TABLES.read_text(encoding="utf-8") == tables_text()


if __name__ == "__main__":
    TABLES.write_text(tables_text(), encoding="utf-8")
