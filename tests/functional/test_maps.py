"""Reductions of attributions, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency.functional.maps import (
    MASS_REDUCTIONS,
    REDUCTIONS,
    TITLES,
    contributions,
    masses,
    reduce_channels,
    sensitivities,
    shrink,
    strongest_channel,
)

# Two channels of 1×3 pixels.
ATTRIBUTION = torch.tensor([[[1.0, -4.0, -2.0]], [[3.0, 2.0, -1.0]]])


@pytest.mark.parametrize(
    ("reduce", "expected"),
    [
        ("abs_max", [[3.0, 4.0, 2.0]]),
        ("max", [[3.0, 2.0, -1.0]]),
        ("abs_sum", [[4.0, 6.0, 3.0]]),
        ("square", [[10.0, 20.0, 5.0]]),
    ],
)
def test_reduce_channels_by_hand(reduce, expected):
    assert reduce_channels(ATTRIBUTION, reduce).tolist() == expected
    batch = ATTRIBUTION.expand(2, 5, -1, -1, -1)
    assert reduce_channels(batch, reduce).tolist() == [[expected] * 5] * 2


def test_every_reduction_has_a_title():
    assert set(TITLES) == set(REDUCTIONS)


def test_an_unknown_reduction_is_refused():
    message = "`reduce` must be one of abs_max, max, abs_sum, square, got 'mean'"
    with pytest.raises(ValueError, match=message):
        reduce_channels(ATTRIBUTION, "mean")


@pytest.mark.parametrize("reduce", MASS_REDUCTIONS)
def test_mass_is_never_negative(reduce):
    images = torch.tensor([[[[0.0, 3.0, 6.0]], [[1.0, 1.0, 1.0]]]])
    found = masses(ATTRIBUTION[None], images, reduce)
    views = {
        "contribution": [contributions(ATTRIBUTION[None], images)],
        "sensitivity": [sensitivities(ATTRIBUTION[None])],
        "joint": [sensitivities(ATTRIBUTION[None]), contributions(ATTRIBUTION[None], images)],
    }
    expected = views.get(reduce) or [reduce_channels(ATTRIBUTION[None], reduce)]
    assert found.shape == (1, len(expected), 1, 3)
    assert bool((found >= 0).all())
    assert torch.equal(found, torch.stack(expected, dim=1))


def test_sensitivities_are_the_root_of_the_sum_of_magnitudes():
    attribution = torch.tensor([[[[1.0, -4.0]], [[3.0, 5.0]]]])
    assert sensitivities(attribution).tolist() == [[[2.0, 3.0]]]


def test_contributions_by_hand():
    """The channels have the means 3 and 1, so the contrasts are (−3, 0, 3) and (0, 0, 0)."""
    images = torch.tensor([[[[0.0, 3.0, 6.0]], [[1.0, 1.0, 1.0]]]])
    assert contributions(ATTRIBUTION[None], images).tolist() == [[[3.0, 0.0, 6.0]]]


def test_contributions_do_not_depend_on_how_channels_are_normalised():
    """Dividing a channel by its deviation multiplies its gradient by the same number."""
    generator = torch.Generator().manual_seed(0)
    images, attribution = torch.randn(2, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    mean = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)
    deviation = torch.tensor([0.2, 0.3, 4.0]).view(3, 1, 1)
    found = contributions(attribution * deviation, (images - mean) / deviation)
    torch.testing.assert_close(found, contributions(attribution, images))


def test_strongest_channel_by_hand():
    assert strongest_channel(ATTRIBUTION).tolist() == [[3.0, -4.0, -2.0]]


def test_strongest_channel_prefers_the_positive_of_two_equal_magnitudes():
    assert strongest_channel(torch.tensor([[[-2.0]], [[2.0]]])).tolist() == [[2.0]]


def test_shrink_keeps_the_strongest_value_of_each_block():
    signed = torch.tensor([[1.0, -3.0, 0.0, 0.5], [2.0, 0.5, -0.25, 0.0]])
    assert shrink(signed, 2).tolist() == [[-3.0, 0.5]]


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        pytest.param((2, 3, 8, 16), 4, (2, 3, 2, 4), id="aspect-ratio"),
        pytest.param((1, 100), 10, (1, 10), id="no-side-below-one-pixel"),
        pytest.param((5, 8, 8), 8, (5, 8, 8), id="already-small-enough"),
    ],
)
def test_shapes_of_shrunk_maps(shape, size, expected):
    assert shrink(torch.ones(shape), size).shape == expected
