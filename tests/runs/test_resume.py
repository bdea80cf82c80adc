"""A resumed run continues its pictures, and checkpoints stay readable for everyone."""

from __future__ import annotations

import copy
import io
import json
import pickle
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as new_namespace
import pytest
import pytorch_lightning as pl
import torch
from matrix import Shapes, Touchy
from older import skip_if_a_batch_was_repeated
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from training import (
    callback,
    fit,
    loader,
    make_module,
    one_image,
    pictures,
    quiet_trainer,
    seen,
    steps,
)

from lightning_saliency import AttentionCheck, ProbeBatch, SaliencyCallback, SaliencyError
from lightning_saliency.cli import main
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.lightning import SaliencyCallback as NewCallback
from lightning_saliency.record.run import OBSERVATION_FILE, RUN_FILE, open_run
from lightning_saliency.viewer.report import open_records

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

FIRST_TWO = [("untrained", 0), ("epoch 0", 4), ("epoch 1", 9)]


def interrupted(folder: Path, *callbacks: Any, every: int = 5, **options: Any) -> Path:
    """Train two epochs; return the last checkpoint, by default that of the end."""
    keep = ModelCheckpoint(folder / "kept", every_n_train_steps=every, save_top_k=-1)
    options = {"max_epochs": 2, "enable_checkpointing": True} | options
    fit(folder / "first", *callbacks, keep, **options)
    return max((folder / "kept").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


def at_epoch_ends(folder: Path, *callbacks: Any, **options: Any) -> Path:
    keep = ModelCheckpoint(folder / "kept", save_top_k=-1)
    fit(folder / "first", *callbacks, keep, enable_checkpointing=True, **options)
    return max((folder / "kept").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)


def test_a_resumed_run_keeps_its_probe_and_goes_on_in_its_pictures(tmp_path):
    first = callback(probe=None)
    path = at_epoch_ends(tmp_path, first)
    assert seen(first) == FIRST_TWO
    resumed = callback(probe=None)
    # The data differ, so a probe that was chosen again would differ too.
    fit(tmp_path / "2", resumed, val=loader(24), max_epochs=4, ckpt_path=path)
    assert resumed.probe.fingerprint == first.probe.fingerprint
    assert seen(resumed) == [*FIRST_TWO, ("epoch 2", 14), ("epoch 3", 19)]
    assert steps(tmp_path / "2") == [14, 19]


def test_the_film_strip_of_a_resumed_run_shows_all_of_it(tmp_path):
    path = at_epoch_ends(tmp_path, callback(tile_size=96))
    fit(tmp_path / "2", callback(tile_size=96), max_epochs=4, ckpt_path=path)
    ((_, strip),) = pictures(tmp_path / "2")["saliency_filmstrip/image 0 · class 0"].items()
    assert (Image.open(io.BytesIO(strip)).width - 20) // (96 + 6) == 5


def test_a_checkpoint_can_be_read_without_trust(tmp_path):
    """A callback's state must not keep `weights_only` from reading the whole file."""
    masks = {"all": torch.ones(1, 12, 12, dtype=torch.bool)}
    probe = one_image(masks=masks, class_names=list("abcd"), mean=[0.0] * 3, std=[1.0] * 3)
    observer = callback(probe=probe, targets="top3")
    checkpoint = torch.load(at_epoch_ends(tmp_path, observer), weights_only=True)
    state = checkpoint["callbacks"][observer.state_key]
    assert ProbeBatch.from_state(state["probe"]).fingerprint == probe.fingerprint
    fit(tmp_path / "2", callback(), ckpt_path=tmp_path / "kept" / "epoch=1-step=10.ckpt")


def test_a_run_resumed_in_mid_epoch_knows_its_epoch(tmp_path):
    """Lightning does not announce an epoch again if the checkpoint is from its middle."""
    path = interrupted(tmp_path, callback(), every=7)  # in epoch 1
    resumed = callback()
    fit(tmp_path / "2", resumed, max_epochs=3, ckpt_path=path)
    assert seen(resumed) == [*FIRST_TWO, ("epoch 2", 14)]


def test_a_run_resumed_in_mid_epoch_keeps_to_its_schedule(tmp_path):
    path = interrupted(tmp_path, callback(epochs=[2]), every=7)
    resumed = callback(epochs=[2])
    fit(tmp_path / "2", resumed, max_epochs=3, ckpt_path=path)
    assert [caption for caption, _ in seen(resumed)] == ["untrained", "epoch 2"]


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(None, id="without-the-callback"),
        pytest.param({"probe": ProbeBatch(torch.ones(1, 3, 12, 12))}, id="of-another-probe"),
    ],
)
def test_steps_keep_to_their_multiples_after_a_run_is_resumed(before, tmp_path):
    ours = {"every_n_train_steps": 4, "every_n_epochs": 0, "targets": "predicted"}
    path = interrupted(tmp_path, *[callback(**ours | before)] if before else [])
    resumed = callback(**ours)
    trainer = fit(tmp_path / "2", resumed, max_epochs=3, ckpt_path=path)
    skip_if_a_batch_was_repeated(trainer, 15)
    assert seen(resumed) == [("step 12", 11), ("epoch 2", 14)]


