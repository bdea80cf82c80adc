"""Runs whose log folder is a URL: recorded with the run, read back, never corrupted."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from matrix import Touchy, differences, probe, run_state
from older import csv_logger_that_goes_on
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from records import record
from stores import break_off, failing, refuse
from training import callback, fit, loader, pictures

from lightning_saliency import (
    AttentionCheck,
    ProbeBatch,
    Reference,
    SaliencyCallback,
    SaliencyError,
)
from lightning_saliency.cli import main
from lightning_saliency.errors import RecordError, SaliencyWarning
from lightning_saliency.record.run import open_run, read_step
from lightning_saliency.storage.places import RemotePath, find_place
from lightning_saliency.testing import assert_attention

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

LOGGERS = {
    "tensorboard": lambda url: TensorBoardLogger(url),
    "csv": lambda url: CSVLogger(url),
    "none": lambda _: False,
}
RUN_FOLDERS = {
    "tensorboard": "lightning_logs/version_0",
    "csv": "lightning_logs/version_0",
    "none": "saliency_logs/version_0",
}
RECORDED = [
    "metrics.json",
    "observation-0000000000.safetensors",
    "observation-0000000004.safetensors",
    "observation-0000000009.safetensors",
    "photos.safetensors",
    "run.json",
]


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory in which a run must leave nothing."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert list(folder.iterdir()) == []


@pytest.fixture(params=["memory", "faulty", "file"])
def url(request: Any, tmp_path: Path) -> str:
    return f"{request.param}://{tmp_path}/bucket/größe [1]"


@pytest.fixture
def faulty(tmp_path: Path) -> str:
    return f"faulty://{tmp_path}/logs"


def names(folder: Any) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


# --- recorded


@pytest.mark.parametrize("kind", LOGGERS)
def test_the_record_and_the_pictures_are_with_the_run(kind, url, caplog):
    with caplog.at_level(logging.INFO, "pytorch_lightning"):
        fit(url, callback(), logger=LOGGERS[kind](url))
    folder = find_place(url).joinpath(*RUN_FOLDERS[kind].split("/"))
    assert [name for name in names(folder / "saliency") if "." in name] == RECORDED
    run = open_run(f"{url}/{RUN_FOLDERS[kind]}")
    assert run.info.finished
    assert [run.observation(step).caption for step in run.steps()] == [
        "untrained",
        "epoch 0",
        "epoch 1",
    ]
    if kind == "tensorboard":
        assert "saliency/image 0 · class 0" in pictures(str(folder))
        return
    image = folder / "saliency" / "image 0 · class 0"
    assert names(image) == ["00000000.png", "00000004.png", "00000009.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in image.glob("*"))
    (line,) = [r.getMessage() for r in caplog.records if "the maps are PNG" in r.getMessage()]
    assert line.endswith(f"PNG files in {folder / 'saliency'}")


def test_a_second_run_gets_a_folder_of_its_own(url):
    for _ in range(2):
        fit(url, callback(), logger=False, max_epochs=1)
    assert names(find_place(url) / "saliency_logs") == ["version_0", "version_1"]


def test_the_run_is_the_same_as_without_the_callback(tmp_path):
    states = []
    for name, ours in (("alone", ()), ("observed", (SaliencyCallback(probe()),))):
        pl.seed_everything(3)
        module, url = Touchy(), f"memory://{tmp_path}/{name}"
        trainer = fit(url, *ours, module=module, logger=CSVLogger(url))
        states.append(run_state(trainer, module))
    assert differences(*states) == []


def test_a_resumed_run_goes_on_in_its_folder_and_sets_the_other_branch_aside(url):
    kept = find_place(url) / "kept"  # Lightning itself makes a folder `file:` of a `file://`
    keep = ModelCheckpoint(str(kept), save_top_k=-1)
    logger = CSVLogger(url, version="x")
    fit(url, callback(keep=3), keep, logger=logger, enable_checkpointing=True)
    first, logger = str(kept / min(names(kept))), CSVLogger(url, version="x")
    with csv_logger_that_goes_on():
        fit(url, callback(keep=3), logger=logger, max_epochs=4, ckpt_path=first)
    run = open_run(f"{url}/lightning_logs/x")
    assert len(run.steps()) == 3
    assert run.steps()[0] == 0
    assert run.steps()[-1] == 19
    aside = run.folder / "set_aside" / "1"
    assert [read_step(path) for path in aside.glob("*")] == [9]


def test_the_record_of_another_probe_is_set_aside_whole(url):
    kept = find_place(url) / "kept"
    keep = ModelCheckpoint(str(kept), save_top_k=-1)
    fit(url, callback(), keep, logger=CSVLogger(url, version="x"), enable_checkpointing=True)
    path = str(kept / max(names(kept)))
    other = callback(probe=probe(), targets="label")
    aside = find_place(url).joinpath("lightning_logs", "x", "saliency", "set_aside", "1")
    said = pytest.warns(SaliencyWarning, match=re.escape(f"They are now in {aside}"))
    with said, csv_logger_that_goes_on():
        fit(url, other, logger=CSVLogger(url, version="x"), max_epochs=3, ckpt_path=path)
    assert whole(open_run(f"{url}/lightning_logs/x")) == [14]
    assert whole(open_run(aside)) == [0, 4, 9]
    assert len(open_run(aside).photos()) == 1


# --- read back


@pytest.fixture
def runs(url: str) -> str:
    """Three good runs, one that looks elsewhere, and the reference of the good ones."""
    for seed in range(3):
        record(find_place(f"{url}/good_{seed}"), seed)
    record(find_place(f"{url}/bad"), 9, on_mark=0.6)
    Reference.from_runs([f"{url}/good_{seed}" for seed in range(3)]).save(f"{url}/reference")
    return url


def test_every_command_takes_urls(runs, capsys):
    good = [f"{runs}/good_{seed}" for seed in range(3)]
    reference = f"{runs}/reference"
    shown = str(find_place(runs))
    assert main(["show", good[0]]) == 0
    assert f"{shown}/good_0/saliency: 2 observations of 6 images" in capsys.readouterr().out
    assert main(["check", good[0], "--reference", reference, "--json", f"{runs}/v.json"]) == 0
    assert json.loads((find_place(runs) / "v.json").read_bytes())["outcome"] == "pass"
    assert main(["check", f"{runs}/bad", "--reference", reference]) == 1
    assert f"{shown}/bad/saliency/attention.png" in capsys.readouterr().out
    picture = (find_place(runs) / "bad" / "saliency" / "attention.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert main(["diff", good[0], f"{runs}/bad"]) == 0
    assert main(["approve", *good, "--reference", reference, "--reason", "better"]) == 0
    assert [earlier.runs for earlier in Reference.load(reference).history] == [3]
    capsys.readouterr()
    assert main(["reference", *good, "-o", reference]) == 2
    assert f"there already is a reference in {shown}/reference" in capsys.readouterr().err
    assert main(["check", good[0], "--reference", f"{runs}/none"]) == 3
    assert main(["show", runs]) == 2
    several = f"{shown} holds several recorded runs; pass one of {shown}/bad/saliency, "
    assert several in capsys.readouterr().err
    assert main(["show", reference]) == 2
    assert f"no recorded run in {shown}/reference" in capsys.readouterr().err
    assert main(["show", f"{runs}/absent"]) == 2
    assert f"{shown}/absent is not a folder" in capsys.readouterr().err


def test_a_url_that_cannot_be_opened_is_an_error_in_one_line(capsys):
    assert main(["show", "nope://logs"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("lightning-saliency: nope://logs cannot be opened: Protocol not known")
    assert told.count("\n") == 1


def test_assert_attention_takes_urls(runs):
    assert_attention(f"{runs}/good_1", f"{runs}/reference")
    assert_attention(find_place(f"{runs}/good_1"), f"{runs}/reference")
    with pytest.raises(AssertionError, match=r"FAIL  .*/bad, against 3 good runs"):
        assert_attention(f"{runs}/bad", f"{runs}/reference")


def test_a_run_is_checked_against_a_reference_behind_a_url(url):
    fit(url, SaliencyCallback(probe()), logger=CSVLogger(url))
    run = f"{url}/lightning_logs/version_0"
    Reference.from_runs([run]).save(f"{url}/reference")
    check = AttentionCheck(f"{url}/reference", require=["*.share >= 1"], on_fail="warn")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(url, SaliencyCallback(probe(), check=check), logger=CSVLogger(url))
    (told,) = [str(w.message) for w in caught if "FAIL" in str(w.message)]
    reference = find_place(f"{url}/reference")
    assert f"--reference '{reference}'" in told


def test_a_probe_is_saved_and_loaded_by_url(url):
    probe().save(f"{url}/probe.safetensors")
    assert ProbeBatch.load(f"{url}/probe.safetensors").fingerprint == probe().fingerprint
    with pytest.raises(FileNotFoundError, match=r"no probe at .*/none"):
        ProbeBatch.load(f"{url}/none")


def test_a_reference_that_is_not_there_says_so(url):
    with pytest.raises(RecordError, match=r"there is no file .*/reference/reference\.json"):
        AttentionCheck(f"{url}/reference")


# --- a store that fails


# The operation that fails, how, and for which files.
FAULTS = {
    "a put is refused": ("pipe_file", refuse(PermissionError("Forbidden")), "observation-*"),
    "a put breaks off": ("pipe_file", break_off(OSError("disk full")), "observation-*"),
    "a put times out": ("pipe_file", break_off(TimeoutError("no answer"), 0.9), "observation-*"),
    "a listing times out": ("ls", refuse(TimeoutError("no answer")), "*"),
    "nothing can be looked up": ("info", refuse(PermissionError("Forbidden")), "*"),
    "a delete is refused": ("rm_file", refuse(PermissionError("delete refused")), "*"),
}


class Struck(SaliencyCallback):
    """Meets a fault of the store in the second of three epochs."""

    def __init__(self, fault: str, **options: Any) -> None:
        super().__init__(probe(), keep=2, tile_size=24, targets="label", **options)
        self.fault = FAULTS[fault]

    def on_validation_batch_end(self, trainer: Any, *rest: Any) -> None:
        struck = trainer.current_epoch == 1
        with failing(*self.fault) if struck else contextlib.nullcontext():
            super().on_validation_batch_end(trainer, *rest)


def whole(run: Any) -> list[int]:
    """The steps of a run all of whose observations can be read."""
    return [run.observation(step).step for step in run.steps()]


@pytest.mark.parametrize("fault", FAULTS)
def test_training_goes_on_if_it_is_told_to(fault, faulty):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(
            faulty,
            Struck(fault, on_error="warn"),
            logger=CSVLogger(faulty),
            max_epochs=3,
        )
    assert trainer.current_epoch == 3
    told = [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]
    assert any("observing the model (epoch 1) failed, training goes on" in t for t in told), told
    run = open_run(f"{faulty}/lightning_logs/version_0")
    assert run.info.finished
    assert whole(run)[0] == 0
    assert whole(run)[-1] == 14


@pytest.mark.parametrize("fault", FAULTS)
def test_training_ends_with_the_reason_by_default(fault, faulty):
    with pytest.raises(SaliencyError, match=r"observing the model \(epoch 1\) failed: .*faulty://"):
        fit(faulty, Struck(fault), logger=CSVLogger(faulty), max_epochs=3)
    run = open_run(f"{faulty}/lightning_logs/version_0")
    assert not run.info.finished
    assert whole(run)[:2] == [0, 4] or fault == "a delete is refused"


def test_a_reference_survives_an_approval_that_fails(tmp_path, faulty, capsys):
    for seed in range(4):
        record(find_place(f"{faulty}/{seed}"), seed)
    reference = f"{faulty}/reference"
    Reference.from_runs([f"{faulty}/0"], reason="first").save(reference)
    approve = ["approve", f"{faulty}/1", "--reference", reference, "--reason", "second"]
    for name in ("reference.json", "reference.safetensors"):
        acts = [break_off(OSError("disk full"))]

        def once(go_on, *args, acts=acts):
            return acts.pop()(go_on, *args) if acts else go_on()

        with failing("pipe_file", once, name=name):
            assert main(approve) == 2
        assert "disk full" in capsys.readouterr().err
        assert Reference.load(reference).reason == "first"
    assert main(approve) == 0
    assert Reference.load(reference).reason == "second"


def test_a_verdict_is_not_hidden_by_a_picture_that_cannot_be_written(faulty, capsys):
    for name, on_mark in (("good", 0.02), ("bad", 0.6)):
        record(find_place(f"{faulty}/{name}"), on_mark=on_mark)
    Reference.from_runs([f"{faulty}/good"], ["mark.share <= 0.1"]).save(f"{faulty}/reference")
    with failing("pipe_file", refuse(PermissionError("Forbidden")), name="attention.png"):
        code = main(["check", f"{faulty}/bad", "--reference", f"{faulty}/reference"])
    assert code == 1
    assert "not written: faulty://" in capsys.readouterr().out


def test_a_store_that_refuses_to_read_is_an_error_in_one_line(faulty, capsys):
    record(find_place(f"{faulty}/run"))
    for operation, code in (("info", 2), ("cat_file", 2), ("ls", 2)):
        with failing(operation, refuse(PermissionError("Forbidden"))):
            assert main(["show", f"{faulty}/run"]) == code
        told = capsys.readouterr().err
        assert "faulty://" in told
        assert "Forbidden" in told
        assert told.count("\n") == 1


def test_other_ranks_are_given_the_url(faulty):
    assert isinstance(find_place(str(find_place(faulty))), RemotePath)
    assert str(find_place(faulty)) == faulty


def test_what_is_seen_after_training_joins_the_record(url):
    module = Touchy()
    trainer = fit(url, callback(), module=module, logger=CSVLogger(url), max_epochs=1)
    trainer.validate(module, loader(16), verbose=False)
    assert len(open_run(f"{url}/lightning_logs/version_0").steps()) >= 2


def test_a_report_of_a_remote_run_is_written(url, tmp_path, capsys):
    fit(url, callback(), logger=CSVLogger(url), max_epochs=1)
    page = tmp_path / "report.html"
    for folder in (f"{url}/lightning_logs/version_0", f"{url}/lightning_logs/version_0/saliency"):
        assert main(["report", folder, "-o", str(page)]) == 0
        assert "version_0" in capsys.readouterr().out
        assert page.stat().st_size > 10_000
    # Two runs, in the folder that holds their log folders.
    fit(url, callback(), logger=CSVLogger(url), max_epochs=1)
    assert main(["report", f"{url}/lightning_logs", "-o", str(page)]) == 0
    assert re.findall(r"version_\d", capsys.readouterr().out) == ["version_0", "version_1"]
    assert main(["report", f"{url}/nothing", "-o", str(page)]) == 2
    assert re.search("no recorded run in|is not a folder", capsys.readouterr().err)
