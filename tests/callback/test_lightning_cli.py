"""LightningCLI builds the callback, its probe and every parameter from a file."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as new_namespace
import pytest
import pytorch_lightning as pl
import torch
import yaml
from paths import EXAMPLES
from PIL import Image
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import TensorDataset
from training import fit, loader, make_module, one_image, seen, steps

from lightning_saliency import AttentionCheck, ProbeBatch, Reference, SaliencyCallback
from lightning_saliency.check.requirements import DEFAULT
from lightning_saliency.record.run import open_run

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos of each of two classes, with masks next to them."""
    generator = torch.Generator().manual_seed(0)
    for kind in ("cat", "dog"):
        for number in range(2):
            pixels = torch.randint(256, (20, 20, 3), generator=generator, dtype=torch.uint8)
            for folder, image in (("photos", pixels), ("masks", pixels[..., 0] // 128 * 255)):
                path = tmp_path / folder / kind / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.numpy()).save(path)
    return tmp_path


def config(folder: Path, probe: Any, namespace: Any = pl) -> dict[str, Any]:
    path = "lightning_saliency." + ("lightning." if namespace is not pl else "")
    ours = {"probe": probe, "targets": "predicted", "tile_size": 24}
    return {
        "trainer": {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "default_root_dir": str(folder),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": [{"class_path": path + "SaliencyCallback", "init_args": ours}],
        }
    }


def command(folder: Path, settings: dict[str, Any], namespace: Any = pl, *more: str) -> Any:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return importlib.import_module(f"{namespace.__name__}.cli").LightningCLI(
        type(make_module(namespace)),
        run=False,
        save_config_callback=None,
        args=[f"--config={path}", *more],
    )


def probes(folder: Path) -> dict[str, tuple[dict[str, Any], ProbeBatch]]:
    """Pairs of what a file says of a probe and the probe that it means, by name."""
    files = [str(folder / "photos" / "cat" / name) for name in ("0.png", "1.png")]
    one_image().save(folder / "probe.safetensors")
    data = sys.modules["matrix"].Shapes(16, augment=False)
    own = "lightning_saliency.ProbeBatch."
    return {
        "folder": (
            {
                "class_path": own + "from_folder",
                "init_args": {
                    "root": str(folder / "photos"),
                    "masks": str(folder / "masks"),
                    "size": 12,
                    "per_class": 1,
                },
            },
            ProbeBatch.from_folder(folder / "photos", 12, per_class=1, masks=folder / "masks"),
        ),
        "files": (
            {
                "class_path": own + "from_files",
                "init_args": {"paths": files, "size": 12, "labels": [0, 1], "names": ["a", "b"]},
            },
            ProbeBatch.from_files(files, 12, labels=[0, 1], names=["a", "b"]),
        ),
        "saved": (
            {
                "class_path": own + "load",
                "init_args": {"path": str(folder / "probe.safetensors")},
            },
            one_image(),
        ),
        "dataset": (
            {
                "class_path": own + "from_dataset",
                "init_args": {
                    "dataset": {
                        "class_path": "matrix.Shapes",
                        "init_args": {"count": 16, "augment": False},
                    },
                    "indices": [5, 2],
                },
                "dict_kwargs": {"class_names": ["a", "b", "c", "d"]},
            },
            ProbeBatch.from_dataset(data, indices=[5, 2], class_names=["a", "b", "c", "d"]),
        ),
        "none": (None, ProbeBatch.from_dataset(data, per_class=8, count=8)),
    }


@pytest.mark.parametrize("namespace", [pl, new_namespace], ids=["pytorch_lightning", "lightning"])
@pytest.mark.parametrize("kind", ["folder", "files", "saved", "dataset", "none"])
def test_a_probe_from_a_file(kind, namespace, photos):
    settings, expected = probes(photos)[kind]
    built = command(photos, config(photos, settings, namespace), namespace)
    (observer,) = built.trainer.callbacks
    built.trainer.fit(built.model, loader(8), loader(16))
    assert observer.probe.fingerprint == expected.fingerprint
    assert observer.probe.names == expected.names
    assert [caption for caption, _ in seen(observer)] == ["untrained", "epoch 0"]


@pytest.mark.parametrize("kind", ["folder", "files", "saved", "dataset", "none"])
def test_a_printed_configuration_makes_the_same_callback(kind, photos, capsys):
    settings, expected = probes(photos)[kind]
    with pytest.raises(SystemExit):
        command(photos, config(photos, settings), pl, "--print_config")
    printed = capsys.readouterr().out
    again = command(photos, yaml.safe_load(printed))
    (observer,) = again.trainer.callbacks
    if kind != "none":
        assert observer.probe.fingerprint == expected.fingerprint
    assert observer.options.targets == "predicted"
    with pytest.raises(SystemExit):
        command(photos, yaml.safe_load(printed), pl, "--print_config")
    assert capsys.readouterr().out == printed


# --- checks and records


@pytest.fixture
def checked(photos: Path) -> dict[str, Any]:
    """The text of a file that configures a callback with a check."""
    fit(photos / "good", SaliencyCallback(masked(), tile_size=24), max_epochs=1)
    Reference.from_runs([photos / "good"]).save(photos / "attention")
    masked().save(photos / "masked.safetensors")
    load = "lightning_saliency.ProbeBatch.load"
    return {
        "probe": {
            "class_path": load,
            "init_args": {"path": str(photos / "masked.safetensors")},
        },
        "check": {
            "class_path": "lightning_saliency.AttentionCheck",
            "init_args": {
                "reference": str(photos / "attention"),
                "require": ["left.share >= 0.2", "left.share <= 0.9"],
                "start_after": "val_loss<9",
                "patience": 2,
                "on_fail": "stop",
            },
        },
        "keep": 2,
        "record": True,
    }


def masked() -> ProbeBatch:
    left = torch.zeros(1, 12, 12, dtype=torch.bool)
    left[..., :6] = True
    return one_image(masks={"left": left})


def configured(folder: Path, ours: dict[str, Any], namespace: Any) -> dict[str, Any]:
    settings = config(folder, ours["probe"], namespace)
    settings["trainer"]["callbacks"][0]["init_args"] |= ours
    return settings


def assert_as_configured(check: Any, good: Path) -> None:
    assert isinstance(check, AttentionCheck)
    assert check.reference.info == Reference.load(good).info
    own = ["left.share >= 0.2", "left.share <= 0.9"]
    assert [r.text for r in check.requirements] == [*DEFAULT, *own]
    assert (str(check.start_after), check.patience, check.on_fail) == ("val_loss<9", 2, "stop")


@pytest.mark.parametrize("namespace", [pl, new_namespace], ids=["pytorch_lightning", "lightning"])
def test_a_check_from_a_file(namespace, checked, photos):
    built = command(photos, configured(photos, checked, namespace), namespace)
    (observer,) = built.trainer.callbacks
    assert_as_configured(observer.check, photos / "attention")
    built.trainer.fit_loop.max_epochs = 3
    built.trainer.fit(built.model, loader(8), loader(16))
    (run,) = (photos / "saliency_logs").glob("*")
    assert open_run(run).steps() == [0, 3]


@pytest.mark.parametrize("namespace", [pl, new_namespace], ids=["pytorch_lightning", "lightning"])
def test_a_printed_configuration_makes_the_same_check(namespace, checked, photos, capsys):
    settings = configured(photos, checked | {"record": False}, namespace)
    with pytest.raises(SystemExit):
        command(photos, settings, namespace, "--print_config")
    printed = capsys.readouterr().out
    again = command(photos, yaml.safe_load(printed), namespace)
    (observer,) = again.trainer.callbacks
    assert_as_configured(observer.check, photos / "attention")
    assert (observer.options.record, observer.options.keep) == (False, 2)
    with pytest.raises(SystemExit):
        command(photos, yaml.safe_load(printed), namespace, "--print_config")
    assert capsys.readouterr().out == printed


def test_a_check_of_numbers_alone_needs_no_reference(checked, photos):
    del checked["check"]["init_args"]["reference"]
    built = command(photos, configured(photos, checked, pl))
    (observer,) = built.trainer.callbacks
    assert observer.check.reference is None
    assert len(observer.check.requirements) == 2


@pytest.fixture
def example(fit_digits, digits, monkeypatch) -> Any:
    """`digits_cli.py`, with digits that were read before."""

    def read_before() -> TensorDataset:
        return digits

    monkeypatch.setattr(fit_digits, "digits", read_before)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module("digits_cli")


def test_the_check_in_the_example_can_be_taken_in(example, tmp_path):
    """Its lines are comments, because there is no reference until there are good runs."""
    lines = (EXAMPLES / "config.yaml").read_text().splitlines()
    first = next(i for i, line in enumerate(lines) if line.strip() == "# check:")
    last = next(i for i in range(first, len(lines)) if not lines[i].strip().startswith("#"))
    lines[first:last] = [line.replace("# ", "", 1) for line in lines[first:last]]
    settings = yaml.safe_load("\n".join(lines))
    check = settings["trainer"]["callbacks"][0]["init_args"]["check"]["init_args"]
    fit(tmp_path / "good", SaliencyCallback(masked(), tile_size=24), max_epochs=1)
    Reference.from_runs([tmp_path / "good"]).save(tmp_path / "attention")
    check["reference"] = str(tmp_path / check["reference"])
    settings["trainer"]["accelerator"] = "cpu"
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    built = LightningCLI(
        example.DigitNet,
        example.DigitData,
        run=False,
        save_config_callback=None,
        args=[f"--config={path}"],
    )
    (observer,) = (c for c in built.trainer.callbacks if hasattr(c, "probe"))
    assert str(observer.check.start_after) == "val_acc>0.9"
    assert observer.check.on_fail == "stop"


def test_the_example_runs_from_its_file(example, tmp_path):
    built = LightningCLI(
        example.DigitNet,
        example.DigitData,
        run=False,
        save_config_callback=None,
        args=[
            f"--config={EXAMPLES / 'config.yaml'}",
            "--trainer.max_epochs=3",
            "--trainer.limit_train_batches=2",
            f"--trainer.logger.save_dir={tmp_path}",
            "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false",
            f"--trainer.default_root_dir={tmp_path}",
        ],
    )
    (observer,) = (c for c in built.trainer.callbacks if hasattr(c, "probe"))
    assert observer.probe.labels.tolist() == list(range(10))
    assert (observer.probe.mean, observer.probe.std) == ((0.1307,), (0.3081,))
    built.trainer.fit(built.model, built.datamodule)
    assert [caption for caption, _ in seen(observer)] == ["untrained", "epoch 1", "epoch 2"]
    (run,) = (tmp_path / "digits").iterdir()
    assert steps(run) == [0, 3, 5]
