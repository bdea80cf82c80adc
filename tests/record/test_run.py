"""The folder of a run: found, read back as it was written, and refused if its files do not fit."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from paths import FIXTURES
from records import IMAGES, info, observation, photos, record

from lightning_saliency.errors import RecordError
from lightning_saliency.record.observation import encode_observation
from lightning_saliency.record.run import OBSERVATION_FILE, open_run, read_info, read_thumbnails
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.storage.files import write_whole
from lightning_saliency.storage.places import find_place


def test_facts_and_thumbnails_are_read_as_they_were_written(tmp_path):
    written = info(
        class_names=("ca\u202et", "\udce9 of another code page", "<b>"), seed=None, commit=None
    )
    RunWriter(tmp_path).begin(written, photos(), after=-1)
    assert read_info(tmp_path / "run.json") == written
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


def test_a_run_of_version_0_1_is_read():
    run = open_run(FIXTURES / "v0_1/record")
    assert run.steps() == [0, 4, 9]
    for step in run.steps():
        found = run.observation(step)
        assert found.snapshot.rules == ("guided_backprop",)
        assert found.measured.probabilities.shape == (4,)
        assert found.measured.shares.keys() == {"corner"}
    assert len(run.photos()) == 4


def test_a_folder_without_a_run_and_one_with_several_are_refused(tmp_path):
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
    with pytest.raises(RecordError, match="holds no observations yet"):
        open_run(tmp_path / "a").last()


@pytest.mark.parametrize("store", ["", "memory://"])
def test_the_only_run_in_the_folder_of_a_log_folder_is_found(store, tmp_path):
    """Lightning's loggers add a folder such as `version_0` to the one that users pass."""
    good = find_place(f"{store}{tmp_path}/good")
    record(good / "version_0")
    # None of these holds a run of its own.
    for other in ("checkpoints", ".git", "set_aside", "wandb"):
        record(good / other)
    write_whole(good / "export" / "model" / "run.json", b"{}")
    write_whole(good / "hparams.yaml", b"")
    run = open_run(good)
    assert str(run.folder) == str(good / "version_0" / "saliency")
    record(good / "one" / "too" / "deep")
    assert open_run(good) == run
    for name in "cab":
        record(good / name)
    with pytest.raises(RecordError) as caught:
        open_run(good)
    named = ", ".join(str(good / name / "saliency") for name in "abc")
    assert str(caught.value) == (
        f"{good} holds several recorded runs; pass one of {named} and 1 more"
    )
    # The nearest run counts: a log folder may hold those of further callbacks or sweeps.
    record(good)
    assert str(open_run(good).folder) == str(good / "saliency")


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
def test_facts_of_the_wrong_kind_are_refused(changed, message, tmp_path):
    record(tmp_path)
    path = tmp_path / "saliency" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(RecordError, match=f"run.json is damaged.*{message}"):
        open_run(tmp_path)


OTHERS: list[Any] = [
    pytest.param(
        observation(step=9, fingerprint="e" * 64), "belongs to another run or step", id="probe"
    ),
    pytest.param(observation(step=8), "belongs to another run or step", id="step"),
]


@pytest.mark.parametrize(("other", "message"), OTHERS)
def test_an_observation_of_another_run_or_step_is_refused(other, message, tmp_path):
    record(tmp_path)
    last = tmp_path / "saliency" / OBSERVATION_FILE.format(9)
    last.write_bytes(encode_observation(other))
    with pytest.raises(RecordError, match=message):
        open_run(tmp_path).last()


def test_files_of_another_number_of_images_or_of_other_regions_are_refused(tmp_path):
    names = tuple(f"image {i}" for i in range(IMAGES + 1))
    record(tmp_path / "images", told={"images": names, "labels": None})
    run = open_run(tmp_path / "images")
    with pytest.raises(RecordError, match="number of images differs from that of the run"):
        run.last()
    with pytest.raises(RecordError, match=r"photos\.safetensors .* number of images differs"):
        run.photos()
    record(tmp_path / "regions", told={"areas": {"object": 0.25}})
    with pytest.raises(RecordError, match="regions differ from those of the run"):
        open_run(tmp_path / "regions").last()


def test_files_that_only_look_like_observations_are_ignored(tmp_path):
    record(tmp_path)
    for name in (
        "observation-.safetensors",
        "observation-x.safetensors",
        "observation-²².safetensors",
    ):
        (tmp_path / "saliency" / name).write_bytes(b"")
    assert open_run(tmp_path).steps() == [0, 9]
