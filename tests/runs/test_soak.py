"""A thousand observations in one process leave nothing behind."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from soak import observe_for_long


def test_a_thousand_observations(tmp_path: Path):
    # In a process of its own: other tests leave memory behind that is given back at any time.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as child:
        left = child.submit(observe_for_long, tmp_path).result()
    assert left.megabytes < 20
    assert left.files <= 0
    assert (left.hooks, left.frames) == (0, 12)
