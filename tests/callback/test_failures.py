"""What every rank finds is warned of once; what failed on one rank, by that rank."""

from __future__ import annotations

import warnings

import pytest

from lightning_saliency.callback.failures import Tolerance, said_once, warn
from lightning_saliency.observe.ranks import OtherRankError


@pytest.mark.parametrize(
    ("rank", "said"), [(0, ["mine", "theirs", "after"]), (1, ["theirs", "after"])]
)
def test_what_every_rank_finds_is_said_by_the_first(rank, said):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with said_once(rank):
            warn("mine")
            warnings.warn("theirs", UserWarning, stacklevel=1)
        warn("after")
    assert [str(w.message) for w in caught] == said


@pytest.mark.parametrize(
    ("rank", "error", "count"),
    [
        (0, OtherRankError("another process failed"), 1),
        (1, OtherRankError("another process failed"), 0),
        (1, RuntimeError("here"), 1),
    ],
)
def test_a_rank_warns_of_its_own_failures_and_the_first_of_all(rank, error, count):
    tolerance = Tolerance("warn")
    tolerance.stage, tolerance.rank = "fit", rank
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with tolerance("observing the model"):
            raise error
    assert len(caught) == count
    assert str(error) in tolerance.cause
