"""What the callback adds to a checkpoint is small: the record is the memory of a run."""

from __future__ import annotations

import io
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from matrix import Touchy
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from records import observation
from training import callback, fit, make_module, seen, shown

from lightning_saliency import ProbeBatch, SaliencyCallback
from lightning_saliency.callback.filmstrips import read_strips
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.observe.history import History, Part
from lightning_saliency.record.run import open_run
from lightning_saliency.record.writer import RunWriter

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

KEY = "SaliencyCallback[saliency]"
FIRST_TWO = [("untrained", 0), ("epoch 0", 4), ("epoch 1", 9)]
REST = [("epoch 2", 14), ("epoch 3", 19)]


class Wide(Touchy):
    """Has many classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = torch.nn.Linear(8 * 9, classes)


def size_without_probe(state: dict[str, Any]) -> int:
    buffer = io.BytesIO()
    torch.save({**state, "probe": None}, buffer)
    return buffer.tell()


def first_run(folder: Path, *callbacks: Any, **options: Any) -> Path:
    """Train two epochs in ``folder``; return the checkpoint of their end."""
    keep = ModelCheckpoint(folder / "checkpoints", save_top_k=-1, filename="{epoch}")
    fit(folder, *callbacks, keep, enable_checkpointing=True, **options)
    return max((folder / "checkpoints").glob("*.ckpt"))


def state_in(checkpoint: Path) -> dict[str, Any]:
    return torch.load(checkpoint, weights_only=True)["callbacks"][KEY]


def resumed(folder: Path, checkpoint: Path, **options: Any) -> tuple[SaliencyCallback, list[str]]:
    """Train on to the fourth epoch; return the callback and what it warned of."""
    ours = callback(**options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SaliencyWarning)
        fit(folder, ours, max_epochs=4, ckpt_path=checkpoint)
    return ours, [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]


# --- size


def state_of(folder: Path, classes: int, side: int, **options: Any) -> dict[str, Any]:
    probe = ProbeBatch(torch.rand(2, 3, 12, 12), torch.tensor([0, 1]))
    ours = callback(probe=probe, tile_size=side, **options)
    fit(folder, ours, module=Wide(classes))
    return ours.state_dict()


LARGER = {
    "more-observations": {"every_n_train_steps": 1},
    "more-classes": {"classes": 40},
    "larger-tiles": {"side": 96},
    "more-rules": {"rule": ("guided_backprop", "gradient")},
}


@pytest.mark.parametrize("larger", LARGER)
def test_the_state_grows_with_nothing(larger, tmp_path):
    plain = {"classes": 4, "side": 16, "targets": "all"}
    small = size_without_probe(state_of(tmp_path / "small", **plain))
    large = size_without_probe(state_of(tmp_path / "large", **plain | LARGER[larger]))
    assert large < small + 200
    assert large < 8_000


def test_resuming_again_and_again_does_not_make_it_grow(tmp_path):
    history = History()
    for step in range(200):
        history.add(observation(step, step=step), {}, tmp_path / f"version_{step}")
    assert size_without_probe(history.state()) < 24_000
    assert (history.parts[0].first, history.parts[-1].last) == (0, 199)


def test_photos_take_a_byte_for_each_value(tmp_path):
    photos = torch.randint(256, (2, 3, 120, 160)).float() / 255
    ours = callback(probe=ProbeBatch(photos, torch.tensor([0, 1])))
    path = first_run(tmp_path, ours, module=make_module(pl), validate=False)
    buffer = io.BytesIO()
    torch.save(state_in(path), buffer)
    assert photos.numel() < buffer.tell() < photos.numel() + 16_000
    assert torch.equal(ProbeBatch.from_state(state_in(path)["probe"]).images, photos)


# --- resumed


@pytest.mark.parametrize("again", ["run", "other"], ids=["same-folder", "other-folder"])
@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param({}, {}, id="recorded"),
        pytest.param({"record": False}, {"record": False}, id="never-recorded"),
        pytest.param({}, {"record": False}, id="no-longer-recorded"),
        pytest.param({"record": False}, {}, id="recorded-from-now-on"),
    ],
)
def test_a_strip_shows_the_whole_run(first, then, again, tmp_path):
    path = first_run(tmp_path / "run", callback(**first))
    ours, warned = resumed(tmp_path / again, path, **then)
    assert seen(ours) == [*FIRST_TWO, *REST]
    assert warned == []
    assert bool(state_in(path)["history"]["kept"]) == ("record" in first)


def test_an_unrecorded_strip_holds_few_frames(tmp_path):
    ours = callback(record=False, every_n_train_steps=1)
    fit(tmp_path, ours, max_epochs=8)
    kept = ours.state_dict()["history"]["kept"]
    assert 12 <= len(kept) <= 24
    assert kept[0]["maps"]["guided_backprop"].dtype == torch.int8


def test_a_recorded_strip_shows_what_an_unrecorded_one_does(tmp_path):
    strips = []
    for record in (True, False):
        torch.manual_seed(0)
        ours = callback(record=record, targets="all")
        fit(tmp_path / str(record), ours)
        strips.append(shown(ours))
    for recorded, kept in zip(*strips, strict=True):
        assert (recorded.caption, recorded.step) == (kept.caption, kept.step)
        assert torch.equal(recorded.predicted, kept.predicted)
        assert torch.equal(recorded.targets, kept.targets)
        for name, maps in kept.maps.items():
            torch.testing.assert_close(recorded.maps[name], maps, rtol=0, atol=0.005)
            assert torch.equal(recorded.peaks[name], kept.peaks[name])


@pytest.mark.parametrize("near", [True, False], ids=["with-its-checkpoint", "without"])
def test_a_record_that_was_moved_is_found_near_its_checkpoint(near, tmp_path):
    """As on another machine: the folder that the checkpoint names is gone."""
    path = first_run(tmp_path / "run", callback())
    (tmp_path / "run").rename(tmp_path / "moved")
    path = tmp_path / "moved" / path.relative_to(tmp_path / "run")
    if not near:
        path = Path(shutil.copy(path, tmp_path / "alone.ckpt"))
    ours, warned = resumed(tmp_path / "other", path)
    if near:
        assert (seen(ours), warned) == ([*FIRST_TWO, *REST], [])
        return
    assert seen(ours) == REST
    (message,) = warned
    assert f"is not in {tmp_path / 'run' / 'saliency'}, or that run has gone another way" in message
    assert "the film strips of 'saliency' leave out" in message
    # The curves go on all the same.
    assert open_run(tmp_path / "other").last().measures["drift.first"] > 0
    assert [part["first"] for part in ours.state_dict()["recorded"]] == [14]


def test_a_record_that_went_another_way_is_not_shown(tmp_path):
    """The run was resumed from an earlier checkpoint in the same folder, with other results."""
    late = first_run(tmp_path / "run", callback(), max_epochs=3)
    early = late.with_name("epoch=0.ckpt")
    torch.manual_seed(9)
    fit(tmp_path / "run", callback(), max_epochs=4, ckpt_path=early)
    ours, (message,) = resumed(tmp_path / "other", late)
    assert seen(ours) == [("epoch 3", 19)]
    assert "has gone another way since" in message


def test_what_was_observed_after_the_checkpoint_is_not_shown(tmp_path):
    path = first_run(tmp_path / "run", callback(), max_epochs=3).with_name("epoch=0.ckpt")
    ours, warned = resumed(tmp_path / "other", path)
    assert seen(ours) == [*FIRST_TWO, *REST]
    assert warned == []
    assert open_run(tmp_path / "other").steps() == [9, 14, 19]


@pytest.mark.parametrize("again", ["run", "other"])
def test_a_strip_shows_what_is_kept(again, tmp_path):
    path = first_run(tmp_path / "run", callback(keep=2), max_epochs=3)
    ours, warned = resumed(tmp_path / again, path, keep=2)
    last = [("untrained", 0), ("epoch 3", 19)]
    assert seen(ours) == (last if again == "run" else [last[0], ("epoch 2", 14), last[1]])
    assert warned == []


def test_a_last_observation_that_was_thinned_out_later_is_no_loss(tmp_path):
    late = first_run(tmp_path / "run", callback(keep=2), max_epochs=3)
    ours, warned = resumed(tmp_path / "other", late.with_name("epoch=1.ckpt"), keep=9)
    assert seen(ours) == [("untrained", 0), *REST]
    assert warned == []


def test_each_callback_finds_its_own_record(tmp_path):
    names = ("one", "two")
    path = first_run(tmp_path / "run", *(callback(name=name) for name in names))
    again = [callback(name=name, every_n_epochs=number) for number, name in enumerate(names, 1)]
    fit(tmp_path / "other", *again, max_epochs=4, ckpt_path=path)
    assert [seen(ours) for ours in again] == [[*FIRST_TWO, *REST], [*FIRST_TWO, REST[1]]]
    folders = [ours.state_dict()["recorded"][0]["folder"] for ours in again]
    assert folders == [str(tmp_path / "run" / name) for name in names]


def test_a_record_behind_a_url_is_read_back(tmp_path):
    url = f"memory://{tmp_path}/bucket"
    path = first_run(tmp_path, callback(), logger=CSVLogger(url, version="a"))
    ours, warned = resumed(tmp_path / "other", path)
    assert state_in(path)["recorded"][0]["folder"].startswith("memory://")
    assert (seen(ours), warned) == ([*FIRST_TWO, *REST], [])


def test_a_relative_folder_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = first_run(Path("run"), callback()).absolute()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    shutil.move(path, tmp_path / "x.ckpt")  # so that it is not found near its checkpoint
    ours, warned = resumed(tmp_path / "other", tmp_path / "x.ckpt")
    assert (seen(ours), warned) == ([*FIRST_TWO, *REST], [])


def test_what_could_not_be_recorded_is_shown_all_the_same(tmp_path, monkeypatch):
    add = RunWriter.add

    def failing(self: RunWriter, observation: Any) -> None:
        if observation.caption == "epoch 0":
            raise OSError("disk full")
        add(self, observation)

    monkeypatch.setattr(RunWriter, "add", failing)
    ours = callback(on_error="warn")
    fit(tmp_path, ours)
    assert seen(ours) == FIRST_TWO
    assert [kept["step"] for kept in ours.state_dict()["history"]["kept"]] == [4]


# --- read back


@pytest.fixture
def recorded(tmp_path: Path) -> History:
    ours = SaliencyCallback(ProbeBatch(torch.rand(3, 3, 12, 12)), tile_size=16, targets="all")
    fit(tmp_path / "run", ours)
    return ours._session.history


def test_large_maps_are_read_for_one_image_at_a_time(recorded, monkeypatch):
    whole = list(read_strips(recorded, 3))
    monkeypatch.setattr("lightning_saliency.callback.filmstrips._MOST_HELD", 1)
    single = list(read_strips(recorded, 3))
    assert [image for image, _ in single] == [0, 1, 2]
    for (image, some), (_, all_) in zip(single, whole, strict=True):
        for one, other in zip(some, all_, strict=True):
            maps = one.maps["guided_backprop"]
            assert maps.untyped_storage().nbytes() == maps[image].nbytes
            assert torch.equal(maps[image], other.maps["guided_backprop"][image])
            assert torch.equal(one.targets[image], other.targets[image])


def test_an_observation_that_cannot_be_read_is_left_out(recorded):
    folder = Path(recorded.parts[0].folder)
    min(folder.glob("observation-*")).write_bytes(b"?")
    with pytest.warns(SaliencyWarning, match="film strips leave out what cannot be read .*damaged"):
        ((_, snapshots), *_) = read_strips(recorded, 3)
    assert [snapshot.caption for snapshot in snapshots] == ["epoch 0", "epoch 1"]


def test_a_record_that_is_gone_leaves_no_strip(tmp_path):
    history = History(parts=[Part(str(tmp_path / "nowhere"), 0, 9, "0" * 16)])
    with pytest.warns(SaliencyWarning, match="film strips leave out"):
        assert list(read_strips(history, 3)) == []
