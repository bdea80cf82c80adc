"""Files of a run: whole or absent, read back as they were, refused where they are anything else."""

from __future__ import annotations

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from records import IMAGES, info, observation, photos, record

from lightning_saliency.errors import RecordError
from lightning_saliency.record.observation import Observation, encode_observation, read_observation
from lightning_saliency.record.run import (
    OBSERVATION_FILE,
    observation_files,
    open_run,
    read_info,
    read_thumbnails,
    step_of,
)
from lightning_saliency.record.writer import RunWriter


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if hasattr(first, "__dataclass_fields__"):
        return all(same(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    return first == second


def test_an_observation_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "one.safetensors"
    path.write_bytes(encode_observation(observation(epoch=-1)))
    found = read_observation(path)
    assert isinstance(found, Observation)
    assert same(found, observation(epoch=-1))


def test_what_is_known_of_a_run_is_read_as_it_was_written(tmp_path):
    told = info(
        class_names=("ca\u202et", "\udce9 of another code page", "<b>"), seed=None, commit=None
    )
    RunWriter(tmp_path).begin(told, photos(), after=-1)
    assert read_info(tmp_path / "run.json") == told
    assert torch.equal(read_thumbnails(tmp_path / "photos.safetensors"), photos())


def test_a_run_is_found_in_its_log_folder_and_in_its_own(tmp_path):
    folder = record(tmp_path / "version_0")
    for path in (folder, folder / "saliency", str(folder)):
        run = open_run(path)
        assert run.steps() == [0, 9]
        assert run.last().caption == "epoch 1"
        assert run.info.metrics == {"val_acc": 0.93}
        assert run.info.finished
        assert len(run.photos()) == IMAGES


def test_a_folder_without_a_run_and_one_with_several(tmp_path):
    with pytest.raises(
        RecordError, match=r"no recorded run in .*`SaliencyCallback\(record=True\)`"
    ):
        open_run(tmp_path)
    with pytest.raises(RecordError, match="is not a folder; pass the log folder of a run"):
        open_run(tmp_path / "absent")
    for name in ("a", "b"):
        RunWriter(tmp_path / name).begin(info(), photos(), after=-1)
    with pytest.raises(RecordError, match=r"holds several recorded runs; pass one of .*a, .*b"):
        open_run(tmp_path)
    with pytest.raises(RecordError, match="holds no observation yet"):
        open_run(tmp_path / "a").last()


def test_an_observation_of_eight_images_and_ten_classes_is_small():
    """Eight images, ten classes, 96 pixels a side: under 2.5 MB."""
    measured = replace(observation().measured, maps=torch.zeros(8, 96, 96).half())
    large = observation(maps=torch.zeros(8, 10, 96, 96).half(), measured=measured)
    assert len(encode_observation(large)) < 2_500_000


# --- which files stay


def steps(folder: Path) -> list[int]:
    return [step_of(path) for path in observation_files(folder)]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (None, list(range(0, 100, 10))),
        (2, [0, 90]),
        (4, [0, 40, 70, 90]),
        (99, list(range(0, 100, 10))),
    ],
)
def test_the_first_and_the_last_observations_always_stay(keep, expected, tmp_path):
    recorder = RunWriter(tmp_path, keep)
    for step in range(0, 100, 10):
        recorder.add(observation(step=step))
        assert steps(tmp_path)[-1] == step
        assert steps(tmp_path)[0] == 0
    assert steps(tmp_path) == expected


def test_what_stays_of_many_is_spread_over_the_run(tmp_path):
    recorder = RunWriter(tmp_path, keep=9)
    for step in range(200):
        recorder.add(observation(step=step))
    gaps = [b - a for a, b in zip(steps(tmp_path), steps(tmp_path)[1:], strict=False)]
    assert len(gaps) == 8
    assert max(gaps) <= 64


