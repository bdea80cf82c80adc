"""A probe in a file: what was saved is read, and no more of a file than fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lightning_saliency import ProbeBatch
from lightning_saliency.probe import batch
from lightning_saliency.storage import files


def made() -> ProbeBatch:
    masks = {"object": torch.rand(2, 8, 8) > 0.5}
    known = {"class_names": ["a", "b"], "names": ["one", "two"], "mean": [0.1], "std": [2.0]}
    return ProbeBatch(torch.rand(2, 1, 8, 8), torch.tensor([1, 0]), masks=masks, **known)


def test_what_was_saved_is_read(tmp_path: Path):
    saved = made()
    saved.save(tmp_path / "probe.safetensors")
    read = ProbeBatch.load(tmp_path / "probe.safetensors")
    assert read.fingerprint == saved.fingerprint
    for name in ("class_names", "names", "mean", "std"):
        assert getattr(read, name) == getattr(saved, name)


def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "probe.safetensors"
    made().save(path)
    monkeypatch.setattr(files, "MAX_TENSORS", path.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"not a probe .* bytes, more than the .* that are read"):
        ProbeBatch.load(path)


def test_a_probe_larger_than_what_is_read_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(batch, "MAX_TENSORS", batch.MAX_JSON + 600)
    with pytest.raises(ValueError, match=r"a probe of 656 bytes is larger than .* Take fewer"):
        made().save(tmp_path / "probe.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_probe_and_nothing_is_told_as_such(tmp_path: Path):
    with pytest.raises(ValueError, match="is not a probe written by"):
        ProbeBatch.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="no probe at"):
        ProbeBatch.load(tmp_path / "probe.safetensors")
