"""Maps and images as coloured squares, to the pixel."""

from __future__ import annotations

import numpy as np
import pytest

from lightning_saliency.draw.colours import (
    OVERLAY_DIMMED,
    STYLES,
    colorize,
    fit,
    photo,
    sharp_size,
)


def test_a_signed_map_is_red_above_zero_white_at_zero_and_blue_below():
    red, white, blue = colorize(np.array([[1.0, 0.0, -1.0]]), 30, "signed")[15, [5, 15, 25]]
    assert red.tolist() == [103, 0, 31]  # the ends of RdBu
    assert blue.tolist() == [5, 48, 97]
    assert (white > 240).all()


def test_what_saturates_stays_within_the_colours():
    beyond, end = (colorize(np.full((2, 2), v), 8, "signed") for v in (7.0, 1.0))
    assert np.array_equal(beyond, end)


def test_a_magnitude_has_no_sign():
    values = np.array([[0.5, -0.5]])
    assert np.array_equal(
        colorize(values, 8, "magnitude"), colorize(np.abs(values), 8, "magnitude")
    )


def test_an_overlay_of_nothing_is_the_dimmed_grey_image():
    image = np.full((8, 8, 3), (200, 100, 0), dtype=np.uint8)
    found = colorize(np.zeros((8, 8)), 8, "overlay", image)
    assert (found == int(100 * OVERLAY_DIMMED)).all()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_hatched_in_any_style(style, value):
    image = np.zeros((24, 24, 3), dtype=np.uint8)
    found = colorize(np.array([[0.0, value]]), 24, style, image)
    assert set(np.unique(found)) == {214, 240}


def test_few_pixels_stay_squares_and_a_wide_image_is_centred():
    found = fit(np.array([[1.0, 2.0]], dtype=np.float32), 4)
    assert found.tolist() == [[0] * 4, [1, 1, 2, 2], [1, 1, 2, 2], [0] * 4]


def test_an_image_of_other_than_three_channels_is_grey():
    two = np.stack([np.zeros((2, 2)), np.ones((2, 2))]).astype(np.float32)
    assert (photo(two, 4) == 128).all()
    red = np.stack([np.ones((2, 2)), np.zeros((2, 2)), np.zeros((2, 2))]).astype(np.float32)
    assert photo(red, 4)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("sides", "size"), [((28, 28), 84), ((48, 48), 96), ((49, 49), 96), ((12, 30), 90)]
)
def test_a_small_image_is_enlarged_by_a_whole_number(sides, size):
    assert sharp_size(*sides, 96) == size
