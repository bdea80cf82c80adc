"""The facts of a run: its probe, its code, its seed and its packages."""

from __future__ import annotations

import datetime
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
import torch

from lightning_saliency import ProbeBatch
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.record.facts import RunInfo


def facts(**known: object) -> RunInfo:
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, :2, :2] = True
    probe = ProbeBatch(torch.zeros(2, 1, 4, 4), masks={"mark": mask}, **known)
    return run_info("saliency", Meter.for_probe(probe, 4, reduce="abs_sum"), {"rule": "gradient"})


def test_facts_of_the_probe_and_the_meter():
    found = facts(labels=torch.tensor([1, 0]), class_names=["cat", "dog"])
    assert found.images == ("image 0 · dog", "image 1 · cat")
    assert found.labels == ((1,), (0,))
    assert found.class_names == ("cat", "dog")
    assert found.areas == {"mark": 0.25}
    assert (found.name, found.rule, found.reduce) == ("saliency", "gradient", "abs_sum")
    assert found.settings == {"rule": "gradient"}
    assert len(found.fingerprint) == 64


def test_a_probe_without_labels_has_none():
    found = facts()
    assert (found.labels, found.class_names) == (None, None)


@pytest.mark.parametrize(
    ("labels", "one_logit", "expected"),
    [
        (torch.tensor([0, 1]), True, (True, False)),
        (torch.tensor([0, 1]), False, (False, False)),
        (torch.tensor([[1, 1], [0, 1]]), False, (False, True)),
        (None, True, (True, False)),
    ],
    ids=["one-logit", "several-logits", "several-labels", "unlabelled"],
)
def test_what_the_logits_stand_for(labels, one_logit, expected):
    probe = ProbeBatch(torch.zeros(2, 1, 4, 4), labels)
    found = run_info("saliency", Meter.for_probe(probe, 4, one_logit=one_logit), {})
    assert (found.one_logit, found.multi_label) == expected


def test_packages_and_the_time():
    found = facts()
    assert found.versions["torch"] == metadata.version("torch")
    assert found.versions["lightning-saliency"] == metadata.version("lightning-saliency")
    started = datetime.datetime.fromisoformat(found.started)
    assert started.utcoffset() == datetime.timedelta(0)
    assert not found.finished


@pytest.mark.parametrize(("given", "expected"), [("7", 7), ("0", 0), ("", None), ("-1", None)])
def test_the_seed_is_what_seed_everything_left(monkeypatch, given, expected):
    monkeypatch.setenv("PL_GLOBAL_SEED", given)
    assert facts().seed == expected
    monkeypatch.delenv("PL_GLOBAL_SEED")
    assert facts().seed is None


def test_the_commit_of_a_repository(monkeypatch, tmp_path: Path):
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text("1")
    git("init")
    git("add", "train.py")
    git("commit", "-m", "first")
    assert facts().commit == git("rev-parse", "HEAD")
    (tmp_path / "train.py").write_text("2")
    assert facts().commit == git("rev-parse", "HEAD") + "-dirty"


def test_there_may_be_no_repository(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert facts().commit is None


def test_git_may_be_missing(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert facts().commit is None


def test_git_may_be_slow(monkeypatch):
    def slow(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("git", timeout)

    monkeypatch.setattr(subprocess, "run", slow)
    assert facts().commit is None