def test_another_probe_begins_again_and_says_so(tmp_path):
    path = at_epoch_ends(tmp_path, callback())
    other = callback(probe=ProbeBatch.from_dataset(Shapes(24, augment=False), count=2))
    message = (
        "had another probe; the pictures of 'saliency' begin again with the one passed. Pass `p"
    )
    with pytest.warns(SaliencyWarning, match=message):
        fit(tmp_path / "2", other, max_epochs=3, ckpt_path=path)
    assert seen(other) == [("epoch 2", 14)]


def probe_of(count: int, *, alike: bool = False) -> ProbeBatch:
    """Some images; ``alike`` gives as many of the same classes, but others."""
    data = Shapes(24, augment=False)
    return ProbeBatch.from_dataset(data, indices=range(count + 8 * alike)[-count:])


def assert_readable(run: Any) -> None:
    """Everything in the folder can be read: by the commands, and for the page."""
    assert [run.observation(step).step for step in run.steps()]
    assert len(run.photos()) == len(run.info.images)
    assert main(["show", str(run.folder)]) == 0
    (record,) = open_records([str(run.folder)])
    assert record.index()["unreadable"] == 0


@pytest.mark.parametrize(
    "other",
    [pytest.param(probe_of(2), id="count"), pytest.param(probe_of(4, alike=True), id="images")],
)
def test_the_record_of_another_probe_is_set_aside_and_stays_readable(other, tmp_path):
    path = at_epoch_ends(tmp_path, callback(probe=probe_of(4)))
    aside = tmp_path / "first" / "saliency" / "set_aside" / "1"
    with pytest.warns(SaliencyWarning) as caught:
        fit(tmp_path / "first", callback(probe=other), max_epochs=3, ckpt_path=path)
    moved = f"held observations that this run does not continue. They are now in {aside}"
    assert f"{aside.parent.parent} {moved}" in [str(w.message) for w in caught]
    run, before = open_run(tmp_path / "first"), open_run(aside)
    assert (run.steps(), before.steps()) == ([14], [0, 4, 9])
    assert len(before.info.images) == 4
    assert_readable(run)
    assert_readable(before)
    reference = tmp_path / "attention"
    assert main(["reference", str(run.folder), "-o", str(reference)]) == 0
    assert main(["check", str(run.folder), "--reference", str(reference)]) == 0
    assert main(["check", str(before.folder), "--reference", str(reference)]) == 4


@pytest.mark.parametrize("then", [{"targets": "all"}, {"rule": ("gradient", "deconvnet")}])
def test_a_record_goes_on_readably_with_other_rules_or_targets(then, tmp_path):
    path = at_epoch_ends(tmp_path, callback(probe=probe_of(4)))
    with pytest.warns(SaliencyWarning, match="begin again with"):
        fit(
            tmp_path / "first",
            callback(probe=probe_of(4), **then),
            max_epochs=3,
            ckpt_path=path,
        )
    run = open_run(tmp_path / "first")
    assert run.steps() == [0, 4, 9, 14]
    assert not (run.folder / "set_aside").exists()
    assert_readable(run)


def test_what_a_second_fit_sets_aside_is_named(tmp_path, caplog):
    with caplog.at_level("INFO", "pytorch_lightning"):
        fit(tmp_path, callback(), max_epochs=1)
        assert not [message for message in caplog.messages if "set_aside" in message]
        fit(tmp_path, callback(), max_epochs=1)
    folder = tmp_path / "saliency"
    (said,) = [message for message in caplog.messages if "set_aside" in message]
    assert said == (
        f"{folder} held observations that this run does not continue. They are now in "
        f"{folder / 'set_aside' / '1'}"
    )


def test_other_targets_do_not_break_the_film_strips(tmp_path):
    path = at_epoch_ends(tmp_path, callback(targets="label"))
    resumed = callback(targets="all")
    fit(tmp_path / "2", resumed, max_epochs=3, ckpt_path=path)
    assert steps(tmp_path / "2") == steps(tmp_path / "2", "saliency_filmstrip/") == [14]


