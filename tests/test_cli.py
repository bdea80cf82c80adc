"""LightningCLI: the callback, its probe and every parameter from a file."""

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
from conftest import EXAMPLES
from PIL import Image
from pytorch_lightning.cli import LightningCLI
from torch.utils.data import TensorDataset
from training import loader, make_module, one_image, seen, steps

from lightning_saliency import ProbeBatch

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos of each of two classes, and masks beside them."""
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


def command(folder: Path, told: dict[str, Any], namespace: Any = pl, *more: str) -> Any:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(told))
    return importlib.import_module(f"{namespace.__name__}.cli").LightningCLI(
        type(make_module(namespace)),
        run=False,
        save_config_callback=None,
        args=[f"--config={path}", *more],
    )


def probes(folder: Path) -> dict[str, tuple[dict[str, Any], ProbeBatch]]:
    """What a file says, and the probe that it means."""
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
    told, expected = probes(photos)[kind]
    built = command(photos, config(photos, told, namespace), namespace)
    (observer,) = built.trainer.callbacks
    built.trainer.fit(built.model, loader(8), loader(16))
    assert observer.probe.fingerprint == expected.fingerprint
    assert observer.probe.names == expected.names
    assert [caption for caption, _ in seen(observer)] == ["untrained", "epoch 0"]


@pytest.mark.parametrize("kind", ["folder", "files", "saved", "dataset", "none"])
def test_a_printed_configuration_makes_the_same_callback(kind, photos, capsys):
    told, expected = probes(photos)[kind]
    with pytest.raises(SystemExit):
        command(photos, config(photos, told), pl, "--print_config")
    printed = capsys.readouterr().out
    again = command(photos, yaml.safe_load(printed))
    (observer,) = again.trainer.callbacks
    if kind != "none":
        assert observer.probe.fingerprint == expected.fingerprint
    assert observer.options.targets == "predicted"
    with pytest.raises(SystemExit):
        command(photos, yaml.safe_load(printed), pl, "--print_config")
    assert capsys.readouterr().out == printed


def test_the_example_runs_from_its_file(fit_digits, digits, tmp_path, monkeypatch):
    def read_before() -> TensorDataset:
        return digits

    monkeypatch.setattr(fit_digits, "digits", read_before)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    module = importlib.import_module("digits_cli")
    built = LightningCLI(
        module.DigitNet,
        module.DigitData,
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
