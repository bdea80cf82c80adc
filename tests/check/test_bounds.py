"""Prediction bounds: by hand, against scipy, and by drawing many good runs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from lightning_saliency.check.bounds import moved_mass_bound, share_bounds, upper
from lightning_saliency.functional.quantiles import fisher, student


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 30])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.99, 0.9975, 0.99995])
def test_student_s_quantiles_are_scipy_s(probability, freedom):
    expected = stats.t.ppf(probability, freedom)
    assert student(probability, freedom) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("probability", [0.5, 1.0, 0.0, float("nan")])
def test_what_is_not_a_probability_above_a_half(probability):
    with pytest.raises(ValueError, match=r"`probability` must lie between 0.5 and 1, got "):
        student(probability, 4)


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


@pytest.mark.parametrize("second", [2, 5, 15, 25, 50, 500])
@pytest.mark.parametrize("first", [1, 2, 5, 19])
@pytest.mark.parametrize("probability", [0.6, 0.99, 0.9975, 0.99995])
def test_fisher_s_quantiles_are_scipy_s(probability, first, second):
    expected = stats.f.ppf(probability, first, second)
    assert fisher(probability, first, second) == pytest.approx(expected, rel=1e-8)


def test_a_bound_on_moves_by_hand():
    """The root mean square of 0.3, 0.4 and 0.5, and F(0.99; 5, 15) = 4.5556."""
    expected = math.sqrt((0.09 + 0.16 + 0.25) / 3 * 4.5556)
    assert moved_mass_bound([0.3, 0.4, 0.5], 0.99) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("count", [3, 5])
def test_a_good_run_moves_too_far_as_rarely_as_promised(count):
    """Good runs are points that spread alike in five directions."""
    draw = np.random.default_rng(0)
    failed = 0
    for points in draw.normal(size=(2000, count + 1, 5)):
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