def test_maps_by_another_rule_are_not_shown_under_the_name_of_this_one(tmp_path):
    path = at_epoch_ends(tmp_path, callback(rule="guided_backprop"))
    resumed = callback(rule="gradient")
    fit(tmp_path / "2", resumed, max_epochs=3, ckpt_path=path)
    assert seen(resumed) == [("epoch 2", 14)]


def test_a_checkpoint_with_the_callback_serves_a_run_without_it(tmp_path):
    path = at_epoch_ends(tmp_path, callback())
    trainer = fit(tmp_path / "2", max_epochs=3, ckpt_path=path)
    assert trainer.global_step == 15


def test_a_checkpoint_without_the_callback_serves_a_run_with_it(tmp_path):
    path = at_epoch_ends(tmp_path)
    late = callback()
    fit(tmp_path / "2", late, max_epochs=3, ckpt_path=path)
    # The model is no longer untrained.
    assert seen(late) == [("epoch 2", 14)]


def test_a_checkpoint_of_one_namespace_serves_the_other(tmp_path):
    path = at_epoch_ends(tmp_path, callback(), module=make_module(pl))
    second = NewCallback(one_image(), targets="label")
    fit(
        tmp_path / "2",
        second,
        module=make_module(new_namespace),
        namespace=new_namespace,
        max_epochs=3,
        ckpt_path=path,
    )
    assert seen(second) == [*FIRST_TWO, ("epoch 2", 14)]


def test_a_run_that_is_over_stays_as_it_is(tmp_path):
    path = at_epoch_ends(tmp_path, callback())
    resumed = callback()
    fit(tmp_path / "2", resumed, max_epochs=2, ckpt_path=path)
    assert seen(resumed) == FIRST_TWO


@pytest.mark.parametrize("doing", ["validate", "test"])
def test_the_best_checkpoint_can_be_tested_after_training(doing, tmp_path):
    """It restores an earlier state of the callback, while the log already holds more."""
    observer, module = callback(), Touchy()
    keep = ModelCheckpoint(tmp_path / "kept", save_top_k=-1)
    options = {"train": loader(8), "max_epochs": 3, "enable_checkpointing": True}
    trainer = fit(tmp_path / "log", observer, keep, module=module, **options)
    early = tmp_path / "kept" / "epoch=0-step=1.ckpt"
    getattr(trainer, doing)(module, loader(16), ckpt_path=early, verbose=False)
    # `steps` also refuses two pictures at one step, one of which would be hidden.
    assert steps(tmp_path / "log")[:4] == [0, 1, 2, 3]


def test_a_checkpoint_can_be_tested_by_a_fresh_trainer(tmp_path):
    path = at_epoch_ends(tmp_path, callback(probe=None), module=Touchy())
    trainer = quiet_trainer(tmp_path / "2", callback(probe=None))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaliencyWarning)
        (metrics,) = trainer.test(Touchy(), loader(16), ckpt_path=path, verbose=False)
    assert "test_acc" in metrics


# --- copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_callback_can_be_copied_before_training(copied, tmp_path):
    twin = copied(callback(every_n_epochs=2, name="twin"))
    fit(tmp_path, twin)
    assert seen(twin) == [("untrained", 0), ("epoch 1", 9)]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_callback_can_be_copied_after_training(copied, tmp_path):
    """Tuners and spawned processes copy callbacks, before the first `fit` as well as after."""
    observer = callback()
    fit(tmp_path / "1", observer, module=Touchy())
    twin = copied(observer)
    assert seen(twin) == seen(observer)
    fit(tmp_path / "2", twin)


# --- the record and the check


def masked(**options: Any) -> Any:
    mask = torch.zeros(1, 12, 12, dtype=torch.bool)
    mask[..., :6] = True
    return callback(**{"probe": one_image(masks={"left": mask})} | options)


def waiting(**options: Any) -> AttentionCheck:
    return AttentionCheck(require=["left.share <= 0"], **options)


