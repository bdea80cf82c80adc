"""Quantiles compared with tables and with scipy."""

from __future__ import annotations

import pytest
from scipy import stats

from lightning_saliency.functional.quantiles import fisher, student


@pytest.mark.parametrize(
    ("found", "printed"),
    [
        pytest.param(student(0.975, 1), 12.706, id="t-with-1"),
        pytest.param(student(0.95, 10), 1.812, id="t-with-10"),
        pytest.param(fisher(0.95, 1, 10), 4.965, id="F-with-1-and-10"),
        pytest.param(fisher(0.99, 5, 20), 4.103, id="F-with-5-and-20"),
    ],
)
def test_quantiles_agree_with_printed_tables(found, printed):
    assert found == pytest.approx(printed, abs=5e-4)


def test_t_with_one_degree_of_freedom_by_hand():
    """This is the Cauchy distribution, whose quantile at 3/4 is tan(π/4)."""
    assert student(0.75, 1) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 10, 29, 30])
@pytest.mark.parametrize("probability", [0.6, 0.95, 0.99, 0.9975, 0.99995])
def test_student_agrees_with_scipy(probability, freedom):
    expected = stats.t.ppf(probability, freedom)
    assert student(probability, freedom) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("second", [2, 5, 15, 25, 50, 500])
@pytest.mark.parametrize("first", [1, 2, 5, 19])
@pytest.mark.parametrize("probability", [0.6, 0.99, 0.9975, 0.99995])
def test_fisher_agrees_with_scipy(probability, first, second):
    expected = stats.f.ppf(probability, first, second)
    assert fisher(probability, first, second) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("probability", [0.5, 1.0, 0.0, float("nan")])
def test_a_probability_out_of_range_is_refused(probability):
    with pytest.raises(ValueError, match=r"`probability` must lie between 0.5 and 1, got "):
        student(probability, 4)
    with pytest.raises(ValueError, match=r"`probability` must lie between 0.5 and 1, got "):
        fisher(probability, 4, 5)
