"""The picture of a verdict: its rows in order, its tiles and their scales by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from records import CLASSES, IMAGES, info, observation, record

from lightning_saliency.check import difference
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.verdict import Verdict
from lightning_saliency.draw.colours import colorize

SIZE = 96
ROW = 4  # the image, the good runs, this run, and what moved


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return Reference.from_runs([record(tmp_path / str(seed), seed) for seed in range(3)])


@pytest.fixture
def bad() -> Candidate:
    return Candidate(info(), observation(9, on_mark=0.6))


def judge(candidate: Candidate, reference: Reference) -> Verdict:
    return evaluate(candidate, reference, reference.requirements)


def tiles(monkeypatch: pytest.MonkeyPatch, *given: Any) -> tuple[list[Any], dict[str, str]]:
    """The rows of tiles that are laid out, and the words around them."""
    laid_out: list[Any] = []

    def sheet(rows: Any, **words: str) -> Any:
        laid_out.extend((rows, words))
        return np.zeros((1, 1, 3), dtype=np.uint8)

    monkeypatch.setattr(difference, "sheet", sheet)
    difference.draw(*given)
    rows, words = laid_out
    return rows, words


def test_it_is_a_picture_with_a_row_per_image(bad, reference):
    picture = difference.draw(bad, reference, judge(bad, reference))
    assert picture.dtype == np.uint8
    assert picture.shape[0] > IMAGES * SIZE
    assert picture.shape[1] > ROW * SIZE


def test_the_images_that_moved_most_come_first(bad, reference, monkeypatch):
    verdict = judge(bad, reference)
    rows, words = tiles(monkeypatch, bad, reference, verdict)
    order = [move.index for move in verdict.images]
    assert [row[0].name for row in rows] == [CLASSES[i % len(CLASSES)] for i in order]
    assert [row[-1].note for row in rows] == [f"{move.moved:.2f}" for move in verdict.images]
    assert [tile.name for tile in rows[0][1:]] == ["good runs", "this run", "moved"]
    assert words["title"] == "fail: epoch 1"
    assert words["aside"] == "gradient, joint"


def test_there_are_at_most_eight_rows(bad, reference, monkeypatch):
    monkeypatch.setattr(difference, "_ROWS", 2)
    assert len(tiles(monkeypatch, bad, reference, judge(bad, reference))[0]) == 2
    monkeypatch.undo()
    assert difference._ROWS == 8


def test_what_moved_is_red_where_there_is_more_on_one_scale_for_all(bad, reference, monkeypatch):
    """Half of the first image's mass moved from the middle to the corner; of the second, less."""
    profiles = torch.zeros(2, IMAGES, 8, 8, dtype=torch.float64)
    profiles[0, :, 4, 4] = 1
    profiles[1] = profiles[0]
    for image, part in enumerate((0.5, 0.25)):
        profiles[1, image, 0, 0], profiles[1, image, 4, 4] = part, 1 - part
    good = replace(reference, views=profiles[:1, :, None].expand(3, -1, -1, -1, -1))
    measured = replace(bad.measured, views=profiles[1][:, None])
    run = replace(bad, observation=replace(bad.observation, measured=measured))
    rows, _ = tiles(monkeypatch, run, good, judge(run, good))
    for row, part in zip(rows, (1.0, 0.5, 0.0), strict=False):
        change = np.zeros((8, 8))
        change[0, 0], change[4, 4] = part, -part
        assert np.array_equal(row[-1].picture, colorize(change, SIZE, "signed"))


def test_the_two_maps_of_a_row_share_one_scale():
    """Both have a mass of 1; a map in one pixel is as strong as it gets, one in four is half."""
    one, four = torch.zeros(2, 2), torch.ones(2, 2)
    one[0, 0] = 3
    sharp, even = difference._on_one_scale(one, four)
    assert sharp.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    assert even.tolist() == [[0.5, 0.5], [0.5, 0.5]]


def test_maps_without_mass_are_drawn_empty():
    assert [m.tolist() for m in difference._on_one_scale(*torch.zeros(2, 1, 1))] == [[[0.0]]] * 2
