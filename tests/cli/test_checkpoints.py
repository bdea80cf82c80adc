"""Models from checkpoints: references from them, and verdicts that they confirm."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import pytest
import pytorch_lightning as pl
import torch
from commandline import run
from matrix import Shapes
from torch import Tensor, nn
from torch.utils.data import DataLoader
from training import quiet_trainer

from lightning_saliency import AttentionCheck, ProbeBatch, Reference, SaliencyCallback
from lightning_saliency.cli.imported import import_object
from lightning_saliency.record.run import open_run

pytestmark = pytest.mark.usefixtures("one_thread")

NETS = '''
import pathlib

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import nn


class Net(pl.LightningModule):
    def __init__(self, width=4):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.dropout, self.head = nn.Dropout(0.2), nn.Linear(width * 25, 4)

    def forward(self, images):
        x = F.relu(self.norm(self.conv(images)), inplace=True)
        return self.head(self.dropout(F.max_pool2d(x, 2).flatten(1)))

    def training_step(self, batch, _):
        loss = F.cross_entropy(self(batch[0]), batch[1])
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Wide(Net):
    """Does not save that it is wide."""

    def __init__(self, width):
        super().__init__(width)


class Saved(Net):
    def __init__(self, width, place=None):
        super().__init__(width)
        self.save_hyperparameters()


class Second(Net):
    """Takes something other than images."""

    def forward(self, batch):
        return super().forward(batch["pixels"])


class Old(Net):
    """Loads checkpoints as Lightning did before 2.6: whatever they hold is unpickled."""

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path, map_location=None, **arguments):
        content = torch.load(checkpoint_path, map_location=map_location, weights_only=False)
        model = cls(**arguments)
        model.load_state_dict(content["state_dict"])
        return model


def from_pixels(model, images):
    return model({"pixels": images})


class Plain(nn.Linear):
    pass


number = 3
'''


class Tagged(Shapes):
    """The class is also the column of a bright line at the lower edge."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        image[:, 10:, 3 * label : 3 * label + 3] += 6
        return image, label


