"""Each kind of data and module does with the callback what `docs/situations.md` says."""

from __future__ import annotations

import pytest
import situations
from situations import complaints
from situations_data import DATA
from situations_modules import MODULES

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

ROWS = {situation.kind: situation for situation in (*DATA, *MODULES)}


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind) for kind in ROWS])
def test_the_callback_does_what_the_page_says(kind, tmp_path):
    assert complaints(ROWS[kind], tmp_path) == []


def test_the_page_lists_each_situation_once():
    """If this fails, `python tests/support/situations.py` rewrites the page."""
    assert len(ROWS) == len(DATA) + len(MODULES)
    assert situations.PAGE.read_text() == situations.page()
