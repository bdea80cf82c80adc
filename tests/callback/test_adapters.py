"""Loggers that are told apart, names that no store may stumble over, and the page of a run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning
import torch
from logger_stores import STORES, Kept, offline
from matrix import Held, Shapes, probe
from older import takes_comets_own_options
from pytorch_lightning.loggers import CometLogger, CSVLogger
from training import HOSTILE, callback, fit

from lightning_saliency import AttentionCheck, ProbeBatch, SaliencyError
from lightning_saliency.callback import publisher
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.errors import SaliencyWarning

pytestmark = [pytest.mark.usefixtures("one_thread")]

quiet = pytest.mark.filterwarnings("ignore")
PAGE = "saliency_viewer"


@pytest.fixture(autouse=True)
def no_network(tmp_path) -> Iterator[None]:
    with offline(tmp_path / "services"):
        yield


def train(kind: str, folder: Path, *callbacks: Any, **options: Any) -> Kept:
    """Train an epoch with a kind of logger, and read back what it has stored."""
    store = STORES[kind]
    logger = store.make(pytorch_lightning, folder)
    try:
        fit(folder, *callbacks, logger=logger, **{"max_epochs": 1} | options)
    finally:
        store.close(logger)
    return store.read(folder)


def index(page: str) -> dict[str, Any]:
    """What the page of one run says of it."""
    (found,) = re.findall(r'id="saliency-index">(.*?)</script>', page)
    (run,) = json.loads(found)
    return run


# --- loggers that are in no table


class Gallery(Held):
    """A user's logger that has the method of `WandbLogger`."""

    def __init__(self) -> None:
        super().__init__()
        self.pictures: list[tuple[str, int, str]] = []

    def log_image(self, key: str, images: list[Any], step: int, **named: Any) -> None:
        (caption,) = named["caption"]
        assert images[0].dtype == np.uint8
        self.pictures.append((key, step, caption))


class Other(Held):
    """A logger whose `log_image` has other arguments."""

    def log_image(self, image: Any, name: str) -> None:
        raise AssertionError("never called")


@quiet
def test_a_logger_with_the_method_of_wandb_takes_pictures(tmp_path):
    logger = Gallery()
    fit(tmp_path, callback(), logger=[CSVLogger(tmp_path), logger], max_epochs=1)
    name = "image 0 · class 0"
    assert logger.pictures == [
        (f"saliency/{name}", 0, "step 0"),
        (f"saliency/{name}", 4, "step 4"),
        (f"saliency_filmstrip/{name}", 4, "step 4"),
    ]
    assert not list(tmp_path.rglob("*.png"))


@quiet
def test_a_method_of_that_name_with_other_arguments_is_not_called(tmp_path):
    fit(tmp_path, callback(), logger=Other(), max_epochs=1)
    assert len(list(tmp_path.rglob("*.png"))) == 3


# --- pixels


@quiet
@pytest.mark.parametrize("kind", ["W&B", "Comet", "SwanLab", "Trackio"])
def test_the_contrast_of_a_grey_picture_is_not_stretched(kind, tmp_path):
    """As Comet does with arrays; mosaics hold black and white, so they would not show it."""
    grey = np.arange(100, 160, dtype=np.uint8).reshape(4, 5, 3)
    store = STORES[kind]
    logger = store.make(pytorch_lightning, tmp_path)
    PictureLog([logger], None, "jpeg").add("saliency/x", grey, 3)
    store.close(logger)
    ((pixels, caption),) = store.read(tmp_path).pictures.values()
    assert np.array_equal(pixels, grey)
    assert caption == "step 3"


# --- names


@quiet
@pytest.mark.parametrize("kind", ["Comet", "SwanLab", "Trackio"])
def test_any_name_is_stored_and_none_leads_out_of_the_folder(kind, tmp_path):
    images = Shapes(16, augment=False).images[: len(HOSTILE)]
    named = ProbeBatch(images, torch.arange(len(HOSTILE)) % 4, names=HOSTILE)
    kept = train(kind, tmp_path / "log", callback(probe=named, record=False))
    assert len({name for name, _ in kept.pictures}) == 2 * len(HOSTILE)
    assert {step for _, step in kept.pictures} == {0, 4}
    assert {path.name for path in tmp_path.iterdir()} <= {"log", "services"}
    assert kept.pages == {}  # There is no record to make it of.