def train(
    nets: ModuleType,
    name: str,
    seed: int,
    *callbacks: pl.Callback,
    kind: str = "Net",
    data: type[Shapes] = Shapes,
    epochs: int = 2,
    **arguments: object,
) -> Path:
    """Train a small network, and keep a checkpoint of each epoch."""
    pl.seed_everything(seed, verbose=False)
    module = getattr(nets, kind)(**arguments)
    kept = pl.callbacks.ModelCheckpoint(dirpath=name, save_top_k=-1, filename="{epoch}")
    trainer = quiet_trainer(
        Path(name), *callbacks, kept, max_epochs=epochs, enable_checkpointing=True
    )
    trainer.fit(module, DataLoader(data(64, augment=False), batch_size=8))
    return Path(name, f"epoch={epochs - 1}.ckpt")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good models trained with the callback and without it, and a run that looks at the line."""
    folder = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        Path("nets_of_tests.py").write_text(NETS)
        nets = sys.modules[import_object("--model", "nets_of_tests:Net").__module__]
        probe = ProbeBatch.from_dataset(Shapes(32, augment=False), per_class=2)
        probe.save("probe.safetensors")
        for seed in range(3):
            train(nets, f"plain_{seed}", seed)
            train(nets, f"run_{seed}", seed, SaliencyCallback(probe))
        Reference.from_runs([f"run_{seed}" for seed in range(3)], STRICT).save("attention")
        check = AttentionCheck("attention", on_fail="warn")
        with pytest.warns(UserWarning, match="FAIL"):
            train(nets, "bad", 7, SaliencyCallback(probe, check=check), data=Tagged)
        train(nets, "saved", 1, kind="Saved", epochs=1, width=5)
        train(nets, "with_path", 1, kind="Saved", epochs=1, width=5, place=Path("x"))
        train(nets, "wide", 1, kind="Wide", epochs=1, width=6)
        torch.save(nets.Net().state_dict(), "weights.pt")
        Path("text.ckpt").write_text("A checkpoint, honestly.")
        Path("broken.py").write_text("import sys\nsys.exit(3)\n")
        Path("needs.py").write_text("import surely_not_installed\n")
    return folder


# Even a good run hardly moves as little as this, so each check has something to confirm.
STRICT = ["moved_mass <= 0.001"]


@pytest.fixture
def here(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    return place


def checkpoints(name: str = "plain", epoch: int = 1) -> list[str]:
    return [w for seed in range(3) for w in ("--ckpt", f"{name}_{seed}/epoch={epoch}.ckpt")]


NET = ("--model", "nets_of_tests:Net")
PROBE = ("--probe", "probe.safetensors")


def same(first: Reference, second: Reference) -> None:
    """Compare all that is measured, bit for bit."""
    for field in fields(Reference):
        one, other = getattr(first, field.name), getattr(second, field.name)
        if isinstance(one, Tensor):
            assert torch.equal(one.nan_to_num(-1), other.nan_to_num(-1)), field.name
    assert first.shares.keys() == second.shares.keys()
    for region, shares in first.shares.items():
        assert torch.equal(shares, second.shares[region])
    assert first.requirements == second.requirements
    words = {"seed": None, "commit": None, "started": "", "finished": False, "versions": {}}
    assert replace(first.info, **words) == replace(second.info, **words)


# --- references


def test_a_reference_of_checkpoints_is_that_of_recorded_runs(here, tmp_path):
    """The real command, in a process of its own that finds the class in the current folder."""
    output = tmp_path / "made"
    command = [sys.executable, "-m", "lightning_saliency", "reference", *NET, *checkpoints()]
    done = subprocess.run(
        [*command, *PROBE, "-o", str(output), "--require", STRICT[0], "--reason", "they are good"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output}: 3 models, 8 images\n  requires  {STRICT[0]}\n"
    made = Reference.load(output)
    same(made, Reference.load("attention"))
    assert made.reason == "they are good"
    assert made.runs[1].caption == "plain_1/epoch=1.ckpt"
    assert made.runs[1].seed is None


def test_checkpoints_of_runs_with_the_callback_need_no_probe(here, tmp_path, capsys):
    output = str(tmp_path / "made")
    arguments = ["reference", *NET, *checkpoints("run"), "-o", output, "--require", STRICT[0]]
    assert run(capsys, *arguments)[0] == 0
    same(Reference.load(output), Reference.load("attention"))


def test_a_reference_is_replaced_by_one_of_checkpoints(here, tmp_path, capsys):
    output = str(tmp_path / "made")
    assert run(capsys, "reference", "run_0", "-o", output)[0] == 0
    code, told, _ = run(
        capsys, "approve", *NET, *checkpoints()[:4], *PROBE, "--reference", output, "--reason", "x"
    )
    assert code == 0
    assert "2 models, 8 images" in told
    assert "Fewer than three models have no usable spread" in told
    assert Reference.load(output).history[0].runs == 1


def test_one_checkpoint_twice_is_refused(here, tmp_path, capsys):
    output = str(tmp_path / "made")
    code, _, told = run(capsys, "reference", *NET, *checkpoints()[:2] * 2, *PROBE, "-o", output)
    assert code == 2
    assert "plain_0/epoch=1.ckpt and plain_0/epoch=1.ckpt hold identical maps" in told


def test_arguments_of_the_class(here, tmp_path, capsys):
    """From the checkpoint if it holds them, else from the command line."""
    for number, (kind, path, more) in enumerate(
        [
            ("Saved", "saved/epoch=0.ckpt", []),
            ("Wide", "wide/epoch=0.ckpt", ["--model-arg", "width=6"]),
            ("Second", "plain_0/epoch=1.ckpt", ["--forward", "nets_of_tests:from_pixels"]),
        ]
    ):
        arguments = ["--model", f"nets_of_tests:{kind}", "--ckpt", path, *more, *PROBE]
        code, _, told = run(capsys, "reference", *arguments, "-o", str(tmp_path / str(number)))
        assert code == 0, told


# --- confirmation


def test_the_command_confirms_as_the_callback_does(here, capsys):
    """The probe comes from the checkpoint, and the numbers are those of the run's own check."""
    path = Path("bad/saliency/verdict.json")
    in_run = json.loads(path.read_text())
    assert in_run["occluded"] is not None
    path.unlink()
    bare = ["check", "bad", "--reference", "attention"]
    assert "Hiding it" not in run(capsys, *bare)[1]
    code, told, err = run(capsys, *bare, *NET, "--ckpt", "bad/epoch=1.ckpt")
    assert (code, err) == (1, "")
    before, after = in_run["occluded"]["before"], in_run["occluded"]["after"]
    verb = "lowers" if after < before else "does not lower"
    line = (
        f"Hiding it {verb} the probability of the label: {before:.3f} with it, {after:.3f} without"
    )
    assert line in told
    assert "Not confirmed" not in told
    assert json.loads(path.read_text())["occluded"] == in_run["occluded"]


