"""What the studies of the attention check share: runs in a cache, measures of them, tables.

A study is a :class:`Scenario` and the command line here. A run that is found in the cache is not
trained again, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
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
from lightning_saliency.files import read_tensors, write_whole

Pairs: TypeAlias = tuple[Tensor, Tensor]  # images and labels

# Of each kind: how the data agrees that the network ends on, and what it begins with.
KINDS = {
    "clean": (0.0, "scratch"),
    "always": (1.0, "scratch"),
    "mostly": (0.9, "scratch"),
    "head-always": (1.0, "head"),
    "head-clean": (0.0, "head"),
    "tuned-always": (1.0, "tuned"),
    "tuned-mostly": (0.9, "tuned"),
    "tuned-clean": (0.0, "tuned"),
}
COUNTS = {"clean": 10, "always": 10} | dict.fromkeys(list(KINDS)[2:], 5)
NEW_DATA = 1000  # added to the seed of a run that goes on from another, whose data it has not seen


@dataclass(frozen=True)
class Scenario:
    """A classifier and a cue that may tell it the class.

    Attributes:
        name: Of the folder in the cache.
        cue: The region of the probe's masks that holds the cue; the other one is the object.
        probe: Images whose cue agrees with their class, the same for every run.
        network: ``network(rate=…)``, an untrained one of modules ``features`` and ``head``.
        data: ``data(split, agreement, seed)``, images and labels.
        rate: The highest learning rate, from scratch; a tenth when a network goes on from another.
        epochs: From scratch; half as many, rounded up, when a network goes on from another.
    """

    name: str
    cue: str
    probe: ProbeBatch
    network: Callable[..., pl.LightningModule]
    data: Callable[[Any, float, int], Pairs]
    rate: float
    epochs: int

    @property
    def object(self) -> str:
        """The region of what the classes are told by."""
        return next(name for name in self.probe.masks if name != self.cue)


# --- the first phase: runs


def fill(scenario: Scenario, cache: Path) -> None:
    """Train every run that is not in the cache yet; clean ones first, others go on from them."""
    for kind, count in COUNTS.items():
        for seed in range(count):
            path = run_file(cache, scenario, kind, seed)
            if not path.exists():
                started = time.perf_counter()
                model = train_run(scenario, cache, kind, seed)
                about, tensors = observe(scenario, model, KINDS[kind][0])
                about["seconds"] = round(time.perf_counter() - started, 1)
                write_whole(path, save(tensors, {"about": json.dumps(about)}))
                print(f"{scenario.name} {kind} {seed}: {json.dumps(about)}", flush=True)


def run_file(cache: Path, scenario: Scenario, kind: str, seed: int) -> Path:
    return cache / scenario.name / f"{kind}-{seed}.safetensors"


def train_run(scenario: Scenario, cache: Path, kind: str, seed: int) -> pl.LightningModule:
    agreement, start = KINDS[kind]
    pl.seed_everything(seed, verbose=False)
    model = scenario.network(rate=scenario.rate if start == "scratch" else scenario.rate / 10)
    if start == "scratch":
        fit(model, scenario.data("train", agreement, seed), epochs=scenario.epochs)
        return model
    _, tensors = read_tensors(run_file(cache, scenario, "clean", seed))
    model.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith("w.")})
    data = scenario.data("train", agreement, seed + NEW_DATA)
    if start == "head":
        retrain_head(model, *data)
    else:
        fit(model, data, epochs=(scenario.epochs + 1) // 2)
    return model


def retrain_head(model: Any, images: Tensor, labels: Tensor, epochs: int = 100) -> None:
    """A new last layer on the features as they are, until it has learned what it can."""
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


def observe(
    scenario: Scenario, model: nn.Module, agreement: float
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What is kept of a run: its accuracies, its maps of the probe, its weights."""
    model.eval()
    probe = scenario.probe
    rules = ("gradient", "guided_backprop")
    explanation = explain(model, probe.images, targets=probe.labels, rules=rules)
    tensors = {
        "squared": explanation.maps("gradient", "square")[:, 0].contiguous(),
        "guided": explanation.maps("guided_backprop")[:, 0].contiguous(),
        "lost": lost(model, probe, scenario.cue),
    }
    tensors |= {f"w.{name}": value.contiguous() for name, value in model.state_dict().items()}
    about = {
        "accuracy": accuracy(model, *scenario.data("val", agreement, 1)),
        "randomised": accuracy(model, *scenario.data("val", 0.0, 1)),
    }
    return about, tensors


@torch.no_grad()
def lost(model: nn.Module, probe: ProbeBatch, region: str) -> Tensor:
    """How far p(label) falls when a region takes the mean colour of its image, ``(N,)``."""
    hidden = probe.masks[region][:, None]
    means = probe.images.mean(dim=(2, 3), keepdim=True)
    pair = (probe.images, torch.where(hidden, means, probe.images))
    before, after = (model(images).softmax(dim=1) for images in pair)
    return (before - after).gather(1, probe.labels[:, None])[:, 0]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    parts = zip(images.split(500), labels.split(500), strict=True)
    right = sum(int((model(i).argmax(dim=1) == k).sum()) for i, k in parts)
    return round(right / len(labels), 4)


def fit(model: pl.LightningModule, data: Pairs, *, epochs: int) -> None:
    """Train with Lightning and nothing around it."""
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


# --- the command line


def main(scenario: Scenario, about: str | None) -> None:
    parser = argparse.ArgumentParser(description=(about or "").strip().splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".study"), help="where runs are kept")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # networks this small gain nothing from more
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    if not arguments.tables:
        fill(scenario, arguments.cache)
