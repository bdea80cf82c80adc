"""Writing the folder of a run: which files stay, and what becomes of those that do not belong."""

from __future__ import annotations

from pathlib import Path

import pytest
from records import info, observation, photos

from lightning_saliency.errors import RecordError
from lightning_saliency.record.run import observation_files, read_info, read_step
from lightning_saliency.record.writer import RunWriter


def steps(folder: Path) -> list[int]:
    return [read_step(path) for path in observation_files(folder)]


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
    writer = RunWriter(tmp_path, keep)
    for step in range(0, 100, 10):
        writer.add(observation(step=step))
        assert steps(tmp_path)[-1] == step
        assert steps(tmp_path)[0] == 0
    assert steps(tmp_path) == expected


def test_the_observations_that_stay_are_spread_over_the_run(tmp_path):
    writer = RunWriter(tmp_path, keep=9)
    for step in range(200):
        writer.add(observation(step=step))
    gaps = [b - a for a, b in zip(steps(tmp_path), steps(tmp_path)[1:], strict=False)]
    assert len(gaps) == 8
    assert max(gaps) <= 64


def test_an_abandoned_branch_is_set_aside_and_not_mixed_in(tmp_path):
    writer = RunWriter(tmp_path)
    writer.begin(info(), photos(), after=-1)
    for step in (0, 5, 10, 15):
        writer.add(observation(step=step))
    again = RunWriter(tmp_path)
    again.begin(info(), photos(), after=5)
    assert steps(tmp_path) == [0, 5]
    again.add(observation(step=11))
    assert steps(tmp_path) == [0, 5, 11]
    assert steps(tmp_path / "set_aside" / "1") == [10, 15]
    RunWriter(tmp_path).begin(info(), photos(), after=5)
    assert steps(tmp_path / "set_aside" / "2") == [11]


def test_partial_files_of_a_killed_process_are_cleared_away(tmp_path):
    (tmp_path / ".0123.part").write_bytes(b"half")
    RunWriter(tmp_path).begin(info(), photos(), after=-1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos.safetensors", "run.json"]


def test_metrics_that_are_not_finite_are_left_out(tmp_path):
    writer = RunWriter(tmp_path)
    writer.begin(info(), photos(), after=-1)
    writer.end({"val_acc": 0.5, "val_loss": float("nan")}, finished=False)
    assert read_info(tmp_path / "run.json").metrics == {"val_acc": 0.5}


def test_a_run_is_joined_only_if_it_was_measured_in_the_same_way(tmp_path):
    assert RunWriter(tmp_path).join(info(), photos())
    assert read_info(tmp_path / "run.json").finished
    assert RunWriter(tmp_path).join(info(seed=7), photos())
    for changed in ({"fingerprint": "e" * 64}, {"rule": "deconvnet"}, {"reduce": "max"}):
        assert not RunWriter(tmp_path).join(info(**changed), photos())
    assert read_info(tmp_path / "run.json").seed == 1


def test_the_last_step_is_that_of_the_last_observation(tmp_path):
    writer = RunWriter(tmp_path)
    assert writer.last_step() == -1
    for step in (3, 12):
        writer.add(observation(step=step))
    assert writer.last_step() == 12


def test_an_observation_too_large_to_be_read_back_is_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr("lightning_saliency.record.writer.MAX_TENSORS", 1000)
    with pytest.raises(
        RecordError, match=r"is larger than the 1,000 bytes that can be read back\. Explain fewer"
    ):
        RunWriter(tmp_path).add(observation())
    assert list(tmp_path.iterdir()) == []
