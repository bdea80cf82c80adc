"""The example of a shortcut: its data are as described, its check fails while accuracy rises."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from paths import load_example

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def shortcut() -> ModuleType:
    return load_example("shortcut")


def colours(shortcut, scenes):
    """For each scene, the class whose colour its tag has."""
    pixels = scenes.images * shortcut.STD + shortcut.MEAN
    tags = pixels[:, :, : shortcut.TAG, : shortcut.TAG]
    torch.testing.assert_close(tags, tags[:, :, :1, :1].expand_as(tags))  # of one colour
    return torch.cdist(tags[:, :, 0, 0], shortcut.palette()).argmin(dim=1)


@pytest.mark.parametrize(
    ("agreement", "least", "most"),
    [
        pytest.param(0.0, 0.06, 0.14, id="random-colours-agree-by-chance"),
        pytest.param(0.9, 0.87, 0.95, id="nine-in-ten-and-chance"),
        pytest.param(1.0, 1.0, 1.0, id="always"),
    ],
)
def test_the_tag_agrees_with_the_class_as_often_as_asked(shortcut, agreement, least, most):
    scenes = shortcut.make_data("val", agreement, seed=0, copies=3)
    agrees = (colours(shortcut, scenes) == scenes.labels).float().mean()
    assert least <= agrees <= most


def test_ten_colours_that_can_be_told_apart(shortcut):
    distances = torch.cdist(shortcut.palette(), shortcut.palette()) + 2 * torch.eye(10)
    assert distances.min() > 0.3


def test_the_digit_is_where_its_mask_says_and_clear_of_the_tag(shortcut):
    scenes = shortcut.make_data("val", 1.0, seed=0, noise=0.0)
    digit, tag = scenes.masks["digit"], scenes.masks["tag"]
    assert not (digit & tag).any()
    assert (tag.sum(dim=(1, 2)) == shortcut.TAG**2).all()
    assert tag[:, : shortcut.TAG, : shortcut.TAG].all()
    outside = (scenes.images * ~(digit | tag)[:, None]).flatten(2)
    ground = scenes.images[:, :, -1, 0]  # mostly background; the mask says where a digit is
    empty = ~digit[:, -1, 0]
    wrong = (outside - ground[:, :, None]).abs() * (outside != 0)
    assert wrong[empty].max() < 0.35  # only ink that is too faint for the mask
    centres = [m.nonzero().float().mean(dim=0) for m in digit]
    assert torch.stack(centres).std(dim=0).min() > 3  # pixels: the places vary


def test_no_digit_reaches_under_the_tag(shortcut):
    full = torch.ones(2000, 1, shortcut.DIGIT, shortcut.DIGIT)
    canvas = shortcut.place(full, torch.Generator().manual_seed(0))
    assert (canvas.sum(dim=(1, 2, 3)) == shortcut.DIGIT**2).all()
    assert canvas[:, :, : shortcut.TAG, : shortcut.TAG].sum() == 0
    assert canvas[:, 0, 0, -1].any()  # digits do reach the other corners
    assert canvas[:, 0, -1, -1].any()


def test_the_probe_is_the_same_in_every_run_and_held_out(shortcut):
    torch.manual_seed(1)
    first = shortcut.probe()
    torch.manual_seed(2)
    assert shortcut.probe().fingerprint == first.fingerprint
    assert first.labels.bincount().tolist() == [8] * 10
    train, _ = shortcut.read_digits("train")
    val, _ = shortcut.read_digits("val")
    assert len(train) + len(val) == 1797
    assert set(first.masks) == {"digit", "tag"}


@pytest.mark.usefixtures("one_thread")
def test_the_check_fails_while_validation_accuracy_rises(shortcut, monkeypatch, tmp_path, capsys):
    arguments = ["shortcut", "--epochs", "2", "--quiet", "--logdir", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.warns(UserWarning, match=r"(?s)FAIL.*Hiding it lowers the probability"):
        shortcut.main()
    output = capsys.readouterr().out
    rows = [
        line.split()[-2:] for line in output.splitlines() if line.startswith("  good run, seed")
    ]
    good = [float(validated) for validated, _ in rows]
    validated, randomised = map(float, output.split("the last run")[1].split()[:2])
    assert len(good) == 3
    assert validated > max(good)
    assert randomised < 0.3
    assert "exit code 1" in output
    assert "the region 'tag'" in output
