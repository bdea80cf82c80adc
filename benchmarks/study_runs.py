"""The runs of a study of the attention check: trained once, then kept in a cache with their maps.

A run that is in the cache is not trained again, so a study that was stopped can go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.functional.maps import contributions
from lightning_saliency.observe.occlusion import hidden
from lightning_saliency.storage.files import read_tensors, write_whole

Pairs: TypeAlias = tuple[Tensor, Tensor]  # images and labels


@dataclass(frozen=True)
class Kind:
    """How runs of one kind are trained.

    Attributes:
        agreement: The probability that the cue agrees with the class, in the last training data.
        start: The kind of run to go on from, with the same seed; ``None`` to train from scratch.
        head_only: Whether only a new head is trained, on the features of the start.
        hard: Whether the data is noisier than that of the start, so that the cue is worth more.
        seeds: A number that is added to the seeds.
    """

    agreement: float
    start: str | None = None
    head_only: bool = False
    hard: bool = False
    seeds: int = 0


# The runs named "new" were trained after all results of the others were known.
KINDS = {
    "clean": Kind(0.0),
    "always": Kind(1.0),
    "mostly": Kind(0.9),
    "head-clean": Kind(0.0, "clean", head_only=True),
    "head-always": Kind(1.0, "clean", head_only=True),
    "mixed-clean": Kind(0.0, "mostly", head_only=True),
    "mixed-always": Kind(1.0, "mixed-clean", head_only=True),
    "new-clean": Kind(0.0, seeds=100),
    "new-mostly": Kind(0.9, seeds=100),
    "tuned-clean": Kind(0.0, "clean", hard=True),
    "tuned-always": Kind(1.0, "clean", hard=True),
    "further-clean": Kind(0.0, "clean"),
    "further-always": Kind(1.0, "clean"),
}
COUNTS = {"clean": 10, "always": 10} | dict.fromkeys(list(KINDS)[2:], 5)
NEW_DATA = 1000  # added to the seed of a run that goes on from another, whose data it has not seen


@dataclass(frozen=True)
class Scenario:
    """A classifier and a cue that may tell it the class.

    Attributes:
        name: The folder in the cache.
        cue: The region of the probe's masks that holds the cue; the other one is the object.
        probe: Images whose cue agrees with their class, the same for every run.
        network: ``network(rate=…)`` returns an untrained one, with modules ``features`` and
            ``head``.
        data: ``data(split, agreement, seed, hard)`` returns images and labels.
        rate: The highest learning rate.
        epochs: The number of epochs, from scratch as well as from another run.
    """

    name: str
    cue: str
    probe: ProbeBatch
    network: Callable[..., pl.LightningModule]
    data: Callable[[Any, float, int, bool], Pairs]
    rate: float
    epochs: int

    @property
    def object(self) -> str:
        """The region of the thing that is to be classified."""
        return next(name for name in self.probe.masks if name != self.cue)


def fill(scenario: Scenario, cache: Path) -> None:
    """Train every run that is not in the cache yet, those that others go on from first."""
    for kind, count in COUNTS.items():
        for seed in range(count):
            path = run_file(cache, scenario, kind, seed)
            if not path.exists():
                started = time.perf_counter()
                model = train_run(scenario, cache, kind, seed)
                about, tensors = observe(scenario, model, KINDS[kind])
                about["seconds"] = round(time.perf_counter() - started, 1)
                write_whole(path, save(tensors, {"about": json.dumps(about)}))
                print(f"{scenario.name} {kind} {seed}: {json.dumps(about)}", flush=True)


def run_file(cache: Path, scenario: Scenario, kind: str, seed: int) -> Path:
    return cache / scenario.name / f"{kind}-{seed}.safetensors"


def train_run(scenario: Scenario, cache: Path, kind: str, seed: int) -> pl.LightningModule:
    how = KINDS[kind]
    pl.seed_everything(seed + how.seeds, verbose=False)
    data_seed = seed + how.seeds + (NEW_DATA if how.start else 0)
    model = scenario.network(rate=scenario.rate)
    data = scenario.data("train", how.agreement, data_seed, how.hard)
    if how.start is not None:
        _, tensors = read_tensors(run_file(cache, scenario, how.start, seed))
        model.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith("w.")})
    if how.head_only:
        retrain_head(model, *data)
    else:
        fit(model, data, epochs=scenario.epochs)
    return model


def retrain_head(model: Any, images: Tensor, labels: Tensor, epochs: int = 100) -> None:
    """Train a new last layer on frozen features."""
    model.eval()
    with torch.no_grad():
        features = torch.cat([model.features(part) for part in images.split(512)])
    model.head.reset_parameters()
    optimizer = torch.optim.Adam(model.head.parameters(), lr=1e-2)
    for _ in range(epochs):
        for part in torch.randperm(len(labels)).split(512):
            loss = F.cross_entropy(model.head(features[part]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def observe_again(scenario: Scenario, cache: Path) -> None:
    """Measure every run in the cache once more, after a change to what is kept of a run."""
    for path in sorted((cache / scenario.name).glob("*.safetensors")):
        known, tensors = read_tensors(path)
        model = scenario.network(rate=scenario.rate)
        model.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith("w.")})
        about, tensors = observe(scenario, model, KINDS[path.stem.rpartition("-")[0]])
        write_whole(path, save(tensors, {"about": json.dumps(known | about)}))


def observe(
    scenario: Scenario, model: nn.Module, how: Kind
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is kept of a run: its accuracies, and its maps of the probe with its weights."""
    model.eval()
    probe = scenario.probe
    rules = ("gradient", "guided_backprop")
    explanation = explain(model, probe.images, targets=probe.labels, rules=rules)
    gradient = explanation["gradient"][:, 0]
    tensors = {
        "squared": gradient.square().sum(dim=1),
        "magnitudes": gradient.abs().sum(dim=1),
        "contributions": contributions(gradient, probe.images),
        "guided": explanation.maps("guided_backprop")[:, 0].contiguous(),
        "lost": lost(model, probe, scenario.cue),
    }
    tensors |= {f"w.{name}": value.contiguous() for name, value in model.state_dict().items()}
    about = {
        "accuracy": accuracy(model, *scenario.data("val", how.agreement, 1, how.hard)),
        "randomised": accuracy(model, *scenario.data("val", 0.0, 1, how.hard)),
    }
    return about, tensors


def lost(model: nn.Module, probe: ProbeBatch, region: str) -> Tensor:
    """How far p(label) falls if a region is hidden in the way that the check does it, ``(N,)``."""
    without = hidden(probe.images, probe.masks[region])
    with torch.no_grad():
        before, after = (model(images).softmax(dim=1) for images in (probe.images, without))
    return (before - after).gather(1, probe.labels[:, None])[:, 0]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    parts = zip(images.split(500), labels.split(500), strict=True)
    right = sum(int((model(i).argmax(dim=1) == k).sum()) for i, k in parts)
    return round(right / len(labels), 4)


def fit(model: pl.LightningModule, data: Pairs, *, epochs: int) -> None:
    """Train with Lightning, without logger, checkpoints or bars."""
    loader = DataLoader(TensorDataset(*data), batch_size=64, shuffle=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
