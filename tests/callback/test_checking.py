"""The callback records, measures and judges: real trainings, real folders."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from matrix import Shapes, Touchy
from training import fit, loader, pictures, quiet_trainer, scalars

from lightning_saliency import (
    AttentionCheck,
    ProbeBatch,
    Reference,
    SaliencyCallback,
    SaliencyError,
)
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.functional.maps import masses
from lightning_saliency.functional.measures import profiles
from lightning_saliency.record.run import open_run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def images(**known: Any) -> ProbeBatch:
    corner = torch.zeros(4, 12, 12, dtype=torch.bool)
    corner[:, :6, :6] = True
    return ProbeBatch.from_dataset(
        Shapes(16, augment=False), count=4, masks={"corner": corner}, **known
    )


def watch(**options: Any) -> SaliencyCallback:
    return SaliencyCallback(**{"probe": images(), "targets": "label", "tile_size": 24} | options)


# --- the record


def test_a_run_records_what_it_saw_and_how_it_ended(tmp_path):
    pl.seed_everything(5)
    callback = watch(probe=images(class_names=list("abcd")))
    module = Touchy()
    trainer = fit(tmp_path, callback, module=module, max_epochs=3)
    run = open_run(tmp_path)
    assert run.folder == tmp_path / "saliency"
    assert run.steps() == [0, 4, 9, 14]
    info = run.info
    assert (info.name, info.fingerprint, info.seed) == ("saliency", callback.probe.fingerprint, 5)
    assert info.class_names == tuple("abcd")
    assert info.labels == tuple((int(label),) for label in callback.probe.labels)
    assert info.areas == {"corner": 0.25}
    assert info.settings["every_n_epochs"] == 1
    assert info.settings["rule"] == "guided_backprop"
    assert info.versions["torch"] == torch.__version__.split("+")[0]
    assert info.metrics == {
        name: float(value)
        for name, value in trainer.callback_metrics.items()
        if not name.startswith("saliency")
    }
    assert {"loss", "val_acc"} <= info.metrics.keys()
    assert info.finished
    assert run.photos().shape == (4, 24, 24, 3)


def test_what_is_recorded_is_the_label_s_gradient_in_full(tmp_path):
    from lightning_saliency import explain

    callback, module = watch(), Touchy()
    fit(tmp_path, callback, module=module, max_epochs=1)
    last = open_run(tmp_path).last()
    now = explain(module, callback.probe.images, callback.probe.labels, rules=("gradient",))
    maps = masses(now["gradient"][:, 0], callback.probe.images, "joint")
    expected = torch.stack([profiles(maps[:, view]) for view in (0, 1)], dim=1)
    torch.testing.assert_close(last.measured.views, expected)
    assert last.epoch == 0
    assert last.caption == "epoch 0"


def test_no_record_where_none_is_wanted(tmp_path):
    fit(tmp_path, watch(record=False), max_epochs=1)
    assert not (tmp_path / "saliency").exists()
    fit(tmp_path / "2", watch(), fast_dev_run=True, logger=True)
    assert not (tmp_path / "2").exists()


def test_keep_bounds_what_stays(tmp_path):
    fit(tmp_path, watch(keep=3), max_epochs=7)
    steps = open_run(tmp_path).steps()
    assert len(steps) == 3
    assert (steps[0], steps[-1]) == (0, 34)


@pytest.mark.parametrize("keep", [1, 0, 2.0, True])
def test_keep_has_to_be_two_at_least(keep):
    with pytest.raises(ValueError, match="`keep` must be an integer of at least 2, got"):
        watch(keep=keep)


def test_a_resumed_run_goes_on_in_its_folder_without_the_branch_given_up(tmp_path):
    keeping = pl.callbacks.ModelCheckpoint(tmp_path / "kept", save_top_k=-1)
    fit(tmp_path / "log", watch(), keeping, max_epochs=4, enable_checkpointing=True)
    assert open_run(tmp_path / "log").steps() == [0, 4, 9, 14, 19]
    early = tmp_path / "kept" / "epoch=1-step=10.ckpt"
    fit(tmp_path / "log", watch(), max_epochs=3, ckpt_path=early)
    run = open_run(tmp_path / "log")
    assert run.steps() == [0, 4, 9, 14]
    aside = sorted(p.name for p in (run.folder / "set_aside" / "1").iterdir())
    assert [int(name[12:22]) for name in aside] == [14, 19]
    assert run.last().epoch == 2


def test_another_run_in_the_same_folder_does_not_mix_with_the_first(tmp_path):
    fit(tmp_path, watch(), max_epochs=3)
    fit(tmp_path, watch(), max_epochs=1)
    assert open_run(tmp_path).steps() == [0, 4]


def test_a_model_that_is_validated_alone_is_recorded(tmp_path):
    trainer = quiet_trainer(tmp_path, watch())
    trainer.validate(Touchy(), loader(16), verbose=False)
    run = open_run(tmp_path)
    assert [run.observation(step).caption for step in run.steps()] == ["validated"]
    assert run.info.finished


def test_a_validation_after_training_keeps_what_is_known_of_it(tmp_path):
    callback, module = watch(), Touchy()
    trainer = fit(tmp_path, callback, module=module, max_epochs=1)
    before = open_run(tmp_path).info
    trainer.validate(module, loader(16), verbose=False)
    run = open_run(tmp_path)
    assert run.info == before
    assert run.last().caption == "validated"


def test_an_interrupted_run_says_so(tmp_path):
    class Interrupted(Touchy):
        def on_train_epoch_end(self) -> None:
            if self.current_epoch == 1:
                raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, watch(), module=Interrupted(), max_epochs=3)
    run = open_run(tmp_path)
    assert not run.info.finished
    assert run.steps() == [0, 4, 9]
    assert "val_acc" in run.info.metrics


# --- scalars


def test_measures_are_logged_beside_the_accuracy(tmp_path):
    from training import _events

    fit(tmp_path, watch(), max_epochs=2)
    events = _events(tmp_path)
    logged = {
        tag: {e.step: e.value for e in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
        if tag.startswith("saliency/")
    }
    assert logged.keys() == {
        "saliency/corner.share",
        "saliency/drift.first",
        "saliency/drift.previous",
    }
    run = open_run(tmp_path)
    for tag, values in logged.items():
        for step, value in values.items():
            expected = run.observation(step).measures[tag.removeprefix("saliency/")]
            assert value == pytest.approx(expected, rel=1e-6)
    assert list(logged["saliency/corner.share"]) == [0, 4, 9]
    assert list(logged["saliency/drift.first"]) == [
        4,
        9,
    ]  # the first observation has none before it
    assert "val_acc" in scalars(tmp_path)


def test_drift_goes_on_after_a_run_is_resumed(tmp_path):
    keeping = pl.callbacks.ModelCheckpoint(tmp_path / "kept", save_top_k=-1)
    pl.seed_everything(1)
    fit(tmp_path / "1", watch(), keeping, max_epochs=2, enable_checkpointing=True)
    last = tmp_path / "kept" / "epoch=1-step=10.ckpt"
    fit(tmp_path / "2", watch(), max_epochs=3, ckpt_path=last)
    before, after = open_run(tmp_path / "1"), open_run(tmp_path / "2").last()
    first, previous = (before.observation(s).measured.profiles.nanmean(dim=0) for s in (0, 9))
    now = after.measured.profiles.nanmean(dim=0)
    assert after.measures["drift.first"] == pytest.approx(float((now - first).abs().sum() / 2))
    assert after.measures["drift.previous"] == pytest.approx(
        float((now - previous).abs().sum() / 2)
    )


# --- the check


class Glancing(pl.LightningModule):
    """Its gradient is its weight, which lies on the right or, if asked for, on the left."""

    def __init__(self, seed: int, left: float = 0.0, accuracy: tuple[float, ...] = ()) -> None:
        super().__init__()
        weight = 1 + 0.3 * torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(seed))
        weight[:, :, :6] *= left
        self.weight = torch.nn.Parameter(weight)
        self.accuracy = accuracy

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        score = (0.1 * self.weight * pixels).sum(dim=(1, 2, 3))
        return torch.stack([score, -score, 2 * score, -2 * score], dim=1)

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        return 0 * self(batch[0]).sum()

    def validation_step(self, batch: Any, _: int) -> None:
        epochs = self.accuracy or (0.9,)
        self.log("val_acc", epochs[min(self.current_epoch, len(epochs) - 1)])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """Save a reference of three good runs; return its folder."""
    folder = tmp_path_factory.mktemp("good")
    for seed in range(3):
        fit(folder / str(seed), watch(record=True), module=Glancing(seed), max_epochs=1)
    Reference.from_runs([folder / str(seed) for seed in range(3)]).save(folder / "attention")
    return folder / "attention"


def messages(caught: list[Any]) -> list[str]:
    return [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]


def checked(
    folder: Path, module: Any, check: AttentionCheck, **options: Any
) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = fit(folder, watch(check=check, rule="gradient"), module=module, **options)
    return trainer, messages(caught)


def test_a_good_run_passes_in_one_line(attention, tmp_path, caplog):
    with caplog.at_level("INFO", "pytorch_lightning"):
        _, warned = checked(tmp_path, Glancing(9), AttentionCheck(str(attention)))
    assert warned == []
    assert "PASS  saliency at epoch 1, against 3 good runs" in caplog.text
    assert not [tag for tag in pictures(tmp_path) if "attention" in tag]


def test_a_run_that_looks_elsewhere_is_reported_with_a_picture(attention, tmp_path):
    _, (message,) = checked(tmp_path, Glancing(9, left=3.0), AttentionCheck(str(attention)))
    assert message.startswith("FAIL  saliency at epoch 1, against 3 good runs")
    assert "fail  corner.share" in message
    assert "What grew: the region 'corner'" in message
    assert "Hiding it" in message
    assert "val_acc 0.900 (good runs 0.900)" in message
    assert list(pictures(tmp_path)["saliency_attention/difference"]) == [9]
    assert open_run(tmp_path).last().measures["moved_mass"] > 0.5


def test_a_failure_can_raise_once_everything_is_written(attention, tmp_path):
    check = AttentionCheck(str(attention), on_fail="raise")
    with pytest.raises(SaliencyError, match="FAIL  saliency at epoch 1, against 3 good runs"):
        checked(tmp_path, Glancing(9, left=3.0), check)
    run = open_run(tmp_path)
    assert run.info.finished
    assert run.info.metrics == {"val_acc": pytest.approx(0.9)}
    assert [tag for tag in pictures(tmp_path) if tag.startswith("saliency_filmstrip")]


def test_on_error_does_not_swallow_a_failure(attention, tmp_path):
    check = AttentionCheck(str(attention), on_fail="raise")
    with pytest.raises(SaliencyError, match="FAIL"):
        fit(tmp_path, watch(check=check, on_error="warn"), module=Glancing(9, left=3.0))


def test_training_can_stop_once_the_accuracy_is_there(attention, tmp_path):
    """The epoch in which the condition holds is the first judged, by its own metric."""
    check = AttentionCheck(str(attention), on_fail="stop", start_after="val_acc>0.8")
    module = Glancing(9, left=3.0, accuracy=(0.5, 0.7, 0.9, 0.6, 0.9))
    trainer, warned = checked(tmp_path, module, check, max_epochs=9)
    assert trainer.current_epoch == 3
    assert len(warned) == 1
    assert warned[0].startswith("FAIL  saliency at epoch 2")
    assert warned[0].endswith("Training stops.")


class Late(Glancing):
    """Logs its accuracy after all callbacks have run."""

    def validation_step(self, batch: Any, _: int) -> None:
        pass

    def on_validation_epoch_end(self) -> None:
        super().validation_step(None, 0)


def test_a_condition_on_what_the_module_logs_last_holds_in_its_own_epoch(attention, tmp_path):
    check = AttentionCheck(str(attention), on_fail="stop", start_after="val_acc>0.8")
    module = Late(9, left=3.0, accuracy=(0.5, 0.9, 0.5))
    trainer, warned = checked(tmp_path, module, check, max_epochs=9)
    assert trainer.current_epoch == 2
    assert [m.splitlines()[0].split(",")[0] for m in warned] == ["FAIL  saliency at epoch 1"]


def test_patience_waits_for_failures_in_a_row(attention, tmp_path):
    check = AttentionCheck(str(attention), on_fail="stop", start_after="val_acc>=0.8", patience=3)
    trainer, warned = checked(tmp_path, Glancing(9, left=3.0), check, max_epochs=9)
    assert trainer.current_epoch == 3
    assert [m.splitlines()[0].split(",")[0] for m in warned] == [
        f"FAIL  saliency at epoch {epoch}" for epoch in range(3)
    ]


def test_a_condition_that_never_holds_is_inconclusive(attention, tmp_path):
    check = AttentionCheck(str(attention), on_fail="raise", start_after="val_acc>0.95")
    _, (message,) = checked(tmp_path, Glancing(9, left=3.0), check)
    assert message == "INCONCLUSIVE  saliency at epoch 1: val_acc>0.95 was not reached"


def test_without_a_reference_only_numbers_can_be_judged(tmp_path):
    _, (message,) = checked(tmp_path / "1", Glancing(1), AttentionCheck())
    assert message.startswith("NO REFERENCE  saliency at epoch 1: 'moved_mass <= auto' needs one")
    check = AttentionCheck(require=["corner.share <= 0.3"])
    assert checked(tmp_path / "2", Glancing(1), check)[1] == []
    _, (message,) = checked(tmp_path / "3", Glancing(1, left=3.0), check)
    assert "fail  corner.share" in message


def test_a_requirement_on_a_region_without_a_mask_is_refused_before_training(tmp_path):
    module = Glancing(1)
    check = AttentionCheck(require=["object.share >= 0.5"])
    with pytest.raises(
        ValueError, match="needs a mask of the region 'object'; the probe has masks"
    ):
        fit(tmp_path, watch(check=check), module=module)
    assert module.trainer.global_step == 0
    assert not (tmp_path / "saliency").exists()


def test_a_reference_of_another_probe_cannot_be_compared(attention, tmp_path):
    other = ProbeBatch.from_dataset(Shapes(24, augment=False), count=2)
    with pytest.warns(SaliencyWarning, match="NOT COMPARABLE .* their probes differ"):
        fit(
            tmp_path,
            watch(probe=other, check=AttentionCheck(str(attention))),
            module=Glancing(9),
        )


def test_an_unlabelled_probe_measures_the_classes_of_the_reference(tmp_path):
    plain = ProbeBatch(images().images)
    for seed in range(3):
        fit(
            tmp_path / str(seed),
            watch(probe=plain, targets="all"),
            module=Glancing(seed),
            max_epochs=1,
        )
    reference = Reference.from_runs([tmp_path / str(seed) for seed in range(3)])
    module = Glancing(9)
    with torch.no_grad():
        module.weight *= -1  # other classes are predicted, from the same pixels
    fit(
        tmp_path / "new",
        watch(probe=plain, targets="all", check=AttentionCheck(reference, on_fail="raise")),
        module=module,
        max_epochs=1,
    )
    last = open_run(tmp_path / "new").last()
    assert torch.equal(last.measured.classes, reference.classes)


def test_what_is_no_check_is_refused():
    with pytest.raises(TypeError, match=r"`check` must be an AttentionCheck or None, got str\. W"):
        watch(check="attention")


def test_a_check_on_guided_backprop_is_warned_of():
    with pytest.warns(SaliencyWarning, match="a check on 'guided_backprop' misses a lot"):
        AttentionCheck(rule="guided_backprop")


def test_another_rule_is_measured_where_the_check_says_so(tmp_path):
    with pytest.warns(SaliencyWarning):
        check = AttentionCheck(rule="deconvnet", reduce="abs_sum", require=["corner.share<=1"])
    fit(tmp_path, watch(check=check), max_epochs=1)
    info = open_run(tmp_path).info
    assert (info.rule, info.reduce) == ("deconvnet", "abs_sum")


def test_run_json_reads_well(tmp_path):
    fit(tmp_path, watch(), max_epochs=1)
    told = json.loads((tmp_path / "saliency" / "run.json").read_text())
    assert list(told)[:3] == ["schema", "name", "fingerprint"]


def test_another_trainer_that_tests_into_the_folder_leaves_what_is_there(tmp_path):
    """With a fixed version, as in CI, the steps of the second trainer begin at 0 again."""
    module = Touchy()
    fit(tmp_path, watch(), module=module, max_epochs=1)
    trainer = quiet_trainer(tmp_path, watch())
    trainer.validate(module, loader(16), verbose=False)
    run = open_run(tmp_path)
    captions = [run.observation(step).caption for step in run.steps()]
    assert captions == ["untrained", "epoch 0", "validated"]


def test_another_probe_is_not_recorded_among_the_first(tmp_path):
    module = Touchy()
    fit(tmp_path, watch(), module=module, max_epochs=1)
    other = watch(probe=ProbeBatch.from_dataset(Shapes(24, augment=False), count=2))
    with pytest.warns(SaliencyWarning, match="holds the record of a run of another probe or rule"):
        quiet_trainer(tmp_path, other).validate(module, loader(16), verbose=False)
    run = open_run(tmp_path)
    assert run.steps() == [0, 4]
    assert run.last().caption == "epoch 0"


def test_a_logger_that_fails_does_not_cost_the_verdict(attention, tmp_path, monkeypatch):
    from lightning_saliency.callback.loggers import PictureLog

    def gone(*args: Any) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(PictureLog, "add", gone)
    check = AttentionCheck(str(attention), on_fail="raise")
    callback = watch(check=check, rule="gradient", on_error="warn")
    with pytest.raises(SaliencyError, match="FAIL  saliency at epoch 1"):
        fit(tmp_path, callback, module=Glancing(9, left=3.0))


def test_a_failure_says_where_the_picture_is_and_how_a_change_is_accepted(attention, tmp_path):
    _, (message,) = checked(tmp_path, Glancing(9, left=3.0), AttentionCheck(str(attention)))
    assert "Pictures: logged as saliency_attention/difference" in message
    assert f"approve {tmp_path / 'saliency'} --reference {attention} --reason" in message
