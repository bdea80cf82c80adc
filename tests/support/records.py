"""Made-up recorded runs: good ones, and ones whose maps lie on the mark."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from lightning_saliency.functional.maps import from_8_bits, to_8_bits
from lightning_saliency.functional.measures import profiles, share
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import (
    Measured,
    Observation,
    Snapshot,
    encode_observation,
)
from lightning_saliency.record.writer import RunWriter

IMAGES, SIDE = 6, 16
CLASSES = ("cat", "dog", "cow")
FINGERPRINT = "f" * 64
RULE = "guided_backprop"


def masks() -> dict[str, Tensor]:
    """Two regions: the object in the middle, and a mark in the top left corner."""
    middle = torch.zeros(IMAGES, SIDE, SIDE, dtype=torch.bool)
    middle[:, 4:12, 4:12] = True
    corner = torch.zeros_like(middle)
    corner[:, :4, :4] = True
    return {"object": middle, "mark": corner}


def label_maps(seed: int, *, on_mark: float) -> Tensor:
    """Maps of gradients ``(N, H, W)`` on the object, with ``on_mark`` of their mass on the mark."""
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
    """Build an observation; ``changed`` replaces fields of it or of its snapshot."""
    maps = label_maps(seed, on_mark=on_mark)
    both = (maps, maps.sqrt())
    shares = {n: sum(share(m, mask) for m in both) / 2 for n, mask in masks().items()}
    peaks = maps.amax(dim=(1, 2), keepdim=True)
    measured = Measured(
        classes=torch.arange(IMAGES) % len(CLASSES),
        probabilities=torch.full((IMAGES,), 0.9),
        maps=(maps / peaks).half(),
        views=torch.stack([profiles(m) for m in both], dim=1),
        shares=shares,
    )
    shown = torch.randn(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))
    values: dict[str, Any] = {
        "step": step,
        "caption": f"epoch {epoch}",
        "targets": torch.arange(3).expand(IMAGES, 3).contiguous(),
        "probabilities": torch.full((IMAGES, 3), 1 / 3),
        "predicted": None,
        # Maps that have passed through a file once, so that they are read back as they are.
        "maps": {
            RULE: from_8_bits(to_8_bits(shown / shown.abs().amax(dim=(-2, -1), keepdim=True)))
        },
        "peaks": {RULE: torch.ones(IMAGES, 3)},
        "epoch": epoch,
        "fingerprint": FINGERPRINT,
        "measured": measured,
        "measures": {f"{name}.share": float(values.mean()) for name, values in shares.items()},
    }
    values |= changed
    for name in ("maps", "peaks"):  # A bare tensor is that of the usual rule.
        values[name] = {RULE: values[name]} if isinstance(values[name], Tensor) else values[name]
    snapshot = Snapshot(**{field.name: values.pop(field.name) for field in fields(Snapshot)})
    return Observation(snapshot, **values)


def info(**changed: Any) -> RunInfo:
    values: dict[str, Any] = {
        "name": "saliency",
        "fingerprint": FINGERPRINT,
        "images": tuple(f"image {i}" for i in range(IMAGES)),
        "labels": tuple((i % len(CLASSES),) for i in range(IMAGES)),
        "class_names": CLASSES,
        "areas": {name: float(mask.float().mean()) for name, mask in masks().items()},
        "reduce": "joint",
        "settings": {"rule": "guided_backprop"},
        "versions": {"torch": "2.6"},
        "commit": "0" * 40,
        "seed": 1,
        "started": "2026-01-01T00:00:00+00:00",
    }
    return RunInfo(**values | changed)


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
    """Record a run of two observations and return its log folder.

    ``changed`` replaces fields of the last observation, and ``told`` facts about the run.
    """
    writer = RunWriter(folder / "saliency")
    writer.begin(info(seed=seed, **told or {}), photos(), after=-1)
    writer.add(observation(100 + seed, step=0, epoch=-1, on_mark=0.1, caption="untrained"))
    writer.add(observation(seed, on_mark=on_mark, **changed or {}))
    writer.end(metrics or {"val_acc": 0.93}, finished=finished)
    return folder


def write_tensors(path: Path, about: Any, tensors: dict[str, Tensor] | None = None) -> Path:
    """Write a safetensors file whose metadata are ``about``: an object, or any text."""
    text = about if isinstance(about, str) else json.dumps(about)
    # safetensors 0.4 writes a broken header if there is no tensor.
    data = safetensors.torch.save(tensors or {"spare": torch.zeros(1)}, {"about": text})
    path.write_bytes(data)
    return path


def parts(data: bytes | None = None) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; by default of an observation."""
    data = encode_observation(observation()) if data is None else data
    length = int.from_bytes(data[:8], "little")
    about = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["about"])
    return about, safetensors.torch.load(data)