@pytest.mark.parametrize("path", ["bad/epoch=0.ckpt", "plain_0/epoch=1.ckpt"])
def test_another_model_confirms_nothing(here, capsys, path):
    command = ["check", "bad", "--reference", "attention", *NET, "--ckpt", path, *PROBE]
    code, told, _ = run(capsys, *command, "--junit", "junit.xml")
    assert code == 1
    epoch = path[-6]
    assert re.search(
        rf"Not confirmed: {path} saved at epoch {epoch} is not the model that the run has recorded "
        r"at epoch 1: (it gives the label of 'image . · class .' a probability of|.*elsewhere)",
        told,
    )
    assert "Hiding it" not in told
    assert "Not confirmed" in Path("junit.xml").read_text()


def test_a_model_that_fails_does_not_hide_the_verdict(here, capsys):
    model = ("--model", "nets_of_tests:Second", "--ckpt", "bad/epoch=1.ckpt")
    code, told, _ = run(capsys, "check", "bad", "--reference", "attention", *model)
    assert code == 1
    assert "Not confirmed: SaliencyError: trying Second on images of the probe" in told


def test_a_run_that_passes_needs_no_confirmation(here, tmp_path, capsys):
    Reference.from_runs(["run_0", "run_1", "run_2"], ["moved_mass <= 1"]).save(tmp_path / "lax")
    command = ["check", "run_0", "--reference", str(tmp_path / "lax"), *NET]
    code, told, _ = run(capsys, *command, "--ckpt", "run_0/epoch=1.ckpt")
    assert code == 0
    assert "onfirmed" not in told
    # What is wrong on the command line does not wait for a failure.
    assert run(capsys, *command, "--ckpt", "nowhere.ckpt")[0] == 2


def test_the_probe_must_be_that_of_the_run(here, tmp_path, capsys):
    probe = ProbeBatch.load("probe.safetensors")
    other = str(tmp_path / "other.safetensors")
    ProbeBatch(probe.images + 1, probe.labels).save(other)
    command = ["check", "bad", "--reference", "attention", *NET]
    code, out, told = run(capsys, *command, "--ckpt", "bad/epoch=1.ckpt", "--probe", other)
    assert (code, out) == (2, "")
    assert "other.safetensors is not the probe of bad: its images, labels or masks differ" in told
    code, out, told = run(capsys, *command, "--ckpt", "plain_0/epoch=1.ckpt")
    assert (code, out) == (2, "")
    assert "plain_0/epoch=1.ckpt does not hold the probe of bad" in told
    assert "`callback.probe.save('probe.safetensors')`, and pass it as `--probe`" in told
    assert open_run("bad").info.fingerprint == probe.fingerprint


# --- what is refused


class Evil:
    def __reduce__(self) -> object:
        return os.mkdir, ("hacked",)


def test_nothing_in_a_checkpoint_is_executed(here, tmp_path, capsys):
    good = torch.load("plain_0/epoch=1.ckpt", weights_only=True)
    torch.save({**good, "hyper_parameters": {"width": Evil()}}, "evil.ckpt")
    code, _, told = run(
        capsys, "reference", *NET, "--ckpt", "evil.ckpt", *PROBE, "-o", str(tmp_path / "made")
    )
    assert code == 2
    assert re.search(r"evil.ckpt holds a \w+\.mkdir, and only tensors and plain values", told)
    torch.save({**good, "hyper_parameters": {"_instantiator": "os.system", "x": "ls"}}, "evil.ckpt")
    code, _, told = run(
        capsys, "reference", *NET, "--ckpt", "evil.ckpt", *PROBE, "-o", str(tmp_path / "made")
    )
    assert code == 2
    assert "evil.ckpt asks for a call of 'os.system', which is refused" in told
    assert not Path("hacked").exists()


def test_an_older_lightning_is_not_given_the_file_itself(here, tmp_path, capsys, monkeypatch):
    """It would unpickle a file that was replaced after it had been checked."""
    loaded = []
    load = sys.modules["nets_of_tests"].Old.load_from_checkpoint

    def noted(cls, checkpoint_path, map_location=None, **arguments):
        loaded.append(type(checkpoint_path))
        return load(checkpoint_path, map_location, **arguments)

    monkeypatch.setattr(
        sys.modules["nets_of_tests"].Old, "load_from_checkpoint", classmethod(noted)
    )
    made = {}
    for name in ("Net", "Old"):
        model, made[name] = f"nets_of_tests:{name}", str(tmp_path / name)
        command = ["reference", "--model", model, *checkpoints(), *PROBE, "-o", made[name]]
        assert run(capsys, *command)[0] == 0
    same(Reference.load(made["Old"]), Reference.load(made["Net"]))
    assert loaded == [io.BytesIO] * 3


