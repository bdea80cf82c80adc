"""Reductions of attributions, worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lightning_saliency.functional.maps import (
    MASS_REDUCTIONS,
    REDUCTIONS,
    TITLES,
    contributions,
    masses,
    reduce_channels,
    sensitivities,
    shrink,
    shrink_strongest_channel,
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


def test_shrink_prefers_the_positive_of_two_equal_magnitudes():
    assert shrink(torch.tensor([[-2.0, 2.0]]), 1).tolist() == [[2.0]]


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(224, 224, 96), (96, 64, 48), (31, 200, 17), (7, 5, 7), (1, 9, 4), (13, 13, 12)],
)
def test_blocks_are_those_of_adaptive_pooling(height, width, size):
    random = torch.Generator().manual_seed(height)
    attribution = torch.randn(2, 4, 3, height, width, generator=random)
    attribution[0, 1, 2, height // 2, width // 2] = torch.nan
    signed = strongest_channel(attribution).flatten(0, 1)[:, None]
    shape = [max(1, round(side * min(1, size / max(height, width)))) for side in (height, width)]
    _, places = F.adaptive_max_pool2d(signed.abs(), shape, return_indices=True)
    expected = signed.flatten(2).gather(2, places.flatten(2)).view(2, 4, *shape)
    for found in (
        shrink(strongest_channel(attribution), size),
        shrink_strongest_channel(attribution, size),
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


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
