"""Tiles and sheets: colours, sizes and places, in pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lightning_saliency.draw import canvas
from lightning_saliency.draw.canvas import RowName, Tile, encode, sheet
from lightning_saliency.draw.colours import colorize, fit, photo, sharp_size

SIZE = 20


def grey(level: int = 100) -> np.ndarray:
    return np.full((SIZE, SIZE, 3), level, np.uint8)


def flat(value: float, style: Any, image: Any = None) -> list[int]:
    """The colour of a map that has ``value`` everywhere."""
    return colorize(np.full((2, 2), value), 4, style, image)[0, 0].tolist()


def test_the_ends_and_the_middle_of_the_signed_colours():
    assert flat(1, "signed") == [103, 0, 31]  # the ends of matplotlib's RdBu_r
    assert flat(-1, "signed") == [5, 48, 97]
    assert min(flat(0, "signed")) >= 245
    assert flat(7, "signed") == flat(1, "signed")
    assert flat(-7, "signed") == flat(-1, "signed")


def test_magnitude_has_no_sign():
    assert flat(0, "magnitude") == [0, 0, 3]  # the ends of inferno
    assert flat(1, "magnitude") == flat(-1, "magnitude") == [252, 254, 164]


def test_an_overlay_dims_the_image_where_the_map_is_zero_and_hides_it_where_it_is_one():
    image = np.full((4, 4, 3), (30, 60, 90), np.uint8)
    assert flat(0, "overlay", image) == [36, 36, 36]  # 0.6 of the mean of 60
    assert flat(-1, "overlay", image) == [255, 255, 255]  # the end of "hot"
    assert flat(0.5, "overlay") == flat(0.5, "magnitude")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_map_that_is_not_finite_is_hatched(value: float):
    values = np.zeros((3, 3))
    values[1, 1] = value
    assert set(np.unique(colorize(values, 30, "signed"))) == {214, 240}


def test_small_images_get_sharp_squares():
    found = fit(np.array([[1.0, 2.0]], np.float32), 4)
    assert found.tolist() == [[0] * 4, [1, 1, 2, 2], [1, 1, 2, 2], [0] * 4]
    assert fit(np.zeros((3, 9, 3), np.uint8), 6).shape == (6, 6, 3)


def test_large_images_are_interpolated():
    steps = fit(np.repeat([[0.0, 1.0]], 2, axis=0).astype(np.float32), 3)
    assert ((steps > 0.2) & (steps < 0.8)).any()


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(28, 28, 84), (28, 14, 84), (48, 48, 96), (49, 49, 96), (224, 10, 96), (1, 1, 96)],
)
def test_sharp_size(height: int, width: int, expected: int):
    assert sharp_size(height, width, 96) == expected


def test_any_number_of_channels_becomes_a_photo():
    assert photo(np.array([[[1.0]], [[0.5]], [[0.0]]]), 1).tolist() == [[[255, 128, 0]]]
    assert photo(np.array([[[1.0]], [[0.0]]]), 1).tolist() == [[[128, 128, 128]]]


def test_the_head_of_a_row_stays_clear_of_tiles_and_frames():
    tile = Tile(grey(), framed=True)
    picture = sheet([[tile], [tile]], title="", row_heads=["gypq|", "gypq|"])
    grey_rows = np.flatnonzero((picture[:, 6 + SIZE // 2] == 100).all(axis=1))
    tops = [int(grey_rows[0]) - 1, int(grey_rows[SIZE - 2]) - 1]
    assert tops == [24 + 20, 24 + 20 + SIZE + 6 + 20]
    bottom = 24  # of what lies above the head
    for top in tops:
        head = picture[bottom : top - 2]  # a frame begins two pixels above its tile
        assert (head != 255).any()
        assert (head[-1] == 255).all()
        assert not (head == (24, 128, 56)).all(axis=2).any()
        bottom = top + SIZE + 2


def test_only_rows_with_words_have_room_for_them():
    silent, named = Tile(grey()), Tile(grey(), "cat")
    height = 24 + 2 * (SIZE + 6) + 18 + 6
    assert sheet([[silent], [named]], title="").shape[0] == height
    assert sheet([[silent], [named]], title="", block=1).shape[0] == height + 10
    assert sheet([[silent], [named]], title="", block=2).shape[0] == height


def test_notes_widen_a_sheet_only_if_they_must_be_whole():
    tile, notes = Tile(grey()), ["a note that is far too long for the least width of a sheet"] * 6
    cut = sheet([[tile]], title="", lead=tile, notes=notes)
    whole = sheet([[tile]], title="", lead=tile, notes=notes, whole_notes=True)
    assert cut.shape[1] == 300
    assert whole.shape[1] > 300
    assert (whole[:, -6:] == 255).all()
    assert whole.shape[0] == 6 + 7 * 18 + 6 + SIZE + 6 + 6


def test_a_row_s_name_and_note_are_shortened_to_fit():
    tile, long = Tile(grey()), "a name that goes on and on " * 50
    picture = sheet([[tile]], title="", row_names=[RowName(long, long)])
    column = np.flatnonzero((picture[24 + SIZE // 2] == 100).all(axis=1))[0]
    assert column <= 6 + 180 + 6 + 1
    alone = sheet([[tile]], title="", row_names=[RowName("", "gradient")])
    assert (alone != 255).any(axis=2).any(axis=1)[24 + SIZE // 2]  # centred on the tile


def test_an_empty_place_stays_white():
    picture = sheet([[None, Tile(grey())]], title="")
    assert (picture[24 : 24 + SIZE, : 6 + SIZE] == 255).all()


@pytest.mark.parametrize(
    ("height", "asked", "expected"),
    [
        (65_500, "jpeg", "JPEG"),
        (65_501, "jpeg", "PNG"),
        (10, "png", "PNG"),
    ],
)
def test_a_picture_too_long_for_jpeg_becomes_png(height: int, asked: Any, expected: str):
    picture = np.zeros((height, 1, 3), np.uint8)
    opened = Image.open(io.BytesIO(encode(picture, asked)))
    assert opened.format == expected
    assert opened.size == (1, height)


@pytest.mark.parametrize("anchor", ["la", "ra", "rm"])
@pytest.mark.parametrize("text", ["Äpfel, jumping", "7 · cat 12%", " "])
def test_words_look_as_those_that_are_written_directly(text, anchor):
    expected, found = (Image.new("RGB", (120, 40), (255, 240, 230)) for _ in range(2))
    ImageDraw.Draw(expected).text((60, 12), text, (20, 90, 160), canvas._font(True), anchor=anchor)
    for _ in range(2):  # the second time, the words are known
        canvas._draw_text(
            ImageDraw.Draw(found), (60, 12), text, (20, 90, 160), bold=True, anchor=anchor
        )
        assert found.tobytes() == expected.tobytes()
        found = Image.new("RGB", (120, 40), (255, 240, 230))
