"""Files of version 0.1.0 are still read: a record, references, a probe, a checkpoint."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from paths import FIXTURES
from safetensors import safe_open
from torch import Tensor
from training import fit, loader, make_module, pictures, seen

from lightning_saliency import AttentionCheck, ProbeBatch, Reference, SaliencyCallback
from lightning_saliency.cli import main
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.record.observation import Snapshot
from lightning_saliency.record.run import open_run

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

OLD = FIXTURES / "v0_1"
CHECKPOINT = OLD / "run.ckpt"
OF_THE_FIRST_RUN = [("untrained", 0), ("epoch 0", 4), ("epoch 1", 9)]
# A tensor of an observation's file: where an `Observation` has it.
PLACES = {
    "targets": "snapshot.targets",
    "probabilities": "snapshot.probabilities",
    "maps": "snapshot.maps.guided_backprop",
    "peaks": "snapshot.peaks.guided_backprop",
    "measured.classes": "measured.classes",
    "measured.chances": "measured.probabilities",
    "measured.maps": "measured.maps",
    "measured.profiles": "measured.profiles",
    "share.corner": "measured.shares.corner",
}


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and the tensors of a file, read without this package."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["about"]), {n: file.get_tensor(n) for n in file.keys()}  # noqa: SIM118


def find(value: Any, place: str) -> Any:
    for name in place.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


def as_json(value: Any) -> Any:
    """``value`` as JSON would give it back."""
    return json.loads(json.dumps(value))


def test_every_fact_about_an_old_run_is_read():
    info, written = open_run(OLD / "record").info, json.loads((OLD / "record/run.json").read_text())
    assert written.pop("schema") == 1
    assert {name: as_json(getattr(info, name)) for name in written} == written


@pytest.mark.parametrize("step", [step for _, step in OF_THE_FIRST_RUN])
def test_every_number_of_an_old_observation_is_read(step):
    run = open_run(OLD / "record")
    assert run.steps() == [0, 4, 9]
    observation = run.observation(step)
    about, tensors = read(OLD / f"record/observation-{step:010d}.safetensors")
    assert tensors.keys() == PLACES.keys()
    for name, place in PLACES.items():
        assert torch.equal(find(observation, place), tensors[name])
    for name in ("step", "epoch", "caption", "fingerprint", "measures"):
        assert getattr(observation, name) == about[name]
    assert observation.snapshot.rules == (about["rule"],)


def test_old_thumbnails_are_read():
    _, tensors = read(OLD / "record/photos.safetensors")
    assert torch.equal(open_run(OLD / "record").photos(), tensors["photos"])


@pytest.mark.parametrize("name", ["reference", "reference_approved"])
def test_everything_in_an_old_reference_is_read(name):
    reference = Reference.load(OLD / name)
    written = json.loads((OLD / name / "reference.json").read_text())
    assert [r.text for r in reference.requirements] == written["requirements"]
    assert (reference.reason, reference.created) == (written["reason"], written["created"])
    for kept, runs in ((reference.runs, written["runs"]), (reference.history, written["history"])):
        assert [
            {n: as_json(getattr(k, n)) for n in r} for k, r in zip(kept, runs, strict=True)
        ] == runs
    probe = written["probe"]
    assert {name: as_json(getattr(reference.info, name)) for name in probe} == probe
    _, tensors = read(OLD / name / "reference.safetensors")
    assert tensors.keys() == {"classes", "profiles", "maps", "photos", "share.corner"}
    assert torch.equal(reference.shares["corner"], tensors.pop("share.corner"))
    # Version 0.1 looked at the gradient in a single way.
    assert torch.equal(reference.views[:, :, 0], tensors.pop("profiles"))
    for attribute, tensor in tensors.items():
        assert torch.equal(getattr(reference, attribute).nan_to_num(), tensor.nan_to_num())


def test_an_approved_reference_still_knows_the_one_before():
    (earlier,) = Reference.load(OLD / "reference_approved").history
    first = Reference.load(OLD / "reference")
    assert (earlier.reason, earlier.created) == (first.reason, first.created)
    assert earlier.runs == len(first.runs) == 3


def test_an_old_record_is_shown(capsys):
    assert main(["show", str(OLD / "record")]) == 0
    printed = capsys.readouterr().out.splitlines()
    for caption, step in OF_THE_FIRST_RUN:
        _, tensors = read(OLD / f"record/observation-{step:010d}.safetensors")
        (row,) = [line for line in printed if line.startswith(caption)]
        means = [float(tensors[name].mean()) for name in ("measured.chances", "share.corner")]
        assert row.removeprefix(caption).split()[:3] == [str(step), *(f"{m:.3f}" for m in means)]


@pytest.mark.parametrize(
    ("name", "measured"),
    [
        pytest.param("reference", ["moved_mass", "corner.share"], id="of-three-runs"),
        pytest.param("reference_approved", ["moved_mass", "corner.share"], id="of-two-runs"),
    ],
)
def test_an_old_record_is_checked_against_an_old_reference(name, measured, tmp_path, capsys):
    record = shutil.copytree(OLD / "record", tmp_path / "record")  # a check may write a picture
    arguments = ["check", str(record), "--reference", str(OLD / name)]
    assert main([*arguments, "--json", str(tmp_path / "verdict.json")]) == 0
    assert "pass" in capsys.readouterr().out.lower()
    verdict = json.loads((tmp_path / "verdict.json").read_text())
    assert verdict["outcome"] == "pass"
    findings = {finding["measure"]: finding["value"] for finding in verdict["findings"]}
    assert list(findings) == measured
    _, ours = read(record / "observation-0000000009.safetensors")
    _, good = read(OLD / name / "reference.safetensors")
    assert findings["corner.share"] == pytest.approx(float(ours["share.corner"].mean()))
    mean = good["profiles"].mean(dim=(0, 1))
    moved = (ours["measured.profiles"].mean(dim=0) - mean).abs().sum() / 2
    assert findings["moved_mass"] == pytest.approx(float(moved))


def test_an_old_probe_is_the_probe_of_the_record():
    probe = ProbeBatch.load(OLD / "probe.safetensors")
    _, tensors = read(OLD / "probe.safetensors")
    assert torch.equal(probe.images, tensors["images"])
    assert torch.equal(probe.masks["corner"], tensors["mask:corner"])
    assert probe.labels.tolist() == [0, 1, 2, 3]
    fingerprint = json.loads((OLD / "record/run.json").read_text())["fingerprint"]
    assert probe.fingerprint == fingerprint


VALIDATION = loader(16)


def resume(
    folder: Path, *, val: Any = VALIDATION, **options: Any
) -> tuple[SaliencyCallback, list[str]]:
    """Train two more epochs from the checkpoint; return the callback, and what it warned of."""
    check = AttentionCheck(str(OLD / "reference"), start_after="val_loss<100", patience=3)
    probe = ProbeBatch.load(OLD / "probe.safetensors")
    ours = SaliencyCallback(probe, **{"tile_size": 16, "check": check, **options})
    pl.seed_everything(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(
            folder,
            ours,
            module=make_module(pl),
            val=val,
            validate=val is not None,
            max_epochs=4,
            ckpt_path=CHECKPOINT,
        )
    return ours, [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]


def test_an_old_checkpoint_is_read_without_trust():
    state = torch.load(CHECKPOINT, weights_only=True)
    assert state["epoch"] == 1
    assert "SaliencyCallback[saliency]" in state["callbacks"]


def test_a_run_goes_on_from_an_old_checkpoint(tmp_path):
    resumed, warned = resume(tmp_path)
    assert seen(resumed) == [*OF_THE_FIRST_RUN, ("epoch 2", 14), ("epoch 3", 19)]
    assert not [message for message in warned if "begin again" in message]
    assert open_run(tmp_path).steps() == [14, 19]
    before = torch.load(CHECKPOINT, weights_only=True)["callbacks"][resumed.state_key]
    after = resumed.state_dict()
    assert torch.equal(after["first_profile"], before["first_profile"])
    for then, now in zip(before["history"]["kept"], after["history"]["kept"], strict=False):
        assert torch.equal(now["maps"]["guided_backprop"], then["maps"])
        assert torch.equal(now["peaks"]["guided_backprop"], then["peaks"])


def test_the_film_strips_of_the_resumed_run_have_the_old_pictures_too(tmp_path, monkeypatch):
    filmstrip, columns = MosaicRenderer.filmstrip, []

    def noted(self: MosaicRenderer, snapshots: list[Snapshot], image: int) -> Any:
        columns.append([snapshot.caption for snapshot in snapshots])
        return filmstrip(self, snapshots, image)

    monkeypatch.setattr(MosaicRenderer, "filmstrip", noted)
    resume(tmp_path)
    assert columns == 4 * [["untrained", "epoch 0", "epoch 1", "epoch 2", "epoch 3"]]
    strips = [tag for tag in pictures(tmp_path) if tag.startswith("saliency_filmstrip/")]
    assert len(strips) == 4


def test_the_gate_of_an_old_checkpoint_stays_open(tmp_path, caplog):
    """`start_after` held in the first run, so it need not hold again: nothing is validated here."""
    with caplog.at_level("INFO", "pytorch_lightning"):
        resumed, warned = resume(tmp_path, val=None)
    assert not warned
    verdicts = [message for message in caplog.messages if "saliency at epoch" in message]
    assert ["epoch 2" in verdicts[0], "epoch 3" in verdicts[1]] == [True, True]
    assert all(verdict.startswith("PASS") for verdict in verdicts)
    assert resumed.state_dict()["gate"] == {
        "start_after": "val_loss<100",
        "begun": True,
        "failed": 0,
    }


def test_other_rules_begin_again_and_say_so(tmp_path):
    resumed, warned = resume(tmp_path, rule=("guided_backprop", "gradient"))
    (message,) = [message for message in warned if "begin again" in message]
    assert "had `rule='guided_backprop'`" in message
    assert "begin again with `rule=['guided_backprop', 'gradient']`" in message
    assert seen(resumed) == [("epoch 2", 14), ("epoch 3", 19)]