def test_a_branch_that_was_given_up_is_set_aside_and_not_mixed_in(tmp_path):
    recorder = RunWriter(tmp_path)
    recorder.begin(info(), photos(), after=-1)
    for step in (0, 5, 10, 15):
        recorder.add(observation(step=step))
    again = RunWriter(tmp_path)
    again.begin(info(), photos(), after=5)
    assert steps(tmp_path) == [0, 5]
    again.add(observation(step=11))
    assert steps(tmp_path) == [0, 5, 11]
    assert steps(tmp_path / "set_aside" / "1") == [10, 15]
    RunWriter(tmp_path).begin(info(), photos(), after=5)
    assert steps(tmp_path / "set_aside" / "2") == [11]


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path):
    (tmp_path / ".0123.part").write_bytes(b"half")
    RunWriter(tmp_path).begin(info(), photos(), after=-1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos.safetensors", "run.json"]


def test_metrics_that_are_no_numbers_are_left_out(tmp_path):
    recorder = RunWriter(tmp_path)
    recorder.begin(info(), photos(), after=-1)
    recorder.end({"val_acc": 0.5, "val_loss": float("nan")}, finished=False)
    assert read_info(tmp_path / "run.json").metrics == {"val_acc": 0.5}


# --- files that are something else


def written(path: Path, about: Any, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    told = about if isinstance(about, str) else json.dumps(about)
    path.write_bytes(safetensors.torch.save(tensors or {}, {"about": told}))
    return path


def parts() -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    data = encode_observation(observation())
    length = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["about"])
    return about, safetensors.torch.load(data)


ABOUT: list[Any] = [
    pytest.param({"schema": 2}, "it has schema 2, and this version reads 1; install", id="newer"),
    pytest.param({"schema": None}, "it has schema None", id="no-schema"),
    pytest.param(
        {"step": -1}, "`step` must be an integer of at least 0, got -1", id="negative-step"
    ),
    pytest.param({"step": 1.5}, "`step` must be an integer", id="step-of-a-half"),
    pytest.param({"step": True}, "`step` must be an integer", id="step-true"),
    pytest.param({"step": 10**30}, "`step` must be an integer", id="huge-step"),
    pytest.param({"epoch": "3"}, "`epoch` must be an integer", id="epoch-as-text"),
    pytest.param({"caption": 3}, "`caption` must be a str, got 3", id="caption"),
    pytest.param({"rule": None}, "`rule` must be a str, got None", id="rule"),
    pytest.param({"measures": []}, r"`measures` must be a dict, got \[\]", id="measures"),
    pytest.param(
        {"measures": {"x": float("inf")}}, "`measures.x` must be a finite number", id="inf"
    ),
    pytest.param({"measures": {"x": 10**400}}, "`measures.x` must be a finite", id="huge-number"),
]


@pytest.mark.parametrize(("changed", "message"), ABOUT)
def test_what_an_observation_tells_has_to_be_of_the_right_kind(changed, message, tmp_path):
    about, tensors = parts()
    path = written(tmp_path / "bad.safetensors", about | changed, tensors)
    with pytest.raises(RecordError, match=f"bad.safetensors is damaged.*{message}"):
        read_observation(path)


TENSORS: list[Any] = [
    pytest.param("targets", None, "'targets'", id="missing"),
    pytest.param("targets", torch.zeros(IMAGES, 3), "`targets` is torch.float32", id="dtype"),
    pytest.param("targets", -torch.ones(IMAGES, 3).long(), "a negative class", id="negative"),
    pytest.param("peaks", torch.ones(IMAGES, 4), r"`peaks` has the shape \(6, 4\)", id="columns"),
    pytest.param("peaks", torch.ones(IMAGES), r"`peaks` is torch.float32 \(6,\)", id="ndim"),
    pytest.param(
        "measured.profiles", torch.ones(IMAGES, 8, 9).double(), "`measured.profiles` has", id="grid"
    ),
    pytest.param(
        "measured.profiles",
        torch.full((IMAGES, 8, 8), 0.5).double(),
        "has a profile whose sum is not 1",
        id="no-whole",
    ),
    pytest.param("share.object", torch.ones(5).double(), "`share.object` has the shape", id="rows"),
    pytest.param("maps", torch.ones(IMAGES, 3, 0, 4).half(), "`maps` has the shape", id="empty"),
]


@pytest.mark.parametrize(("name", "tensor", "message"), TENSORS)
def test_the_tensors_of_an_observation_have_to_fit(name, tensor, message, tmp_path):
    about, tensors = parts()
    tensors[name] = tensor
    if tensor is None:
        del tensors[name]
    path = written(tmp_path / "bad.safetensors", about, tensors)
    with pytest.raises(RecordError, match=f"is damaged.*{message}"):
        read_observation(path)


def test_files_that_are_no_record_at_all(tmp_path):
    good = encode_observation(observation())
    header = (2**40).to_bytes(8, "little")
    nested = "[" * 100_000
    cases = {
        "empty": b"",
        "short": b"abc",
        "truncated": good[: len(good) // 2],
        "cut by a byte": good[:-1],
        "longer": good + b"x",
        "a header of a terabyte": header + b"{}",
        "no JSON": (20).to_bytes(8, "little") + b"x" * 20,
        "a pickle": b"\x80\x04K\x01.",
    }
    for name, data in cases.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(
            RecordError, match=f"{name}.safetensors is damaged, or was not"
        ) as raised:
            read_observation(path)
        assert "\n" not in str(raised.value)
    for told in (nested, "[]", "3", "{", '"text"'):
        with pytest.raises(RecordError, match="is damaged"):
            read_observation(written(tmp_path / "told.safetensors", told))
    (tmp_path / "run.json").write_text(nested)
    with pytest.raises(RecordError, match=r"run\.json is damaged"):
        read_info(tmp_path / "run.json")


def test_a_header_that_claims_gigabytes_costs_no_memory(tmp_path):
    claimed = json.dumps(
        {"maps": {"dtype": "F16", "shape": [10**6, 10**4], "data_offsets": [0, 2 * 10**10]}}
    )
    path = tmp_path / "huge.safetensors"
    path.write_bytes(len(claimed).to_bytes(8, "little") + claimed.encode())
    with pytest.raises(RecordError, match="is damaged"):
        read_observation(path)


def test_files_that_are_too_large_are_not_read(tmp_path):
    for name, size, reader in (
        ("run.json", 2_000_001, read_info),
        ("big.safetensors", 500_000_001, read_observation),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # sparse: it takes no room on the disk
        with pytest.raises(RecordError, match=f"{name} has .* bytes, more than the"):
            reader(tmp_path / name)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(RecordError, match=r"there is no file .*run\.json"):
        read_info(tmp_path / "run.json")


RUNS: list[Any] = [
    pytest.param({"images": []}, "does not have one label entry per image", id="images"),
    pytest.param({"images": [3] * IMAGES}, "`images` must be a str, got 3", id="no-names"),
    pytest.param({"labels": [[0]]}, "does not have one label entry per image", id="labels"),
    pytest.param(
        {"labels": [[-1]] * IMAGES}, "`labels` must be an integer of at least 0", id="negative"
    ),
    pytest.param({"areas": {"object": "large"}}, "`areas.object` must be a finite", id="areas"),
    pytest.param({"settings": 3}, "`settings` must be a dict, got 3", id="settings"),
    pytest.param({"seed": 0.5}, "`seed` must be an integer", id="seed"),
]


@pytest.mark.parametrize(("changed", "message"), RUNS)
def test_what_is_told_of_a_run_has_to_be_of_the_right_kind(changed, message, tmp_path):
    record(tmp_path)
    path = tmp_path / "saliency" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(RecordError, match=f"run.json is damaged.*{message}"):
        open_run(tmp_path)


def test_an_observation_of_another_run_or_step_is_told(tmp_path):
    record(tmp_path)
    folder = tmp_path / "saliency"
    last = folder / OBSERVATION_FILE.format(9)
    last.write_bytes(encode_observation(observation(step=9, fingerprint="e" * 64)))
    with pytest.raises(RecordError, match="belongs to another run or step"):
        open_run(tmp_path).last()
    last.write_bytes(encode_observation(observation(step=8)))
    with pytest.raises(RecordError, match="belongs to another run or step"):
        open_run(tmp_path).last()


def test_files_that_only_look_like_observations_are_none(tmp_path):
    record(tmp_path)
    for name in (
        "observation-.safetensors",
        "observation-x.safetensors",
        "observation-²².safetensors",
    ):
        (tmp_path / "saliency" / name).write_bytes(b"")
    assert open_run(tmp_path).steps() == [0, 9]


def test_what_was_read_does_not_hang_on_the_file(tmp_path):
    """A reference that is copied over while a run holds it would end the run with a bus error."""
    path = tmp_path / "one.safetensors"
    path.write_bytes(encode_observation(observation()))
    found = read_observation(path)
    with path.open("r+b") as file:
        file.truncate(10)
    assert float(found.measured.profiles.sum()) == pytest.approx(IMAGES)


def test_what_could_not_be_read_back_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_saliency.record.writer.MAX_TENSORS", 1000)
    with pytest.raises(
        RecordError, match=r"is more than the 1,000 that are read back\. Explain fe"
    ):
        RunWriter(tmp_path).add(observation())
    assert list(tmp_path.iterdir()) == []
