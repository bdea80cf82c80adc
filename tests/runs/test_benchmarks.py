"""The benchmarks can be imported and run; their numbers are another matter."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from paths import REPOSITORY
from torch import Tensor, nn

from lightning_saliency import ProbeBatch

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

BENCHMARKS = REPOSITORY / "benchmarks"
NAMES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that imports a benchmark afresh; what was imported is forgotten afterwards."""
    known = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(pl.Trainer, "__init__", refuse)  # importing must not train anything
    yield importlib.import_module
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if Path(file).parent in (BENCHMARKS, REPOSITORY / "examples"):
            del sys.modules[name]


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a benchmark trains something when it is imported")


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_can_be_imported(name, benchmark, capsys):
    module = benchmark(name)
    assert module.__doc__
    assert capsys.readouterr().out == ""
    runs = "argparse" in inspect.getsource(module) or "studies.main" in inspect.getsource(module)
    assert runs == (name != "study_runs")  # which the studies import


# --- the studies


class Small(pl.LightningModule):
    """Two convolutions' worth of a network, of the modules that a study needs."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        conv = nn.Conv2d(3, 4, 3, stride=2)
        self.features = nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(16, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.rate)


def make_pairs(split: str, agreement: float, seed: int, hard: bool) -> tuple[Tensor, Tensor]:
    """Noise that is brighter on the right in class 1; the left half is the cue."""
    random = torch.Generator().manual_seed(seed + 1000 * (split == "val"))
    labels = torch.arange(16) % 2
    images = (2 if hard else 1) * torch.randn(16, 3, 10, 10, generator=random)
    images[:, :, :, 5:] += labels[:, None, None, None]
    agrees = torch.rand(16, generator=random) < agreement
    images[:, :, :, :5] += (labels * agrees)[:, None, None, None]
    return images, labels


def small_scenario(studies: ModuleType) -> Any:
    images, labels = make_pairs("val", 1.0, 7, hard=False)
    left = (torch.arange(10) < 5).expand(16, 10, 10)
    probe = ProbeBatch(images, labels, masks={"cue": left, "object": ~left})
    return studies.Scenario(
        name="small", cue="cue", probe=probe, network=Small, data=make_pairs, rate=0.1, epochs=1
    )


def test_a_study_trains_its_runs_once_and_prints_its_tables(
    benchmark, tmp_path, monkeypatch, capsys
):
    study_runs, studies = benchmark("study_runs"), benchmark("studies")
    monkeypatch.undo()  # from here on training is wanted
    counts = {"clean": 6, "mostly": 3, "new-clean": 6, "tuned-clean": 4}
    counts = {kind: counts.get(kind, 2) for kind in study_runs.KINDS}
    for module in (study_runs, studies):
        monkeypatch.setattr(module, "COUNTS", counts)
    scenario = small_scenario(studies)
    study_runs.fill(scenario, tmp_path)
    kept = {path: path.read_bytes() for path in (tmp_path / "small").iterdir()}
    assert len(kept) == sum(counts.values())
    study_runs.fill(scenario, tmp_path)  # everything is in the cache by now
    study_runs.observe_again(scenario, tmp_path)
    assert (tmp_path / "small").exists()
    capsys.readouterr()
    studies.report(scenario, tmp_path)
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith("| ")]
    assert {"squared", "magnitudes", "contributions"} <= {
        cell.strip() for row in rows for cell in row.split("|")
    }
    assert "| further-always | clean |" in printed
    assert "nan" not in printed


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
