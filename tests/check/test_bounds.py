"""Prediction bounds worked out by hand, and tried on many random good runs."""

from __future__ import annotations

import math

import numpy as np
import pytest

from lightning_saliency.check.bounds import moved_mass_bound, share_bounds, upper


def test_a_bound_by_hand():
    """Mean 2, standard deviation 1, t(0.99, 2) = 6.9646."""
    assert upper([1.0, 2.0, 3.0], 0.99) == pytest.approx(2 + 6.9646 * math.sqrt(4 / 3), rel=1e-4)


def test_one_value_has_no_bound():
    with pytest.raises(
        ValueError, match="`values` must hold at least 2 numbers, got 1: one has no"
    ):
        upper([0.5], 0.99)


@pytest.mark.parametrize("count", [3, 5])
def test_a_good_run_passes_as_often_as_promised(count):
    draw = np.random.default_rng(0)
    runs = draw.normal(size=(4000, count + 1))
    failed = sum(row[-1] > upper(row[:-1].tolist(), 0.95) for row in runs)
    assert 0.04 < failed / 4000 < 0.06


def test_a_bound_on_moves_by_hand():
    """The root mean square of 0.3, 0.4 and 0.5, and F(0.99; 5, 15) = 4.5556."""
    expected = math.sqrt((0.09 + 0.16 + 0.25) / 3 * 4.5556)
    assert moved_mass_bound([0.3, 0.4, 0.5], 0.99) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [3, 5])
def test_a_good_run_moves_too_far_as_rarely_as_promised(count):
    """Good runs spread alike in eleven directions, the fewest that were measured."""
    draw = np.random.default_rng(0)
    failed = 0
    for points in draw.normal(size=(2000, count + 1, 11)):
        good, new = points[:-1], points[-1]
        rest = (good.sum(axis=0) - good) / (count - 1)
        moves = np.linalg.norm(good - rest, axis=1).tolist()
        failed += np.linalg.norm(new - good.mean(axis=0)) > moved_mass_bound(moves, 0.95)
    assert failed / 2000 < 0.05


def test_shares_are_bounded_by_their_ratio_and_stay_shares():
    low, high = share_bounds([0.01, 0.02, 0.04], 0.9)
    assert low * high == pytest.approx(0.02**2)
    low, high = share_bounds([0.5, 0.9, 0.99], 0.99)
    assert 0 < low < 0.5
    assert high == 1.0


def test_a_share_of_nothing_has_bounds():
    low, high = share_bounds([0.0, 0.0, 0.0], 0.99)
    assert low == 0  # The next run of the same kind has none either.
    assert high == pytest.approx(1e-6)


def test_shares_as_far_apart_as_can_be_have_bounds():
    assert share_bounds([0.0, 0.0, 1.0], 0.99999) == (0.0, 1.0)


@pytest.mark.parametrize("share", [0.1, 0.3, 1 / 3, 0.7, 1.0])
def test_equal_shares_allow_the_same_once_more(share):
    low, high = share_bounds([share] * 3, 0.99)
    assert low <= share <= high
    assert high - low < 1e-8
