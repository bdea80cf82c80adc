"""How far a run lies from good runs: moved masses, over all views of the gradient at once.

Each view of the gradient gives a profile, and each profile a moved mass. Their root mean square is
one distance. A view is weighted by how closely good runs agree in it, so that a move counts by how
unusual it is: in these units, a good run lies as far from the others in every view.

Runs are given by the mean profile of their images, ``(runs, V, 8, 8)``, or by the profile of each
image, ``(runs, N, V, 8, 8)``, whose moves are then averaged. What moves to one place in all images
shows in the mean; what moves to another place in each image cancels out there.
"""

from __future__ import annotations

import torch
from torch import Tensor

# With fewer good runs than this, their spread is too uncertain to fail a run by.
ENOUGH = 3
# The moved mass between two good runs in each of the views of `maps.JOINT`, as other trainings have
# it, which stands for so many distances between good runs if there are fewer than three. Measured:
# see "One or two good runs" in benchmarks/RESULTS.md.
TYPICAL, TYPICAL_COUNT = (0.025, 0.04), 3


def find_weights(good: Tensor) -> Tensor:
    """Weigh each view by how closely good runs agree in it.

    Args:
        good: ``(runs, …, V, 8, 8)``, at least one run.

    Returns:
        ``(V,)`` float64 with a sum of 1, inversely proportional to the mean square of the distances
        between good runs.
    """
    if good.shape[-3] == 1:
        return torch.ones(1, dtype=torch.float64)
    squares = torch.stack(_find_distances(good)).square().mean(dim=0)
    # Good runs that agree exactly, as those of a frozen network do, would divide by zero.
    weights = 1 / squares.clamp(min=torch.finfo(squares.dtype).tiny)
    return weights / weights.sum()


def find_move(views: Tensor, good: Tensor, weights: Tensor | None = None) -> float:
    """Measure how far a run lies from the mean of good runs.

    Args:
        views: ``(…, V, 8, 8)``, the profiles of the run.
        good: ``(runs, …, V, 8, 8)``, the same of each good run.
        weights: ``(V,)``; by default, those of :func:`find_weights`.

    Returns:
        A number in [0, 1]; for a single view, the moved mass.
    """
    weights = find_weights(good) if weights is None else weights
    return _join(_move_views(views, good.mean(dim=0)), weights)


def left_out_moves(good: Tensor, weights: Tensor | None = None) -> list[float]:
    """How far good runs lie apart: each of ``(runs, …, V, 8, 8)`` from the mean of the others.

    For one or two runs, it is the distance between them, if there is one, and typical ones.
    """
    weights = find_weights(good) if weights is None else weights
    return [_join(moves, weights) for moves in _find_distances(good)]


def _find_distances(good: Tensor) -> list[Tensor]:
    """The moved mass of each view ``(V,)``, for each of the distances between good runs."""
    if len(good) < ENOUGH:
        typical = torch.tensor(TYPICAL[: good.shape[-3]], dtype=torch.float64)
        own = [_move_views(*good)] if len(good) == 2 else []
        return [*own, *[typical] * TYPICAL_COUNT]
    total = good.sum(dim=0)
    return [_move_views(run, (total - run) / (len(good) - 1)) for run in good]


def _move_views(first: Tensor, second: Tensor) -> Tensor:
    """The moved mass of each view ``(V,)`` between two runs ``(…, V, 8, 8)``."""
    moves = (first.double() - second.double()).abs().sum(dim=(-2, -1)) / 2
    return moves if moves.ndim == 1 else moves.nanmean(dim=0)


def _join(moves: Tensor, weights: Tensor) -> float:
    return float((weights * moves.square()).sum().sqrt())
