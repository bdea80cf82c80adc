"""Volumes become flat by what is strongest along an axis, or by one slice."""

from __future__ import annotations

import itertools

import pytest
import torch

from lightning_saliency.functional.maps import strongest_channel
from lightning_saliency.functional.projection import AXES, Projection

VOLUMES = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axis", AXES)
def test_the_strongest_of_a_volume_by_hand(axis):
    sides = [side for i, side in enumerate(VOLUMES.shape[2:]) if i != axis + 3]
    found = Projection("max", axis).strongest(VOLUMES)
    assert found.shape == (2, 3, *sides)
    for place in itertools.product(*map(range, found.shape)):
        line = VOLUMES.movedim(axis, -1)[place].tolist()
        assert float(found[place]) == max(line, key=abs)


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("depth", ["max", "middle", 0, 3])
def test_folded_channels_hold_what_is_strongest_of_all(depth, axis):
    projection = Projection(depth, axis)
    folded = strongest_channel(projection.fold(VOLUMES))
    assert torch.equal(folded, strongest_channel(projection.strongest(VOLUMES)))


@pytest.mark.parametrize(
    ("depth", "axis", "slice_number"),
    [("middle", -3, 2), ("middle", -1, 3), (0, -2, 0), (4, -2, 4)],
)
def test_a_slice_shows_maps_and_images_of_one_place(depth, axis, slice_number):
    projection, expected = Projection(depth, axis), VOLUMES.select(axis, slice_number)
    for found in (projection.strongest, projection.brightest, projection.fold):
        assert torch.equal(found(VOLUMES), expected)


@pytest.mark.parametrize("depth", ["max", 1])
def test_mass_is_that_of_the_whole_volume_whatever_is_shown(depth):
    assert torch.equal(Projection(depth, -2).total(VOLUMES), VOLUMES.sum(dim=-2))


def test_images_keep_their_channels():
    assert torch.equal(Projection("max", -3).brightest(VOLUMES), VOLUMES.amax(dim=2))


@pytest.mark.parametrize(
    ("projection", "words"),
    [
        (Projection("max", -3), "strongest value along axis 2"),
        (Projection("middle", -2), "middle slice of axis 3"),
        (Projection(7, -1), "slice 7 of axis 4"),
    ],
    ids=str,
)
def test_a_projection_says_what_it_shows(projection, words):
    assert str(projection) == words
