"""Measures worked out by hand, and compared with scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_saliency.functional.measures import (
    cell_mask,
    moved_mass,
    profiles,
    share,
    spearman,
)


def two_maps(side: int, *, ties: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(side)
    first = torch.rand(3, side, side, generator=generator, dtype=torch.float64)
    second = 0.5 * first + torch.rand(3, side, side, generator=generator, dtype=torch.float64)
    return ((4 * first).round(), (4 * second).round()) if ties else (first, second)


def test_a_share_by_hand():
    maps = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    mask = torch.tensor([[[True, False], [False, True]]]).expand(2, 2, 2)
    found = share(maps, mask)
    assert float(found[0]) == 0.5
    assert torch.isnan(found[1])


def test_shares_of_tiny_maps():
    """The squares of the gradients of a saturated network are close to the smallest float64."""
    maps = torch.tensor([[[1e-310, 3e-310]]], dtype=torch.float64)
    found = share(maps, torch.tensor([[[False, True]]]))
    torch.testing.assert_close(found, torch.tensor([0.75], dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("sides", [(8, 8), (28, 28), (30, 45), (224, 224), (5, 3)])
def test_a_profile_counts_every_pixel_once(sides):
    maps = torch.rand(2, *sides, dtype=torch.float64) + 0.1
    found = profiles(maps)
    assert found.shape == (2, 8, 8)
    torch.testing.assert_close(found.sum(dim=(1, 2)), torch.ones(2, dtype=torch.float64))
    whole = maps / maps.sum(dim=(1, 2), keepdim=True)
    for row, column in ((0, 0), (3, 5), (7, 7)):
        inside = (whole * cell_mask(row, column, *sides)).sum(dim=(1, 2))
        torch.testing.assert_close(found[:, row, column], inside)


def test_the_cells_are_a_partition():
    covered = sum(cell_mask(r, c, 30, 45).int() for r in range(8) for c in range(8))
    assert bool((covered == 1).all())


def test_moved_mass_by_hand():
    first, second = torch.zeros(8, 8), torch.zeros(8, 8)
    first[0, 0], first[1, 1] = 0.75, 0.25
    second[0, 0], second[5, 5] = 0.5, 0.5
    assert moved_mass(first, second) == moved_mass(second, first) == 0.5
    assert moved_mass(first, first) == 0


@pytest.mark.parametrize("side", [7, 28, 299, 400])
@pytest.mark.parametrize("ties", [False, True])
def test_spearman_agrees_with_scipy(side, ties):
    first, second = two_maps(side, ties=ties)
    expected = [
        stats.spearmanr(a.flatten(), b.flatten()).statistic
        for a, b in zip(first.numpy(), second.numpy(), strict=True)
    ]
    np.testing.assert_allclose(spearman(first, second).numpy(), expected, rtol=1e-10)


@pytest.mark.parametrize("side", [299, 600])
def test_spearman_does_not_overflow(side):
    rising = torch.arange(side * side, dtype=torch.float32).view(1, side, side)
    assert float(spearman(rising, -rising)) == pytest.approx(-1, abs=1e-12)
    assert float(spearman(rising, rising)) == pytest.approx(1, abs=1e-12)


def test_spearman_of_a_constant_map_is_not_a_number():
    assert torch.isnan(spearman(torch.ones(1, 4, 4), torch.rand(1, 4, 4)))
