"""The folder and the names that the pages of the documentation take for granted."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from paths import FIXTURES
from PIL import Image
from torch.utils.data import DataLoader

from lightning_saliency import ProbeBatch
from lightning_saliency.check.reference import Reference

SCRIPT = FIXTURES / "newcomer/train.py"
GOOD = ("good-1", "good-2", "good-3")


def load_script() -> ModuleType:
    """Import the script as ``train``, which is what it is called in the folder."""
    spec = importlib.util.spec_from_file_location("train", SCRIPT)
    sys.modules["train"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def lay_out(folder: Path) -> None:
    """Fill the current folder: the script, runs, checkpoints, a reference, a probe and photos."""
    script = load_script()
    shutil.copy(SCRIPT, folder)
    for seed, version in enumerate((*GOOD, "new"), start=1):
        trainer = script.train(seed, version)
        trainer.save_checkpoint(folder / "logs" / version / "last.ckpt")
        trainer.save_checkpoint(folder / f"{seed}.ckpt")
    trainer.callbacks[0].probe.save(folder / "probe.safetensors")
    Reference.from_runs([f"logs/{name}" for name in GOOD]).save(folder / "attention")
    shutil.copytree("logs/new", "logs/run")
    shutil.copytree("logs/new", "lightning_logs/version_0")
    draw_photos(folder)


def draw_photos(folder: Path) -> None:
    """Two photos, and a folder of photos with masks."""
    pixels = np.random.default_rng(0).integers(0, 256, (300, 240, 3), dtype=np.uint8)
    mask = np.zeros((300, 240), np.uint8)
    mask[100:200, 80:160] = 255
    for name in ("cat.jpg", "cup.jpg", "photos/cat/1.jpg", "photos/cup/1.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    for name in ("masks/cat/1.png", "masks/cup/1.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(folder / name)


def names() -> dict[str, Any]:
    """What the code of a page finds: a trained model, its data, and a probe."""
    script = load_script()
    data = script.pets()
    model = script.Net.load_from_checkpoint("logs/new/last.ckpt")
    return {
        "model": model.cpu(),
        "val_data": data,
        "train_loader": DataLoader(data, batch_size=4, shuffle=True),
        "val_loader": DataLoader(data, batch_size=6),
        "images": data.tensors[0][:6],
        "labels": data.tensors[1][:6],
        "probe": ProbeBatch.load("probe.safetensors"),
        "torch": torch,
    }