def last_of(folder: Path) -> dict[str, Any]:
    """The state of the callback in the last checkpoint under ``folder``, read without trust."""
    path = max((folder / "kept").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    return torch.load(path, weights_only=True)["callbacks"]["SaliencyCallback[saliency]"]


NAMESPACES = pytest.mark.parametrize(
    ("namespace", "ours"),
    [
        pytest.param(pl, SaliencyCallback, id="pytorch_lightning"),
        pytest.param(new_namespace, NewCallback, id="lightning"),
    ],
)


@NAMESPACES
@pytest.mark.parametrize("again", ["first", "second"], ids=["same-folder", "new-folder"])
def test_the_record_of_a_resumed_run_goes_on(again, namespace, ours, tmp_path):
    def observer() -> Any:
        probe = masked().probe
        return ours(probe, targets="label", tile_size=24, check=waiting(start_after="val_loss<9"))

    def module() -> Any:
        return make_module(namespace)

    keep = namespace.callbacks.ModelCheckpoint(tmp_path / "kept", save_top_k=-1)
    options = {"namespace": namespace, "enable_checkpointing": True}
    fit(tmp_path / "first", observer(), keep, module=module(), max_epochs=3, **options)
    early = tmp_path / "kept" / "epoch=1-step=10.ckpt"
    torch.load(early, weights_only=True)
    resumed = observer()
    fit(tmp_path / again, resumed, module=module(), max_epochs=3, ckpt_path=early, **options)
    run = open_run(tmp_path / again)
    assert run.steps() == ([0, 4, 9, 14] if again == "first" else [14])
    assert run.info.finished
    aside = list((run.folder / "set_aside").rglob("*.safetensors"))
    assert [path.name for path in aside] == [OBSERVATION_FILE.format(14)] * (again == "first")
    # The observations of the abandoned branch are forgotten, the earlier ones are kept.
    first, previous = (
        open_run(tmp_path / "first").observation(step).measured.profiles[0] for step in (0, 9)
    )
    now = run.last()
    for name, then in (("drift.first", first), ("drift.previous", previous)):
        expected = float((now.measured.profiles[0] - then).abs().sum()) / 2
        assert now.measures[name] == pytest.approx(expected, abs=1e-12)


def test_a_resumed_check_has_begun_and_counts_on(tmp_path):
    """Otherwise a run that is interrupted often would never fail often enough."""
    check = {"start_after": "val_acc>=0", "patience": 3}
    at_epoch_ends(tmp_path, masked(check=waiting(**check)))
    state = last_of(tmp_path)["gate"]
    assert state == {"start_after": "val_acc>=0", "begun": True, "failed": 2}
    path = tmp_path / "kept" / "epoch=1-step=10.ckpt"
    resumed = masked(check=waiting(**check, on_fail="raise"))
    with pytest.raises(SaliencyError, match=r"FAIL  saliency at epoch 2"):
        fit(tmp_path / "2", resumed, max_epochs=9, ckpt_path=path)


def test_a_resumed_check_that_waits_for_something_else_waits_again(tmp_path):
    path = at_epoch_ends(tmp_path, masked(check=waiting(start_after="val_acc>=0")))
    resumed = masked(check=waiting(start_after="val_acc>2", on_fail="raise"))
    with pytest.warns(SaliencyWarning, match="INCONCLUSIVE .* val_acc>2 was not reached"):
        fit(tmp_path / "2", resumed, max_epochs=3, ckpt_path=path)


def test_a_check_can_be_added_when_a_run_is_resumed(tmp_path):
    path = at_epoch_ends(tmp_path, masked())
    with pytest.warns(SaliencyWarning, match="FAIL  saliency at epoch 2"):
        fit(tmp_path / "2", masked(check=waiting()), max_epochs=3, ckpt_path=path)


def test_profiles_that_a_checkpoint_holds_are_those_of_the_record(tmp_path):
    at_epoch_ends(tmp_path, masked())
    state, run = last_of(tmp_path), open_run(tmp_path / "first")
    assert torch.equal(state["first_profile"], run.observation(0).measured.profiles[0])
    assert torch.equal(state["last_profile"], run.last().measured.profiles[0])


def test_two_rules_are_recorded_drawn_together_and_resumed(tmp_path):
    rules = ("guided_backprop", "gradient")
    path = at_epoch_ends(tmp_path, callback(rule=rules))
    run = open_run(tmp_path / "first")
    assert json.loads((run.folder / RUN_FILE).read_text())["settings"]["rule"] == list(rules)
    for _, step in FIRST_TWO:
        snapshot = run.observation(step).snapshot
        assert snapshot.rules == rules
        assert not torch.equal(*snapshot.maps.values())
    assert set(pictures(tmp_path / "first")) == {
        "saliency/image 0 · class 0",
        "saliency_filmstrip/image 0 · class 0",
    }
    assert steps(tmp_path / "first") == [0, 4, 9]
    resumed = callback(rule=list(rules))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaliencyWarning)
        fit(tmp_path / "2", resumed, max_epochs=4, ckpt_path=path)
    assert seen(resumed) == [*FIRST_TWO, ("epoch 2", 14), ("epoch 3", 19)]
    assert open_run(tmp_path / "2").observation(19).snapshot.rules == rules