# --- Comet


def test_a_comet_experiment_that_keeps_nothing_is_not_passed_over_in_silence(tmp_path):
    """Lightning disables the experiment of `online=False`."""
    if not takes_comets_own_options():
        pytest.skip("this version of Lightning has no `online`")
    logger = CometLogger(project="p", online=False, offline_directory=str(tmp_path))
    if not logger.experiment.disabled:
        pytest.skip("this version of Lightning has mended it")
    with pytest.warns(SaliencyWarning, match="COMET_START_ONLINE=0 and leave `online` out"):
        fit(tmp_path, callback(), logger=logger, max_epochs=1)
    assert not list(tmp_path.glob("*.zip"))


# --- the page


@quiet
def test_two_callbacks_have_a_page_each(tmp_path):
    both = [callback(name=name) for name in ("first", "second: maps")]
    kept = train("Comet", tmp_path, *both)
    assert len(kept.pages) == 2
    assert {index(page)["name"] for page in kept.pages.values()} == {"first", "second: maps"}


@quiet
@pytest.mark.parametrize("on_fail", ["warn", "raise"])
def test_the_page_shows_the_verdict_even_if_it_ends_the_run(on_fail, tmp_path):
    require, start_after = ["corner.share <= 0"], "val_acc >= 0"
    check = AttentionCheck(require=require, on_fail=on_fail, start_after=start_after)
    observer = callback(probe=probe(), check=check)
    store = STORES["Comet"]
    logger = store.make(pytorch_lightning, tmp_path)
    try:
        fit(tmp_path, observer, logger=logger, max_epochs=3)
    except SaliencyError:
        assert on_fail == "raise"
    store.close(logger)
    run = index(store.read(tmp_path).pages[PAGE])
    assert run["verdict"]["outcome"] == "fail"


@quiet
def test_a_record_in_a_remote_folder_has_a_page_too(tmp_path):
    store, remote = STORES["Comet"], CSVLogger(f"memory://{tmp_path}")
    logger = store.make(pytorch_lightning, tmp_path)
    fit(tmp_path, callback(), logger=[remote, logger], max_epochs=1)
    store.close(logger)
    assert not list(tmp_path.rglob("run.json"))
    assert index(store.read(tmp_path).pages[PAGE])["finished"]


@quiet
def test_what_fails_in_the_page_is_only_a_warning(tmp_path, monkeypatch):
    before: list[torch.Tensor] = []

    def fail(*_: Any) -> None:
        before.append(torch.get_rng_state())
        torch.rand(3)
        raise MemoryError("no room for the page")

    monkeypatch.setattr(publisher, "build_report", fail)
    message = r"the page of 'saliency' was not logged: MemoryError: no room"
    with pytest.warns(SaliencyWarning, match=message):
        kept = train("Comet", tmp_path, callback(on_error="raise"))
    assert len(kept.pictures) == 3
    assert kept.pages == {}
    (state,) = before  # It is made once.
    assert torch.equal(state, torch.get_rng_state())


@quiet
def test_no_page_is_made_that_no_logger_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(publisher, "build_report", lambda *_: pytest.fail("made in vain"))
    fit(tmp_path, callback(), max_epochs=1)
    fit(tmp_path, callback(), logger=[CSVLogger(tmp_path), Gallery()], max_epochs=1)


# --- imports


def test_a_training_imports_no_package_of_a_logger_that_is_not_there(tmp_path):
    script = f"""
import sys
sys.path.append({str(Path(__file__).parents[1] / "support")!r})
from pathlib import Path
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from training import callback, fit

folder = Path({str(tmp_path)!r})
both = [TensorBoardLogger(folder, name="", version=""), CSVLogger(folder)]
fit(folder, callback(), logger=both, max_epochs=1)
print(*sys.modules)
"""
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert "tensorboard" in loaded
    assert not loaded & {"wandb", "mlflow", "comet_ml", "swanlab", "trackio"}
