"""Numbers for where the mass of a map lies, and how similar two maps are; computed in float64.

The **share** of a map inside a region, and its **profile** on a coarse grid, are what runs are
compared by. For the plain gradient, they agree from one training to the next and change when a
model looks elsewhere. Similarities pixel by pixel do not agree between trainings, so they
are used for plots only.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

CELLS = 8  # cells per side of a profile, which is coarse enough for two trainings to agree


def share(maps: Tensor, mask: Tensor) -> Tensor:
    """Measure which part of each map's mass lies inside a region.

    Args:
        maps: ``(N, H, W)``, non-negative.
        mask: ``(N, H, W)`` bool, true inside the region.

    Returns:
        ``(N,)`` float64 in [0, 1]; NaN for maps that are all zero.

    Example:
        >>> share(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[False, True]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    return _share(_scaled(maps), mask)


def profiles(maps: Tensor, cells: int = CELLS) -> Tensor:
    """Measure which part of each map's mass lies in each cell of a coarse grid.

    Args:
        maps: ``(N, H, W)``, non-negative.
        cells: The number of cells per side. Each pixel lies in exactly one cell, even if the sides
            of the map are not multiples of ``cells``.

    Returns:
        ``(N, cells, cells)`` float64, each with a sum of 1; NaN for maps that are all zero.

    Example:
        >>> profiles(torch.tensor([[[1.0, 3.0], [0.0, 4.0]]]), cells=2)
        tensor([[[0.1250, 0.3750],
                 [0.0000, 0.5000]]], dtype=torch.float64)
    """
    return _profiles(_scaled(maps), cells)


def profiles_and_shares(
    maps: Tensor, masks: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Do the same as :func:`profiles` and, for each mask, :func:`share`, in less time.

    Args:
        maps: ``(N, H, W)``, non-negative.
        masks: For each region, ``(N, H, W)`` bool.

    Returns:
        Profiles ``(N, 8, 8)``, and for each region ``(N,)``.
    """
    mass = _scaled(maps)
    return _profiles(mass, CELLS), {name: _share(mass, mask) for name, mask in masks.items()}


def moved_mass(first: Tensor, second: Tensor) -> float:
    """Measure how much mass lies elsewhere in the second of two profiles: half their L1 distance.

    Args:
        first: ``(cells, cells)``, with a sum of 1.
        second: The same shape, with a sum of 1.

    Returns:
        A number in [0, 1]: 0 for equal profiles, 1 for profiles that do not overlap.

    Example:
        >>> moved_mass(torch.tensor([0.5, 0.5]), torch.tensor([0.25, 0.75]))
        0.25
    """
    return float((first.double() - second.double()).abs().sum()) / 2


def at_one_size(*maps: Tensor) -> list[Tensor]:
    """Average-pool maps ``(N, H, W)`` to the smallest height and the smallest width among them."""
    size = min(m.shape[-2] for m in maps), min(m.shape[-1] for m in maps)
    return [F.adaptive_avg_pool2d(m, size) for m in maps]


def cell_mask(row: int, column: int, height: int, width: int, cells: int = CELLS) -> Tensor:
    """Mark the pixels of one cell of the grid of :func:`profiles`.

    Args:
        row: The cell's row in the grid, from 0.
        column: The cell's column.
        height: The height of the map, in pixels.
        width: The width of the map, in pixels.
        cells: The number of cells per side.

    Returns:
        ``(height, width)`` bool, true inside the cell.
    """
    cpu = torch.device("cpu")
    rows = _assign_cells(height, cells, cpu) == row
    return rows[:, None] & (_assign_cells(width, cells, cpu) == column)


def spearman(first: Tensor, second: Tensor) -> Tensor:
    """Compute the rank correlation of maps (Spearman's ρ); ties get their mean rank.

    Args:
        first: ``(N, H, W)``.
        second: ``(N, H, W)``, compared with ``first`` image by image.

    Returns:
        ``(N,)`` float64 in [-1, 1], 1 for the same order of pixels; NaN if either map is constant.

    Example:
        >>> rising = torch.tensor([[[1.0, 2.0, 3.0]]])
        >>> spearman(rising, rising.flip(-1)).round(decimals=9)
        tensor([-1.], dtype=torch.float64)
    """
    ranks = [_ranks(maps.flatten(1).double()) for maps in (first, second)]
    # Spearman's ρ is the cosine of the centred ranks. Centring also keeps the sums small enough for
    # float64 to represent them exactly.
    return _cosine(*((r - r.mean(dim=1, keepdim=True)).unsqueeze(1) for r in ranks))


def _cosine(first: Tensor, second: Tensor) -> Tensor:
    """Compute the cosine ``(N,)`` of the angle between maps ``(N, H, W)``; NaN if one is zero."""
    a, b = (_scaled(maps).flatten(1) for maps in (first, second))
    lengths = (a.square().sum(dim=1) * b.square().sum(dim=1)).sqrt()
    return ((a * b).sum(dim=1) / lengths).clamp(-1, 1)


def _scaled(maps: Tensor) -> Tensor:
    """Divide each map by its largest magnitude, in float64; a map that is all zero stays zero.

    Without this, the squares of very small gradients would underflow.
    """
    exact = maps.double()
    peaks = exact.abs().amax(dim=(-2, -1), keepdim=True)
    return exact / peaks.masked_fill(peaks == 0, 1)


def _share(mass: Tensor, mask: Tensor) -> Tensor:
    return (mass * mask).sum(dim=(-2, -1)) / mass.sum(dim=(-2, -1))


def _profiles(mass: Tensor, cells: int) -> Tensor:
    """Sum up the cells of ``mass``: whole rows first, which is quick, then columns."""
    for dim in (-2, -1):
        # The pixels of a cell are consecutive.
        sizes = _assign_cells(mass.shape[dim], cells, mass.device).bincount(minlength=cells)
        parts = torch.split(mass, sizes.tolist(), dim=dim)
        mass = torch.stack([part.sum(dim=dim) for part in parts], dim=dim)
    return mass / mass.sum(dim=(-2, -1), keepdim=True)


def _assign_cells(side: int, cells: int, device: torch.device) -> Tensor:
    """Map each of ``side`` pixels to the index of its cell."""
    return torch.arange(side, device=device) * cells // side


def _ranks(values: Tensor) -> Tensor:
    """Rank the values of each row from 1; equal values share the mean of their ranks."""
    ordered, order = values.sort(dim=1)
    ranks = torch.empty_like(values)
    for row in range(len(values)):
        # A run of equal values that ends at rank e and has n members has the mean rank
        # e − (n − 1) / 2.
        _, runs = torch.unique_consecutive(ordered[row], return_counts=True)
        ends = runs.cumsum(0).double()
        mean_ranks = ends - (runs.double() - 1) / 2
        ranks[row, order[row]] = mean_ranks.repeat_interleave(runs)
    return ranks