@pytest.mark.parametrize("kind", ["Net", "Old"])
def test_an_older_lightning_executes_nothing_either(here, tmp_path, capsys, kind):
    good = torch.load("plain_0/epoch=1.ckpt", weights_only=True)
    torch.save({**good, "hyper_parameters": {"width": Evil()}}, "evil.ckpt")
    command = ["reference", "--model", f"nets_of_tests:{kind}", "--ckpt", "evil.ckpt", *PROBE]
    assert run(capsys, *command, "-o", str(tmp_path / "made"))[0] == 2
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    ("model", "path", "message"),
    [
        ("nets_of_tests", "plain_0/epoch=1.ckpt", "must read like pkg.module:Name, got"),
        ("nets_of_tests.Net", "plain_0/epoch=1.ckpt", r"Did you mean nets_of_tests:Net\?"),
        ("./nets_of_tests.py:Net", "plain_0/epoch=1.ckpt", r"Did you mean nets_of_tests:Net\?"),
        ("nets_of_tests:Nett", "plain_0/epoch=1.ckpt", "has no 'Nett'; it defines Net, Wide"),
        ("nowhere:Net", "plain_0/epoch=1.ckpt", "there is no module 'nowhere' in /"),
        ("nets_of_tests.deeper:Net", "plain_0/epoch=1.ckpt", "importing 'nets.*' failed|no module"),
        ("needs:Net", "plain_0/epoch=1.ckpt", "importing 'needs' failed: ModuleNotFoundError: No"),
        ("broken:Net", "plain_0/epoch=1.ckpt", "importing 'broken' failed: SystemExit: 3"),
        ("nets_of_tests:number", "plain_0/epoch=1.ckpt", "is not the class of a model"),
        ("nets_of_tests:Plain", "plain_0/epoch=1.ckpt", "no `load_from_checkpoint`.*From|from Py"),
        ("nets_of_tests:Net", "nowhere.ckpt", "there is no checkpoint nowhere.ckpt"),
        ("nets_of_tests:Net", "plain_0", "is a folder.*consolidate_checkpoint"),
        (
            "nets_of_tests:Net",
            "text.ckpt",
            "or it is damaged. Save it again",
        ),
        ("nets_of_tests:Net", "weights.pt", "holds no `state_dict`"),
        ("nets_of_tests:Net", "wide/epoch=0.ckpt", "size mismatch.*save_hyperparameters"),
        ("nets_of_tests:Wide", "wide/epoch=0.ckpt", "argument: 'width'.*save_hyper.*--model-arg"),
        ("nets_of_tests:Saved", "with_path/epoch=0.ckpt", r"Path, and only.*ignore=\[…\]"),
    ],
)
def test_what_cannot_be_loaded_is_reported_in_one_line(
    here, tmp_path, capsys, model, path, message
):
    arguments = ["--model", model, "--ckpt", path, *PROBE, "-o", str(tmp_path / "made")]
    code, out, told = run(capsys, "reference", *arguments)
    assert (code, out) == (2, ""), told
    assert re.match(rf"lightning-saliency: .*({message})", told)
    assert told.count("\n") == 1
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model-arg", "width"], "must read like name=value, got 'width'"),
        (["--model-arg", "depth=3"], "Net has no argument 'depth'; it has width"),
        (["--forward", "nets_of_tests:number"], "nets_of_tests:number is not a function"),
        (["--probe", "nowhere.safetensors"], "no probe at nowhere.safetensors"),
        (["--require", "object.share >= 0.5"], "mask of the region 'object'"),
    ],
)
def test_other_options_are_checked_too(here, tmp_path, capsys, more, message):
    command = ["reference", *NET, *checkpoints(), *PROBE, "-o", str(tmp_path / "made")]
    code, out, told = run(capsys, *command, *more)
    assert (code, out) == (2, "")
    assert message in told


def test_checkpoints_without_a_probe_need_one(here, tmp_path, capsys):
    code, _, told = run(capsys, "reference", *NET, *checkpoints(), "-o", str(tmp_path / "made"))
    assert code == 2
    assert "plain_0/epoch=1.ckpt holds no probe; pass the images to explain as `--probe" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reference", "run_0", *NET, "--ckpt", "x", "-o", "y"], "give either RUN"),
        (["reference", *NET, "-o", "y"], "--model and --ckpt must be given together"),
        (["check", "bad", "--reference", "attention", "--ckpt", "x"], "must be given together"),
        (["check", "bad", "--reference", "attention", *PROBE], "need --model and --ckpt"),
    ],
)
def test_options_that_do_not_go_together(here, capsys, arguments, message):
    code, out, told = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert message in told.splitlines()[-1]


def test_a_class_that_is_no_lightning_module_is_explained_from_python(here):
    """The remedy that the message names."""
    from lightning_saliency.testing import reference_from_models

    probe = ProbeBatch.load("probe.safetensors")
    models = [nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, 4)) for _ in range(3)]
    assert len(reference_from_models(models, probe).runs) == 3
