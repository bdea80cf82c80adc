"""Writing the folder of a run: which files stay, and what becomes of those that do not belong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from records import IMAGES, info, observation, photos
from stores import FaultyStore, answer_late, break_off, failing, leave_out, refuse

from lightning_saliency.errors import RecordError
from lightning_saliency.record.metrics import read_thinned
from lightning_saliency.record.observation import read_observation
from lightning_saliency.record.run import (
    OBSERVATION_FILE,
    observation_files,
    open_run,
    read_info,
    read_step,
)
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.storage.files import write_whole
from lightning_saliency.storage.places import Place, RemotePath, find_place


@pytest.fixture(
    params=["", "memory://", f"{FaultyStore.protocol}://"], ids=["local", "memory", "url"]
)
def folder(request: Any, tmp_path: Path) -> Place:
    return find_place(f"{request.param}{tmp_path}")


@pytest.fixture
def faulty(tmp_path: Path) -> RemotePath:
    return find_place(f"{FaultyStore.protocol}://{tmp_path}")


def steps(folder: Place) -> list[int]:
    return [read_step(path) for path in observation_files(folder)]


def names(folder: Place) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (None, list(range(0, 100, 10))),
        (2, [0, 90]),
        (4, [0, 40, 70, 90]),
        (99, list(range(0, 100, 10))),
    ],
)
def test_the_first_and_the_last_observations_always_stay(keep, expected, folder):
    writer = RunWriter(folder, keep)
    for step in range(0, 100, 10):
        writer.add(observation(step=step))
        assert steps(folder)[-1] == step
        assert steps(folder)[0] == 0
    assert steps(folder) == expected


def test_the_observations_that_stay_are_spread_over_the_run(folder):
    writer = RunWriter(folder, keep=9)
    for step in range(200):
        writer.add(observation(step=step))
    gaps = [b - a for a, b in zip(steps(folder), steps(folder)[1:], strict=False)]
    assert len(gaps) == 8
    assert max(gaps) <= 64


def test_an_abandoned_branch_is_set_aside_and_not_mixed_in(folder):
    writer = RunWriter(folder)
    writer.begin(info(), photos(), after=-1)
    for step in (0, 5, 10, 15):
        writer.add(observation(step=step))
    again = RunWriter(folder)
    again.begin(info(), photos(), after=5)
    assert steps(folder) == [0, 5]
    again.add(observation(step=11))
    assert steps(folder) == [0, 5, 11]
    assert steps(folder / "set_aside" / "1") == [10, 15]
    RunWriter(folder).begin(info(), photos(), after=5)
    assert steps(folder / "set_aside" / "2") == [11]


OTHER_PROBES: list[Any] = [
    pytest.param({"fingerprint": "e" * 64}, id="images"),
    pytest.param({"areas": {"object": 0.25}}, id="regions"),
]


@pytest.mark.parametrize("changed", OTHER_PROBES)
def test_a_record_of_another_probe_is_set_aside_whole(changed, folder):
    """A run that is resumed with another probe would make files unreadable that it leaves there."""
    writer = RunWriter(folder)
    writer.begin(info(), photos(), after=-1)
    for step in (0, 5):
        writer.add(observation(step=step))
    writer.note_metrics(5, {"val_acc": 0.5})
    writer.note_verdict(b"{}")
    aside = RunWriter(folder).begin(info(**changed), photos(), after=5)
    assert aside == folder / "set_aside" / "1"
    assert steps(folder) == []
    assert names(folder) == ["photos.safetensors", "run.json", "set_aside"]
    earlier = open_run(aside)
    assert earlier.info == info()
    assert [earlier.observation(step).step for step in earlier.steps()] == [0, 5]
    assert earlier.metrics() == {5: {"val_acc": 0.5}}
    assert len(earlier.photos()) == IMAGES
    assert (aside / "verdict.json").read_bytes() == b"{}"


def test_a_record_is_gone_on_with_if_only_its_rule_or_its_facts_differ(folder):
    writer = RunWriter(folder)
    writer.begin(info(), photos(), after=-1)
    writer.add(observation(step=5))
    for changed in ({"reduce": "max"}, {"seed": 8}, {"settings": {"targets": "all"}}):
        assert RunWriter(folder).begin(info(**changed), photos(), after=5) is None
        assert open_run(folder).last().step == 5


def test_an_abandoned_record_keeps_what_its_observations_need(folder):
    """A second fit into a folder replaces the files about the run."""
    writer = RunWriter(folder)
    writer.begin(info(seed=1), photos(), after=-1)
    writer.add(observation(step=5))
    aside = RunWriter(folder).begin(info(seed=2), photos(), after=-1)
    assert open_run(aside).info.seed == 1
    assert open_run(aside).last().step == 5
    assert open_run(folder).info.seed == 2


def test_partial_files_of_a_killed_process_are_cleared_away(folder):
    write_whole(folder / ".0123.part", b"half")
    RunWriter(folder).begin(info(), photos(), after=-1)
    assert names(folder) == ["photos.safetensors", "run.json"]


def test_metrics_that_are_not_finite_are_left_out(folder):
    writer = RunWriter(folder)
    writer.begin(info(), photos(), after=-1)
    writer.end({"val_acc": 0.5, "val_loss": float("nan")}, finished=False)
    assert read_info(folder / "run.json").metrics == {"val_acc": 0.5}


def test_a_run_is_joined_only_if_it_was_measured_in_the_same_way(folder):
    assert RunWriter(folder).join(info(), photos())
    assert read_info(folder / "run.json").finished
    assert RunWriter(folder).join(info(seed=7), photos())
    for changed in ({"fingerprint": "e" * 64}, {"rule": "deconvnet"}, {"reduce": "max"}):
        assert not RunWriter(folder).join(info(**changed), photos())
    assert read_info(folder / "run.json").seed == 1


def test_the_last_step_is_that_of_the_last_observation(folder):
    writer = RunWriter(folder)
    assert writer.last_step() == -1
    for step in (3, 12):
        writer.add(observation(step=step))
    assert writer.last_step() == 12


def test_an_observation_too_large_to_be_read_back_is_not_written(folder, monkeypatch):
    monkeypatch.setattr("lightning_saliency.record.writer.MAX_TENSORS", 1000)
    with pytest.raises(
        RecordError, match=r"is larger than the 1,000 bytes that can be read back\. Explain fewer"
    ):
        RunWriter(folder).add(observation())
    assert names(folder) == []


def test_an_observation_is_never_overwritten(folder):
    writer = RunWriter(folder)
    writer.add(observation(1, step=3))
    first = read_observation(folder / OBSERVATION_FILE.format(3))
    with pytest.raises(RecordError, match=r"0000000003.* is there already and is not overwritten"):
        writer.add(observation(2, step=3))
    assert read_observation(folder / OBSERVATION_FILE.format(3)).measures == first.measures


# --- a store that fails


def test_a_put_that_breaks_off_costs_one_observation(faulty):
    writer = RunWriter(faulty)
    writer.begin(info(), photos(), after=-1)
    writer.add(observation(step=0))
    for act in (break_off(TimeoutError("slow")), refuse(PermissionError("Forbidden"))):
        with failing("pipe_file", act), pytest.raises(OSError, match=r"slow|Forbidden"):
            writer.add(observation(step=5))
    writer.add(observation(step=9))
    assert steps(faulty) == [0, 9]
    run = open_run(faulty)
    assert [run.observation(step).step for step in run.steps()] == [0, 9]


def test_the_facts_of_a_run_survive_an_end_that_breaks_off(faulty):
    writer = RunWriter(faulty)
    writer.begin(info(), photos(), after=-1)
    acts = [break_off(OSError("disk full"))]

    def once(go_on, *args):
        return acts.pop()(go_on, *args) if acts else go_on()

    with failing("pipe_file", once), pytest.raises(OSError, match="disk full"):
        writer.end({"val_acc": 0.5}, finished=True)
    assert read_info(faulty / "run.json") == info()
    writer.end({"val_acc": 0.5}, finished=True)
    assert read_info(faulty / "run.json").finished


def test_an_observation_that_may_not_be_deleted_stays(faulty):
    writer = RunWriter(faulty, keep=2)
    for step in (0, 5):
        writer.add(observation(step=step))
    with (
        failing("rm_file", refuse(PermissionError("delete refused"))),
        pytest.raises(PermissionError, match="delete refused"),
    ):
        writer.add(observation(step=9))
    assert steps(faulty) == [0, 5, 9]
    writer.add(observation(step=12))
    assert steps(faulty) == [0, 12]


@pytest.mark.parametrize("operation", ["pipe_file", "rm_file", "cat_file", "ls", "info"])
@pytest.mark.parametrize("how", [refuse, answer_late])
def test_setting_aside_that_fails_loses_nothing(operation, how, faulty):
    writer = RunWriter(faulty)
    writer.begin(info(), photos(), after=-1)
    for step in (0, 5, 10, 15):
        writer.add(observation(step=step))
    # Only the first file meets the fault, so that some are moved already or still have to be.
    fault = failing(operation, how(TimeoutError("slow")), name="*10.safetensors")
    with fault, contextlib.suppress(TimeoutError):
        RunWriter(faulty).begin(info(), photos(), after=5)
    RunWriter(faulty).begin(info(), photos(), after=5)
    assert steps(faulty) == [0, 5]
    aside = [
        path
        for number in names(faulty / "set_aside")
        for path in observation_files(faulty / "set_aside" / number)
    ]
    assert {read_step(path) for path in aside} == {10, 15}
    assert all(read_observation(path).step == read_step(path) for path in aside)


def test_a_listing_that_lacks_files_overwrites_and_deletes_none_of_them(faulty):
    writer = RunWriter(faulty, keep=3)
    writer.begin(info(), photos(), after=-1)
    for step in (0, 5, 10):
        writer.add(observation(step=step))
    with failing("ls", leave_out("*10.safetensors")):
        late = RunWriter(faulty, keep=3)
        assert late.join(info(), photos())
        assert late.last_step() == 5
        with pytest.raises(RecordError, match="is there already and is not overwritten"):
            late.add(observation(7, step=10))
        late.add(observation(step=11))
    assert steps(faulty) == [0, 5, 10, 11]


def test_a_folder_that_cannot_be_listed_is_not_taken_for_a_new_one(faulty):
    RunWriter(faulty).begin(info(), photos(), after=-1)
    for operation in ("ls", "info"):
        with (
            failing(operation, refuse(PermissionError("Forbidden"))),
            pytest.raises(PermissionError, match=f"{FaultyStore.protocol}://.*Forbidden"),
        ):
            RunWriter(faulty).begin(info(seed=2), photos(), after=-1)
        assert read_info(faulty / "run.json") == info()


def test_metrics_are_kept_by_step_as_far_as_they_are_finite(folder):
    writer = RunWriter(folder)
    writer.begin(info(), photos(), after=-1)
    assert open_run(folder).metrics() == {}
    writer.note_metrics(10, {"val_acc": 0.75, "loss": float("nan"), "lr": float("inf")})
    writer.note_metrics(9, {"val_acc": 0.5})
    writer.note_metrics(10, {"val_acc": 0.8, "loss": float("nan")})
    assert list(open_run(folder).metrics().items()) == [
        (9, {"val_acc": 0.5}),
        (10, {"val_acc": 0.8}),
    ]


def test_a_resumed_run_goes_on_with_the_metrics_of_its_past_and_forgets_the_verdict(folder):
    writer = RunWriter(folder)
    writer.begin(info(), photos(), after=-1)
    for step in (1, 2, 3):
        writer.note_metrics(step, {"val_acc": step / 10})
    writer.note_verdict(b"{}")
    again = RunWriter(folder)
    again.begin(info(), photos(), after=2)
    again.note_metrics(4, {"val_acc": 0.4})
    assert list(open_run(folder).metrics()) == [1, 2, 4]
    assert "verdict.json" not in names(folder)
    RunWriter(folder).begin(info(), photos(), after=-1)
    assert open_run(folder).metrics() == {}


def test_what_was_measured_stays_when_an_observation_is_thinned_out(folder):
    def measure(writer: RunWriter, steps: Iterable[int]) -> None:
        for step in steps:
            writer.add(observation(step, step=step, measures={"share": step / 10}))

    writer = RunWriter(folder, keep=2)
    writer.begin(info(), photos(), after=-1)
    measure(writer, (1, 2))
    assert not (folder / "metrics.json").exists()
    measure(writer, (3, 4))
    assert open_run(folder).steps() == [1, 4]
    assert read_thinned(folder / "metrics.json") == {2: {"share": 0.2}, 3: {"share": 0.3}}
    again = RunWriter(folder, keep=2)  # goes on with step 4, which another process measured
    again.begin(info(), photos(), after=4)
    measure(again, (5,))
    assert list(read_thinned(folder / "metrics.json")) == [2, 3, 4]
    assert read_thinned(folder / "metrics.json")[4] == {"share": 0.4}
    assert open_run(folder).metrics() == {}
    RunWriter(folder).begin(info(), photos(), after=-1)
    assert not (folder / "metrics.json").exists()


def test_a_damaged_observation_is_thinned_out_all_the_same(folder):
    RunWriter(folder).begin(info(), photos(), after=-1)
    for step in (1, 2):
        RunWriter(folder).add(observation(step, step=step))
    write_whole(folder / OBSERVATION_FILE.format(2), b"{")
    RunWriter(folder, keep=2).add(observation(3, step=3))
    assert open_run(folder).steps() == [1, 3]
    assert not (folder / "metrics.json").exists()


def test_damaged_metrics_do_not_stop_a_run_and_are_refused_when_read(folder):
    writer = RunWriter(folder)
    writer.begin(info(), photos(), after=-1)
    write_whole(folder / "metrics.json", b'{"schema": 1, "at": {"one": {"val_acc": 0.5}}}')
    with pytest.raises(RecordError, match=r"metrics\.json is damaged"):
        open_run(folder).metrics()
    again = RunWriter(folder)
    again.begin(info(), photos(), after=9)
    again.note_metrics(10, {"val_acc": 0.5})
    assert open_run(folder).metrics() == {10: {"val_acc": 0.5}}
