"""What a page learns of a recorded run, and what damage costs."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import records
import torch
from tab import forge

from lightning_saliency.errors import RecordError
from lightning_saliency.record import observation as recorded_observation
from lightning_saliency.record import run as recorded_run
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.viewer.record import (
    PHOTOS_FILE,
    RUN_FILE,
    Record,
)

FIRST, LAST = (recorded_run.OBSERVATION_FILE.format(step) for step in (0, 9))


@pytest.fixture
def record(tmp_path):
    """A recorded run of two observations, at the steps 0 and 9."""
    return Record(records.record(tmp_path / "run") / "saliency", "run")


def rewrite(path: Path, **changed) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))


def test_the_names_of_files_and_facts_are_those_of_the_record(record):
    steps = (0, 9, 10**9, 10**12)
    for step in steps:
        (record.folder / recorded_run.OBSERVATION_FILE.format(step)).touch()
    assert record.steps() == list(steps)
    assert record.facts() == recorded_run.open_run(record.folder).info


def test_the_index_says_what_the_run_recorded(record):
    index = record.index()
    info = records.info()
    assert (index["id"], index["run"], index["levels"]) == ("run/saliency", "run", 127)
    assert list(index["images"]) == list(info.images)
    assert index["fingerprint"] == info.fingerprint
    assert index["areas"] == {"object": 0.25, "mark": 0.0625}
    assert index["metrics"] == {"val_acc": 0.93}
    assert index["finished"]
    assert index["rules"] == ["guided_backprop"]
    assert index["map"] == (16, 16)
    assert (index["unreadable"], index["verdict"]) == (0, None)
    assert index["targets"] == [[0, 1, 2]] * 6
    first, last = index["moments"]
    assert (first["step"], first["epoch"], first["caption"]) == (0, -1, "untrained")
    assert (last["step"], last["epoch"], last["caption"]) == (9, 1, "epoch 1")
    assert last["p"] == [[0.3333] * 3] * 6
    assert last["peaks"] == [[1.0] * 3] * 6
    assert last["measures"] == pytest.approx(records.observation().measures)
    assert "targets" not in last
    assert "map" not in last
    assert "peaks_by_rule" not in last
    json.dumps(index, allow_nan=False)


def test_maps_are_those_of_the_record_within_half_a_level(record):
    expected = records.observation().snapshot.maps["guided_backprop"].float().numpy()
    maps = record.maps(9)
    assert maps.dtype == np.int8
    assert maps.shape == (6, 3, 16, 16)
    assert np.abs(maps / 127 - expected).max() <= 0.5 / 127 + 1e-6
    assert np.abs(maps).max() == 127


@pytest.mark.parametrize("images", [None, [0], [5, 0, 3]])
@pytest.mark.parametrize("columns", [None, [2], [2, 0]])
def test_some_maps_are_those_among_all(record, images, columns):
    maps = record.maps(9)
    expected = maps[images or range(6)][:, columns or range(3)]
    assert np.array_equal(record.maps(9, images=images, columns=columns), expected)


@pytest.mark.parametrize(
    "asked", [{"images": [6]}, {"columns": [3]}, {"images": [-1]}, {"rule": "gradient"}]
)
def test_maps_that_are_not_there(record, asked):
    with pytest.raises(IndexError, match="no"):
        record.maps(9, **asked)


def test_only_the_bytes_of_a_map_are_read(record, monkeypatch):
    from lightning_saliency.viewer import tensors

    counted = []
    read = tensors.TensorFile.read_rows

    def count(self, name, first, rows, size):
        counted.append((name, rows * size))
        return read(self, name, first, rows, size)

    record.moment(9)
    monkeypatch.setattr(tensors.TensorFile, "read_rows", count)
    record.maps(9, images=[4], columns=[1])
    assert counted == [("maps", 256)]


def test_a_map_that_is_not_finite_is_so_throughout_and_the_others_are_not(tmp_path):
    maps = records.observation().snapshot.maps["guided_backprop"].clone()
    maps[2, 1, 3, 3] = torch.nan
    maps[3, 0, 0, 0] = torch.inf
    peaks = torch.ones(6, 3)
    peaks[2, 1] = torch.nan
    changed = {"maps": maps, "peaks": peaks, "probabilities": torch.full((6, 3), torch.nan)}
    record = Record(records.record(tmp_path / "run", changed=changed) / "saliency", "run")
    served = record.maps(9)
    broken = (served == -128).all(axis=(2, 3))
    assert [tuple(place) for place in np.argwhere(broken)] == [(2, 1), (3, 0)]
    assert not (served == -128).any(axis=(2, 3))[~broken].any()
    last = record.index()["moments"][-1]
    assert last["peaks"][2] == [1.0, None, 1.0]
    assert last["p"][0] == [None] * 3
    json.dumps(record.index(), allow_nan=False)


def test_two_rules_each_have_maps_and_peaks(tmp_path):
    maps = records.observation().snapshot.maps["guided_backprop"]
    changed = {
        "maps": {"gradient": maps, "deconvnet": -maps},
        "peaks": {"gradient": torch.ones(6, 3), "deconvnet": torch.full((6, 3), 2.0)},
    }
    record = Record(records.record(tmp_path / "run", changed=changed) / "saliency", "run")
    index = record.index()
    assert index["rules"] == ["guided_backprop", "gradient", "deconvnet"]
    last = index["moments"][-1]
    assert last["rules"] == ("gradient", "deconvnet")
    assert last["peaks"] == [[1.0] * 3] * 6
    assert last["peaks_by_rule"] == {"gradient": [[1.0] * 3] * 6, "deconvnet": [[2.0] * 3] * 6}
    assert np.array_equal(record.maps(9), record.maps(9, "gradient"))
    assert np.array_equal(record.maps(9, "deconvnet"), -record.maps(9, "gradient"))


def test_classes_and_sizes_that_change_stand_at_each_observation(tmp_path):
    targets = torch.tensor([[0, 1], [1, 2], [2, 0], [0, 2], [1, 0], [2, 1]])
    changed = {
        "targets": targets,
        "probabilities": torch.full((6, 2), 0.5),
        "maps": torch.ones(6, 2, 8, 4).half(),
        "peaks": torch.ones(6, 2),
    }
    record = Record(records.record(tmp_path / "run", changed=changed) / "saliency", "run")
    index = record.index()
    assert index["targets"] is None
    assert index["map"] == (8, 4)
    first, last = index["moments"]
    assert first["targets"] == [[0, 1, 2]] * 6
    assert last["targets"] == targets.tolist()
    assert first["map"] == (16, 16)
    assert "map" not in last
    assert record.maps(0).shape == (6, 3, 16, 16)
    assert record.maps(9).shape == (6, 2, 8, 4)


def test_maps_of_schema_1_are_rounded_to_8_bits(record):
    before = record.maps(9)
    about, tensors = records.parts((record.folder / LAST).read_bytes())
    assert tensors["maps"].dtype == torch.int8
    tensors["maps"] = torch.from_numpy(before / np.float32(127)).half()
    records.write_tensors(record.folder / LAST, {**about, "schema": 1}, tensors)
    assert np.array_equal(record.maps(9), before)


def test_each_observation_comes_with_what_the_run_had_logged(record):
    writer = RunWriter(record.folder)
    writer.note_metrics(9, {"acc": 0.5, "loss": float("nan")})
    writer.note_metrics(7, {"acc": 0.4})  # This observation is not kept.
    moments = record.index()["moments"]
    assert [m["metrics"] for m in moments] == [{}, {"acc": 0.5}]
    assert record.index()["thinned"] == [{"step": 7, "metrics": {"acc": 0.4}, "measures": {}}]
    (record.folder / "metrics.json").write_text("{")
    assert record.index()["unreadable"] == 1
    assert [m["metrics"] for m in record.index()["moments"]] == [{}, {}]


def test_numbers_of_thinned_observations_are_left(tmp_path):
    writer = RunWriter(tmp_path, keep=3)
    writer.begin(records.info(), records.photos(), after=-1)
    for step in range(6):
        writer.add(records.observation(step, step=step, measures={"moved_mass": step / 10}))
        writer.note_metrics(step, {"acc": step / 5})
    record = Record(tmp_path, "run")
    index = record.index()
    kept = [m["step"] for m in index["moments"]]
    assert len(kept) == 3
    numbers = {m["step"]: (m["metrics"], m["measures"]) for m in index["moments"]}
    assert [each["step"] for each in index["thinned"]] == [s for s in range(6) if s not in kept]
    numbers |= {each["step"]: (each["metrics"], each["measures"]) for each in index["thinned"]}
    assert numbers == {s: ({"acc": s / 5}, {"moved_mass": s / 10}) for s in range(6)}
    (tmp_path / "metrics.json").write_text("{")
    assert record.index()["thinned"] == []


def grow(header) -> None:
    header["maps"]["shape"][0] = 10**12


def wide(header) -> None:
    header["maps"]["shape"][3] *= 2


def outside(header) -> None:
    header["maps"]["data_offsets"] = [10**9, 10**9 + 9216]


def negative(header) -> None:
    header["targets"]["data_offsets"] = [-144, 0]


def of_floats(header) -> None:
    header["targets"]["shape"] = [6.0, 3.0]


def of_truths(header) -> None:
    header["peaks"]["shape"] = [True, 18]


def swapped(header) -> None:
    header["targets"], header["probabilities"] = header["probabilities"], header["targets"]


def no_peaks(header) -> None:
    del header["peaks"]


def other_maps(header) -> None:
    header["maps"] = header["measured.maps"]


def edited(**changed):
    def change(header) -> None:
        about = json.loads(header["__metadata__"]["about"])
        header["__metadata__"]["about"] = json.dumps({**about, **changed})

    return change


FORGERIES = [
    *(grow, wide, outside, negative, of_floats, of_truths, swapped, no_peaks, other_maps),
    edited(schema=99),
    edited(step=3),
    edited(fingerprint="0"),
    edited(rule=["guided_backprop"]),
    edited(measures={"moved_mass": float("nan")}),
    edited(more_rules=["gradient"]),
    edited(caption={"text": "x"}),
    edited(epoch=-7),
]


@pytest.mark.parametrize("change", FORGERIES)
def test_a_forged_observation_is_counted_and_the_rest_is_shown(record, change):
    forge(record.folder / LAST, change)
    index = record.index()
    assert [m["step"] for m in index["moments"]] == [0]
    assert index["unreadable"] == 1
    with pytest.raises(RecordError, match="damaged"):
        record.maps(9)
    assert record.maps(0).shape == (6, 3, 16, 16)


DAMAGE = {
    "empty": lambda data: b"",
    "cut in the header": lambda data: data[:100],
    "cut in the maps": lambda data: data[: len(data) // 2],
    "a huge header": lambda data: (2**62).to_bytes(8, "little") + data[8:],
    "text": lambda data: b"{}",
    "a pickle": lambda data: b"\x80\x04K\x01.",
    "a deep header": lambda data: (10**5).to_bytes(8, "little") + b"[" * 10**5,
    "a list": lambda data: (2).to_bytes(8, "little") + b"[]",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_observation_is_counted_and_the_rest_is_shown(record, damage):
    path = record.folder / FIRST
    path.write_bytes(damage(path.read_bytes()))
    index = record.index()
    assert [m["step"] for m in index["moments"]] == [9]
    assert index["unreadable"] == 1


def test_classes_out_of_all_proportion_are_refused(record):
    """A browser makes a list of the classes that have no names."""
    about, tensors = records.parts((record.folder / LAST).read_bytes())
    tensors["targets"] = torch.full((6, 3), 2**40)
    records.write_tensors(record.folder / LAST, about, tensors)
    assert record.index()["unreadable"] == 1


def test_a_file_larger_than_the_limit_is_not_read(record, monkeypatch):
    from lightning_saliency.viewer import tensors

    monkeypatch.setattr(tensors, "MAX_TENSORS", 100)
    assert record.index()["unreadable"] == 2


def test_what_is_no_regular_file_is_not_waited_for(record):
    (record.folder / LAST).unlink()
    os.mkfifo(record.folder / LAST)
    assert record.index()["unreadable"] == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"schema": 99},
        {"images": []},  # with labels of six
        {"labels": [[0]]},
        {"fingerprint": 3},
        {"class_names": "cat"},
        {"areas": {"object": "wide"}},
    ],
)
def test_facts_that_cannot_be_read(record, changed):
    rewrite(record.folder / RUN_FILE, **changed)
    with pytest.raises(RecordError, match=r"run\.json is damaged"):
        record.index()


def test_settings_that_are_no_numbers_to_a_browser_are_left_out(record):
    rewrite(record.folder / RUN_FILE, settings={"scale": float("nan"), "more": [float("inf")]})
    assert record.index()["settings"] == {"scale": None, "more": [None]}


def test_photos_are_those_of_the_record(record):
    assert np.array_equal(record.photos(), records.photos().numpy())


@pytest.mark.parametrize("shape", [(5, 16, 16, 3), (6, 16, 16, 1), (6, 0, 16, 3), (6, 16, 48)])
def test_photos_of_something_else_are_refused(record, shape):
    photos = {"photos": torch.zeros(shape, dtype=torch.uint8)}
    records.write_tensors(record.folder / PHOTOS_FILE, {"schema": 1}, photos)
    with pytest.raises(RecordError, match=r"photos\.safetensors is damaged"):
        record.photos()


def test_the_stamp_changes_with_anything_in_the_folder(record):
    stamps = [record.stamp()]

    def changed() -> None:
        stamps.append(record.stamp())

    os.utime(record.folder / FIRST, ns=(1, 1))  # overwritten in place
    changed()
    (record.folder / "verdict.json").write_text("{}")
    changed()
    (record.folder / FIRST).unlink()  # thinned out by `keep`
    changed()
    rewrite(record.folder / RUN_FILE, finished=False)
    changed()
    assert len(set(stamps)) == len(stamps)
    assert record.stamp() == stamps[-1]
    assert Record(record.folder / "nowhere", "x").stamp() == "gone"


def test_a_run_that_grows_is_pruned_and_resumed_is_followed(record):
    """A resumed run writes other maps at a step that was shown before."""
    assert [m["step"] for m in record.index()["moments"]] == [0, 9]
    before = record.maps(9)
    (record.folder / FIRST).unlink()
    writer = recorded_run.OBSERVATION_FILE
    data = recorded_observation.encode_observation(records.observation(5, step=12, epoch=2))
    (record.folder / writer.format(12)).write_bytes(data)
    assert [m["step"] for m in record.index()["moments"]] == [9, 12]
    time.sleep(0.01)  # so that the file system's clock moves on
    data = recorded_observation.encode_observation(records.observation(7, caption="again"))
    (record.folder / LAST).write_bytes(data)
    assert record.index()["moments"][0]["caption"] == "again"
    assert not np.array_equal(record.maps(9), before)


def test_names_of_files_that_are_no_observations_are_passed_over(record):
    for name in (
        *("observation-9.safetensors", "observation-٠٠٠٠٠٠٠٠٠٩.safetensors", ".hidden.part"),
        *("observation-0000000009.safetensors.bak", "observation--000000001.safetensors"),
        "observation-00000000009.safetensors",
    ):
        (record.folder / name).write_bytes(b"")
    assert record.steps() == [0, 9]


def test_an_observation_is_that_of_the_record(record):
    recorded = recorded_run.open_run(record.folder)
    for step in record.steps():
        moment, observation = record.moment(step), recorded.observation(step)
        for name in ("step", "epoch", "caption", "measures"):
            assert getattr(moment, name) == getattr(observation, name)
        assert moment.rules == observation.snapshot.rules
        assert moment.targets == observation.snapshot.targets.tolist()


VERDICT = {
    "run": "logs/run at epoch 1",
    "outcome": "fail",
    "findings": [
        {
            **{"requirement": "moved_mass <= auto", "measure": "moved_mass", "value": 0.5},
            **{"low": None, "high": 0.2, "source": "5 good runs", "mark": "fail", "area": None},
        }
    ],
    "growth": {"region": "mark", "row": 0, "column": 0, "before": 0.02, "now": 0.6},
    "images": [{"name": "image 3", "index": 3, "moved": 0.7, "bound": None}],
    "good_runs": 5,
    "exit_code": 1,
}


def test_a_verdict_in_the_folder_is_shown(record):
    (record.folder / "verdict.json").write_text(json.dumps(VERDICT))
    verdict = record.index()["verdict"]
    assert verdict["outcome"] == "fail"
    assert verdict["findings"][0]["high"] == 0.2
    assert verdict["growth"]["region"] == "mark"
    assert verdict["images"][0]["name"] == "image 3"
    assert verdict["occluded"] is None


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"outcome": 3}', '{"outcome": "fail", "findings": [3]}', '{"outcome": [' * 10**4],
)
def test_a_damaged_verdict_is_counted(record, text):
    (record.folder / "verdict.json").write_text(text)
    index = record.index()
    assert (index["verdict"], index["unreadable"], len(index["moments"])) == (None, 1, 2)


def test_values_that_are_not_finite_in_a_verdict(record):
    finding = {**VERDICT["findings"][0], "value": float("nan")}
    verdict = {**VERDICT, "findings": [finding], "metrics": {"loss": float("inf")}}
    (record.folder / "verdict.json").write_text(json.dumps(verdict))
    shown = record.index()["verdict"]
    assert shown["findings"][0]["value"] is None
    assert shown["metrics"] == {"loss": None}
