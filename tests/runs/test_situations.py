"""Each kind of data and module does with the callback what `docs/situations.md` says."""

from __future__ import annotations

import pytest
import situations
from situations import complaints, tables

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

ROWS = {situation.kind: situation for rows in tables().values() for situation in rows}


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind) for kind in ROWS])
def test_the_callback_does_what_the_page_says(kind, tmp_path):
    if ROWS[kind].needs:
        pytest.importorskip(ROWS[kind].needs)
    assert complaints(ROWS[kind], tmp_path) == []


def test_the_page_lists_each_situation_once():
    """If this fails, `python tests/support/situations.py` rewrites the page."""
    assert len(ROWS) == sum(map(len, tables().values()))
    assert situations.PAGE.read_text() == situations.page()
