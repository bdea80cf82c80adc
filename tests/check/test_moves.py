"""Distances from good runs by hand: profiles of two cells, so that moves are differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_saliency.check.moves import TYPICAL, find_move, find_weights, left_out_moves


def runs(*parts: tuple[float, ...]) -> Tensor:
    """Runs with a part of each view's mass in the first cell, the rest in the last."""
    views = torch.zeros(len(parts), len(parts[0]), 8, 8, dtype=torch.float64)
    views[:, :, 0, 0] = torch.tensor(parts, dtype=torch.float64)
    views[:, :, 7, 7] = 1 - views[:, :, 0, 0]
    return views


def test_a_single_view_moves_by_half_the_difference():
    good = runs((0.3,), (0.4,), (0.5,))
    assert find_weights(good).tolist() == [1.0]
    assert find_move(runs((0.6,))[0], good) == pytest.approx(0.2)
    # The mean of the other two is 0.45, 0.4 and 0.35.
    assert left_out_moves(good) == pytest.approx([0.15, 0.0, 0.15])


def test_a_view_counts_by_how_closely_good_runs_agree_in_it():
    """The second view spreads twice as far, so a move in it counts a quarter."""
    good = runs((0.4, 0.3), (0.5, 0.5), (0.6, 0.7))
    assert find_weights(good).tolist() == pytest.approx([0.8, 0.2])
    assert find_move(runs((0.6, 0.5))[0], good) == pytest.approx(math.sqrt(0.8) * 0.1)
    assert find_move(runs((0.5, 0.6))[0], good) == pytest.approx(math.sqrt(0.2) * 0.1)
    both = math.sqrt(0.8 * 0.1**2 + 0.2 * 0.2**2)
    assert find_move(runs((0.6, 0.7))[0], good) == pytest.approx(both)


def test_the_mean_square_of_left_out_moves_is_the_harmonic_mean_of_the_views():
    good = runs((0.41, 0.3), (0.5, 0.55), (0.6, 0.7), (0.5, 0.42))
    squares = [sum(move**2 for move in left_out_moves(good[:, [view]])) / 4 for view in (0, 1)]
    mean = sum(move**2 for move in left_out_moves(good)) / 4
    assert mean == pytest.approx(2 / sum(1 / square for square in squares))


def test_one_run_is_taken_to_lie_from_others_as_other_trainings_do():
    good = runs((0.4, 0.3))
    first, second = find_weights(good).tolist()
    assert first / second == pytest.approx((TYPICAL[1] / TYPICAL[0]) ** 2)
    assert first + second == pytest.approx(1)
    apart = math.sqrt(first * TYPICAL[0] ** 2 + second * TYPICAL[1] ** 2)
    assert left_out_moves(good) == pytest.approx([apart] * 3)


def test_two_runs_have_one_distance_of_their_own():
    good = runs((0.4, 0.3), (0.5, 0.32))
    squares = [(0.1**2 + 3 * TYPICAL[0] ** 2) / 4, (0.02**2 + 3 * TYPICAL[1] ** 2) / 4]
    first, second = find_weights(good).tolist()
    assert first / second == pytest.approx(squares[1] / squares[0])
    own, typical, *_ = left_out_moves(good)
    assert own == pytest.approx(math.sqrt(first * 0.1**2 + second * 0.02**2))
    assert typical == pytest.approx(math.sqrt(first * TYPICAL[0] ** 2 + second * TYPICAL[1] ** 2))


def test_runs_that_agree_exactly_in_a_view_give_it_all_the_weight():
    good = runs((0.4, 0.3), (0.4, 0.5), (0.4, 0.7))
    assert find_weights(good).tolist() == pytest.approx([1.0, 0.0])
    assert find_move(runs((0.5, 0.9))[0], good) == pytest.approx(0.1)
    alike = runs(*[(0.4, 0.3)] * 3)
    assert find_weights(alike).tolist() == [0.5, 0.5]
    assert find_move(alike[0], alike) == pytest.approx(0, abs=1e-15)
