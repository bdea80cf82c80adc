"""Probes in files: what was saved is read back, and files over the limit are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from paths import FIXTURES

from lightning_saliency import ProbeBatch
from lightning_saliency.probe import state
from lightning_saliency.record.run import open_run
from lightning_saliency.storage import files


def make_probe() -> ProbeBatch:
    masks = {"object": torch.rand(2, 8, 8) > 0.5}
    known = {"class_names": ["a", "b"], "names": ["one", "two"], "mean": [0.1], "std": [2.0]}
    return ProbeBatch(torch.rand(2, 1, 8, 8), torch.tensor([1, 0]), masks=masks, **known)


def test_a_probe_is_read_back_as_it_was_saved(tmp_path: Path):
    saved = make_probe()
    saved.save(tmp_path / "probe.safetensors")
    read = ProbeBatch.load(tmp_path / "probe.safetensors")
    assert read.fingerprint == saved.fingerprint
    for name in ("class_names", "names", "mean", "std"):
        assert getattr(read, name) == getattr(saved, name)


def test_a_probe_of_version_0_1_is_read():
    probe = ProbeBatch.load(FIXTURES / "v0_1/probe.safetensors")
    assert probe.fingerprint == open_run(FIXTURES / "v0_1/record").info.fingerprint


def test_a_file_over_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "probe.safetensors"
    make_probe().save(path)
    monkeypatch.setattr(files, "MAX_TENSORS", path.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"not a probe .* bytes, more than the limit of "):
        ProbeBatch.load(path)


def test_a_probe_over_the_limit_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(state, "MAX_TENSORS", state.MAX_JSON + 600)
    with pytest.raises(ValueError, match=r"a probe of 656 bytes is larger than .* Take fewer"):
        make_probe().save(tmp_path / "probe.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_not_a_probe_and_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match="is not a probe written by"):
        ProbeBatch.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no probe at"):
        ProbeBatch.load(tmp_path / "probe.safetensors")


def test_the_default_names_of_images_with_many_labels_are_short_and_unique():
    names = [f"a class with quite a long name {i}" for i in range(40)]
    probe = ProbeBatch(torch.zeros(3, 1, 4, 4), torch.ones(3, 40), class_names=names)
    assert probe.names == tuple(
        f"image {image} · " + " · ".join(["a class with quite a lo…"] * 3) + " · 37 more"
        for image in range(3)
    )
    few = ProbeBatch(torch.zeros(1, 1, 4, 4), (torch.arange(40) < 3).float()[None])
    assert few.names == ("image 0 · class 0 · class 1 · class 2",)


def test_a_probe_is_shown_in_a_line():
    masks = {"top": torch.ones(2, 4, 4, dtype=torch.bool)}
    probe = ProbeBatch(torch.zeros(2, 1, 4, 4), [1, 0], class_names=["cat", "dog"], masks=masks)
    assert repr(probe) == (
        "ProbeBatch(images=(2, 1, 4, 4) float32, labels=(2,) int64, class_names=('cat', 'dog'), "
        "names=('image 0 · dog', 'image 1 · cat'), masks={top: (2, 4, 4) bool})"
    )
