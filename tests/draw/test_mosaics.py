"""Mosaics and film strips: which map is drawn where, in pixels, and the words around it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lightning_saliency import ProbeBatch
from lightning_saliency.draw import mosaics
from lightning_saliency.draw.canvas import RowName
from lightning_saliency.draw.colours import Picture, colorize
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.record.observation import Snapshot

GUIDED, PLAIN = "guided_backprop", "gradient"
SIZE = 24  # pixels per side of a tile: each pixel of the images becomes a square of two
PITCH = SIZE + 6


def level(rule: str, k: int, step: int = 0) -> float:
    """The value of a whole map, unique among those of a test."""
    return (1 + k + 10 * step) / 100 * (1 if rule == GUIDED else -1)


def snapshot(*rules: str, count: int = 5, step: int = 0, targets: Any = None) -> Snapshot:
    """Flat maps of one image of 12 by 12 pixels; class 1 is predicted."""
    maps = {
        rule: torch.tensor([level(rule, k, step) for k in range(count)])
        .view(1, count, 1, 1)
        .repeat(1, 1, 12, 12)
        for rule in rules
    }
    return Snapshot(
        step=step,
        caption=f"epoch {step}",
        targets=torch.arange(count)[None] if targets is None else torch.tensor([targets]),
        probabilities=torch.full((1, count), 0.2),
        predicted=torch.tensor([1]),
        maps=maps,
        peaks={rule: torch.ones(1, count) for rule in rules},
    )


def renderer(**options: Any) -> MosaicRenderer:
    names = ["zero", "one", "two", "three", "four"]
    probe = ProbeBatch(torch.zeros(1, 1, 12, 12), torch.tensor([1]), class_names=names)
    return MosaicRenderer(probe, **{"style": "signed", "scale": "map", "size": SIZE} | options)


def place(picture: Picture, value: float) -> tuple[int, int]:
    """The top and left of the only tile with the flat colour of ``value``."""
    colour = colorize(np.full((1, 1), value, np.float32), 1, "signed")[0, 0]
    rows, columns = np.nonzero((picture == colour).all(axis=2))
    inner = SIZE - 2  # the edge of a tile is a line of one pixel
    assert len(rows) == inner**2, "the colour must fill one tile"
    assert rows.max() - rows.min() == columns.max() - columns.min() == inner - 1
    return int(rows.min()) - 1, int(columns.min()) - 1


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, dict[str, Any]]]:
    """The arguments of all sheets that are drawn."""
    caught: list[tuple[Any, dict[str, Any]]] = []
    original = mosaics.sheet

    def catch(rows: Any, **options: Any) -> Picture:
        caught.append((rows, options))
        return original(rows, **options)

    monkeypatch.setattr(mosaics, "sheet", catch)
    return caught


def captions(rows: Any) -> list[list[tuple[str, str]]]:
    return [[(tile.name, tile.note) for tile in row] for row in rows]


def test_maps_of_one_rule_flow_around_the_image():
    picture = renderer().mosaic(snapshot(GUIDED), 0)
    # A title of 18 pixels; rows of 24 + 6 with 18 for words; 20 for the legend.
    assert picture.shape == (6 + 18 + 2 * (PITCH + 18) + 20, 300, 3)
    places = [place(picture, level(GUIDED, k)) for k in range(5)]
    assert places == [(24, 36), (24, 66), (24, 96), (72, 6), (72, 36)]


def test_two_rules_stand_in_blocks_of_four_columns():
    picture = renderer().mosaic(snapshot(GUIDED, PLAIN), 0)
    # A title and three notes need 72 pixels; a heading 20; words 18; between blocks lie 10 more.
    assert picture.shape[0] == 84 + 2 * (2 * (20 + PITCH) + 18) + 10 + 6
    columns = [6 + PITCH * k for k in range(4)]
    for rule, tops in ((GUIDED, (104, 232)), (PLAIN, (154, 282))):
        places = [place(picture, level(rule, k)) for k in range(5)]
        assert places == [*((tops[0], left) for left in columns), (tops[1], 6)]


def test_a_block_names_each_rule_and_each_class_once(sheets):
    renderer().mosaic(snapshot(PLAIN, GUIDED), 0)
    ((rows, options),) = sheets
    assert options["row_heads"] == ["gradient", "guided backprop"] * 2  # in the order asked for
    assert options["block"] == 2
    named = [(name, "20%") for name in ("zero", "one", "two", "three", "four")]
    assert captions(rows) == [[("", "")] * 4, named[:4], [("", "")], named[4:]]
    assert [[tile.framed for tile in row] for row in rows[:2]] == [[False, True, False, False]] * 2
    assert [tile.strong for tile in rows[1]] == [False, True, False, False]
    assert options["lead"].name == "one"


def test_headings_stand_right_above_their_rows():
    picture = renderer().mosaic(snapshot(GUIDED, PLAIN), 0)
    tops = {GUIDED: (104, 232), PLAIN: (154, 282)}
    heads = {rule: [picture[y - 20 : y - 3] for y in each] for rule, each in tops.items()}
    for first, second in heads.values():
        assert (first != 255).any()
        np.testing.assert_array_equal(first, second)
    assert (heads[GUIDED][0] != heads[PLAIN][0]).any()


def test_notes_of_several_rules_are_whole_and_give_a_common_scale(sheets):
    picture = renderer(scale=0.25).mosaic(snapshot(GUIDED, PLAIN, count=1), 0)
    assert sheets[0][1]["notes"] == [
        "red raises the logit, blue lowers it",
        "framed: the true class",
        "bold: the predicted class",
        "colours end at ±0.25",
    ]
    assert (picture[:, -6:] == 255).all()  # no word reaches the edge


def test_a_map_that_is_not_finite_says_so_in_any_row(sheets):
    seen = snapshot(GUIDED, PLAIN, count=3)
    seen.maps[GUIDED][0, 1] = torch.nan
    picture = renderer().mosaic(seen, 0)
    rows = captions(sheets[0][0])
    assert rows[0] == [("", ""), ("", "not finite"), ("", "")]
    assert rows[1][1] == ("one", "20%")
    assert place(picture, level(PLAIN, 0))[0] == 154 + 18  # the words move the next row down


def test_a_film_strip_of_one_rule_has_a_row_per_class():
    seen = [snapshot(GUIDED, count=2, step=step) for step in range(3)]
    picture = renderer().filmstrip(seen, 0)
    # The image with 18 for its name, then 18 for the names of the columns.
    assert picture.shape[:2] == (6 + SIZE + 18 + 6 + 18 + 2 * (PITCH + 18) + 6, 300)
    tops = [place(picture, level(GUIDED, k, step=2))[0] for k in range(2)]
    assert tops == [72, 120]
    lefts = [place(picture, level(GUIDED, 0, step))[1] for step in range(3)]
    assert np.diff(lefts).tolist() == [PITCH, PITCH]


def test_a_film_strip_of_two_rules_has_a_block_per_class(sheets):
    seen = [snapshot(GUIDED, PLAIN, count=2, step=step) for step in range(2)]
    picture = renderer().filmstrip(seen, 0)
    rows, options = sheets[0]
    assert options["row_names"] == [
        RowName("zero", "guided backprop"),
        RowName("", "gradient"),
        RowName("one", "guided backprop"),
        RowName("", "gradient"),
    ]
    assert options["column_names"] == ["epoch 0", "epoch 1"]
    assert captions(rows) == [[("", "")] * 2, [("", "20%")] * 2] * 2
    tops = [place(picture, level(rule, k))[0] for k in range(2) for rule in (GUIDED, PLAIN)]
    assert np.diff(tops).tolist() == [PITCH, PITCH + 18 + 10, PITCH]


def test_a_row_whose_class_changes_is_named_by_rank(sheets):
    seen = [snapshot(GUIDED, PLAIN, count=1, targets=[k]) for k in (2, 3)]
    renderer().filmstrip(seen, 0)
    rows, options = sheets[0]
    assert [name.name for name in options["row_names"]] == ["other 0", ""]
    assert captions(rows) == [[("", "")] * 2, [("two", "20%"), ("three", "20%")]]


# --- several labels per image


def test_every_true_label_is_framed_and_every_predicted_one_is_bold(sheets):
    probe = ProbeBatch(torch.zeros(1, 1, 12, 12), torch.tensor([[1.0, 0.0, 1.0, 0.0]]))
    seen = snapshot(GUIDED, count=4)
    seen.probabilities[0] = torch.tensor([0.5, 0.9, 0.49, 0.1])  # class 1 has the largest logit
    MosaicRenderer(probe, style="signed", scale="map", size=SIZE).mosaic(seen, 0)
    tiles = [tile for row in sheets[0][0] for tile in row][1:]
    assert [tile.framed for tile in tiles] == [True, False, True, False]
    assert [tile.strong for tile in tiles] == [True, True, False, False]


def test_the_notes_speak_of_labels_if_there_may_be_several(sheets):
    probe = ProbeBatch(torch.zeros(1, 1, 12, 12), torch.tensor([[1.0, 0.0, 1.0, 0.0, 0.0]]))
    MosaicRenderer(probe, style="signed", scale="map", size=SIZE).filmstrip([snapshot(GUIDED)], 0)
    assert sheets[0][1]["notes"][2:] == [
        "framed: a true label",
        "bold: a predicted label, of at least 50%",
    ]


@pytest.mark.parametrize(("count", "name"), [(2, "0, 1"), (3, "0, 1, 2"), (4, "4 labels")])
def test_many_labels_of_a_photo_are_counted(sheets, count, name):
    probe = ProbeBatch(torch.zeros(1, 1, 12, 12), (torch.arange(5) < count).float()[None])
    MosaicRenderer(probe, style="signed", scale="map", size=SIZE).mosaic(snapshot(GUIDED), 0)
    assert sheets[0][0][0][0].name == name
