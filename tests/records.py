"""Runs as they would be recorded, made up: good ones, and ones that look elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.measures import profiles, share
from lightning_saliency.record import Measured, Observation, RunInfo
from lightning_saliency.recorder import Recorder

IMAGES, SIDE = 6, 16
CLASSES = ("cat", "dog", "cow")
FINGERPRINT = "f" * 64


def masks() -> dict[str, Tensor]:
    """The object in the middle, a mark in the top left corner."""
    middle = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.bool)
    middle[:, 4:12, 4:12] = True
    corner = torch.zeros_like(middle)
    corner[:, :4, :4] = True
    return {"object": middle, "mark": corner}


def label_maps(seed: int, *, on_mark: float) -> Tensor:
    """Squared gradients ``(N, H, W)`` on the object, but for ``on_mark`` of their mass."""
    noise = torch.rand(IMAGES, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    regions = masks()
    parts = {"object": 0.9 - on_mark, "mark": on_mark}
    maps = 0.1 * noise / noise.sum(dim=(1, 2), keepdim=True)
    for name, part in parts.items():
        inside = noise * regions[name]
        maps = maps + part * inside / inside.sum(dim=(1, 2), keepdim=True)
    return maps


def observation(
    seed: int = 0, *, step: int = 9, epoch: int = 1, on_mark: float = 0.02, **changed: Any
) -> Observation:
    maps = label_maps(seed, on_mark=on_mark)
    shares = {name: share(maps, mask) for name, mask in masks().items()}
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    measured = Measured(
        classes=torch.arange(IMAGES) % len(CLASSES),
        chances=torch.full((IMAGES,), 0.9),
        maps=(maps / peaks).half(),
        profiles=profiles(maps),
        shares=shares,
    )
    shown = torch.randn(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    told: dict[str, Any] = {
        "step": step,
        "epoch": epoch,
        "caption": f"epoch {epoch}",
        "fingerprint": FINGERPRINT,
        "rule": "guided_backprop",
        "targets": torch.arange(3).expand(IMAGES, 3).contiguous(),
        "maps": (shown / shown.abs().amax(dim=(-2, -1), keepdim=True)).half(),
        "peaks": torch.ones(IMAGES, 3),
        "probabilities": torch.full((IMAGES, 3), 1 / 3),
        "measured": measured,
        "measures": {f"{name}.share": float(values.mean()) for name, values in shares.items()},
    }
    return Observation(**told | changed)


def info(**changed: Any) -> RunInfo:
    told: dict[str, Any] = {
        "name": "saliency",
        "fingerprint": FINGERPRINT,
        "images": tuple(f"image {i}" for i in range(IMAGES)),
        "labels": tuple((i % len(CLASSES),) for i in range(IMAGES)),
        "class_names": CLASSES,
        "areas": {name: float(mask.float().mean()) for name, mask in masks().items()},
        "settings": {"rule": "guided_backprop"},
        "versions": {"torch": "2.6"},
        "commit": "0" * 40,
        "seed": 1,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return RunInfo(**told | changed)


def photos() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (IMAGES, SIDE, SIDE, 3), dtype=torch.uint8, generator=generator)


def record(
    folder: Path,
    seed: int = 0,
    *,
    on_mark: float = 0.02,
    metrics: dict[str, float] | None = None,
    finished: bool = True,
    changed: dict[str, Any] | None = None,
    told: dict[str, Any] | None = None,
) -> Path:
    """Record a run of two observations; return its log folder."""
    recorder = Recorder(folder / "saliency")
    recorder.begin(info(seed=seed, **told or {}), photos(), after=-1)
    recorder.add(observation(100 + seed, step=0, epoch=-1, on_mark=0.1, caption="untrained"))
    recorder.add(observation(seed, on_mark=on_mark, **changed or {}))
    recorder.end(metrics or {"val_acc": 0.93}, finished=finished)
    return folder
