"""Numbers for where maps lie and how alike they are: pure functions of tensors, in float64.

A **share** and a **profile** of the squared plain gradient agree from one training to the next and
move when a model looks elsewhere; similarities of pixels do not, and are for plots.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 8  # a side of the grid of a profile: coarse enough for two trainings to agree


def share(maps: Tensor, mask: Tensor) -> Tensor:
    """The part of a map's mass that lies inside a region.

    Args:
        maps: ``(N, H, W)``, non-negative.
        mask: ``(N, H, W)`` bool, true inside.

    Returns:
        ``(N,)`` float64 in [0, 1]; NaN where a map is all zero.

    Example:
        >>> share(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[False, True]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    mass = _scaled(maps)
    return (mass * mask).sum(dim=(-2, -1)) / mass.sum(dim=(-2, -1))


def profiles(maps: Tensor, cells: int = CELLS) -> Tensor:
    """Where the mass of each map lies, on a coarse grid.

    Args:
        maps: ``(N, H, W)``, non-negative.
        cells: A side of the grid. Each pixel lies in one cell, so nothing is counted twice where
            the sides do not divide.

    Returns:
        ``(N, cells, cells)`` float64, each of sum 1; NaN where a map is all zero.

    Example:
        >>> profiles(torch.tensor([[[1.0, 3.0], [0.0, 4.0]]]), cells=2)
        tensor([[[0.1250, 0.3750],
                 [0.0000, 0.5000]]], dtype=torch.float64)
    """
    mass = _scaled(maps)
    rows, columns = (_cell_of_pixel(side, cells, maps.device) for side in maps.shape[-2:])
    flat = (rows[:, None] * cells + columns).flatten()
    grid = mass.new_zeros(len(maps), cells * cells).index_add_(1, flat, mass.flatten(1))
    return (grid / grid.sum(dim=1, keepdim=True)).view(-1, cells, cells)


def moved_mass(first: Tensor, second: Tensor) -> float:
    """How much of the mass of one profile lies elsewhere in another: half their L1 distance.

    In [0, 1]: 0, the same; 1, nothing in common.

    Example:
        >>> moved_mass(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        0.25
    """
    return float((first.double() - second.double()).abs().sum()) / 2


def at_one_size(*maps: Tensor) -> list[Tensor]:
    """Maps ``(N, H, W)``, each reduced to the height and the width of the smallest."""
    size = min(m.shape[-2] for m in maps), min(m.shape[-1] for m in maps)
    return [F.adaptive_avg_pool2d(m, size) for m in maps]


def cell_mask(row: int, column: int, height: int, width: int, cells: int = CELLS) -> Tensor:
    """The pixels of one cell of the grid: bool ``(height, width)``."""
    cpu = torch.device("cpu")
    rows = _cell_of_pixel(height, cells, cpu) == row
    return rows[:, None] & (_cell_of_pixel(width, cells, cpu) == column)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Rank correlation of maps ``(N, H, W)``, ties at their mean rank.

    Returns:
        ``(N,)`` in [-1, 1], 1 for the same order of pixels; NaN where a map is constant.

    Example:
        >>> rising = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> spearman(rising, rising.flip(-1)).round(decimals=9)
        tensor([-1.], dtype=torch.float64)
    """
    ranks = [_ranks(maps.flatten(1).double()) for maps in (first, second)]
    # Centred, the sums stay far below where float64 counts whole numbers exactly.
    return _cosine(*((r - r.mean(dim=1, keepdim=True)).unsqueeze(1) for r in ranks))


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosine of the angle between maps ``(N, H, W)``: ``(N,)``, NaN if one is all zero."""
    a, b = (_scaled(maps).flatten(1) for maps in (first, second))
    lengths = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return ((a * b).sum(dim=1) / lengths).clamp(-1, 1)


def _scaled(maps: Tensor) -> Tensor:
    """In float64, over the largest magnitude of each: squares of float64 gradients may vanish."""
    exact = maps.double()
    peaks = exact.abs().amax(dim=(-2, -1), keepdim=True)
    return exact / peaks.masked_fill(peaks == 0, 1)


def _cell_of_pixel(side: int, cells: int, device: torch.device) -> Tensor:
    return torch.arange(side, device=device) * cells // side


def _ranks(values: Tensor) -> Tensor:
    """Ranks of each row, those of equal values averaged."""
    ordered, order = values.sort(dim=1)
    ranks = torch.empty_like(values)
    for row in range(len(values)):
        _, runs = torch.unique_consecutive(ordered[row], return_counts=True)
        ends = runs.cumsum(0).double()
        mean_ranks = ends - (runs.double() - 1) / 2
        ranks[row, order[row]] = mean_ranks.repeat_interleave(runs)
    return ranks
