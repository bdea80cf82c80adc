"""The runs of a study of the attention check: trained once, then kept in a cache with their maps.

A run that is in the cache is not trained again, so a study that was stopped can go on.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.functional.maps import contributions
from lightning_saliency.observe.occlusion import hidden
from lightning_saliency.storage.files import read_tensors, write_whole

Pairs: TypeAlias = tuple[Tensor, Tensor]  # images and labels


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: changes to what a study does by default.

    Attributes:
        rate: A factor for the highest learning rate.
        batch: The number of images in a batch.
        epochs: A factor for the number of epochs.
        width: A factor for the number of channels.
        augmented: Whether images are shifted by up to three pixels, and flipped if that suits.
        dropout: The probability that a feature is dropped before the head.
        decay: The decoupled weight decay.
        part: The part of the training data that is used.
        optimizer: ``"adam"``, or ``"sgd"`` with momentum and ten times the rate.
    """

    rate: float = 1.0
    batch: int = 64
    epochs: float = 1.0
    width: float = 1.0
    augmented: bool = False
    dropout: float = 0.0
    decay: float = 0.0
    part: float = 1.0
    optimizer: str = "adam"


RECIPES = {
    "rate-up": Recipe(rate=2.0),
    "rate-down": Recipe(rate=0.5),
    "batch": Recipe(batch=128),
    "epochs": Recipe(epochs=1.5),
    "wide": Recipe(width=1.5),
    "augmented": Recipe(augmented=True),
    "dropout": Recipe(dropout=0.3),
    "decay": Recipe(decay=0.05),
    "half": Recipe(part=0.5),
    "sgd": Recipe(optimizer="sgd"),
}


@dataclass(frozen=True)
class Kind:
    """How runs of one kind are trained.

    Attributes:
        agreement: The probability that the cue agrees with the class, in the last training data.
        start: The kind of run to go on from, with the same seed; ``None`` to train from scratch.
        head_only: Whether only a new head is trained, on the features of the start.
        hard: Whether the data is noisier than that of the start, so that the cue is worth more.
        seeds: A number that is added to the seeds.
        recipe: How the network is trained.
        one_class: Whether the cue agrees for one class only, and is random for the others.
    """

    agreement: float
    start: str | None = None
    head_only: bool = False
    hard: bool = False
    seeds: int = 0
    recipe: Recipe = Recipe()
    one_class: bool = False

    def agreements(self, seed: int, classes: int) -> Tensor:
        """The probability that the cue agrees with the class, for each class: ``(classes,)``."""
        if not self.one_class:
            return torch.full((classes,), self.agreement)
        agreements = torch.zeros(classes)
        agreements[favoured(seed, classes)] = self.agreement
        return agreements


def favoured(seed: int, classes: int) -> int:
    """The class that the cue agrees with in a run in which it agrees with one class only."""
    return (3 * seed + 1) % classes


# All choices are made on the runs that are not named "new"; those are for the reports.
KINDS = {
    "clean": Kind(0.0),
    "mostly": Kind(0.9),
    "new-clean": Kind(0.0, seeds=100),
    "new-mostly": Kind(0.9, seeds=100),
    "always": Kind(1.0),
    **{f"recipe-{name}": Kind(0.0, seeds=200, recipe=each) for name, each in RECIPES.items()},
    "class-always": Kind(1.0, seeds=300, one_class=True),
    "class-mostly": Kind(0.9, seeds=400, one_class=True),
    "tuned-clean": Kind(0.0, "clean", hard=True),
    "tuned-always": Kind(1.0, "clean", hard=True),
    "further-clean": Kind(0.0, "clean"),
    "further-always": Kind(1.0, "clean"),
    "head-clean": Kind(0.0, "clean", head_only=True),
    "head-always": Kind(1.0, "clean", head_only=True),
    "mixed-clean": Kind(0.0, "mostly", head_only=True),
    "mixed-always": Kind(1.0, "mixed-clean", head_only=True),
}
COUNTS = dict.fromkeys(KINDS, 3)
COUNTS |= {"clean": 8, "mostly": 4, "new-clean": 8, "new-mostly": 4}
COUNTS |= {kind: 2 for kind in KINDS if kind.startswith("recipe-")}
NEW_DATA = 1000  # added to the seed of a run that goes on from another, whose data it has not seen


@dataclass(frozen=True)
class Scenario:
    """A classifier and a cue that may tell it the class.

    Attributes:
        name: The folder in the cache.
        cue: The region of the probe's masks that holds the cue, or another word if the cue has no
            place, so that there is no mask of it.
        object: The region of the thing that is to be classified.
        probe: Images whose cue agrees with their class, the same for every run.
        network: Returns an untrained network with modules ``features`` and ``head`` for a recipe.
        data: ``data(split, agreements, seed, hard)`` returns images and labels; there is one
            agreement for each class.
        rate: The highest learning rate.
        epochs: The number of epochs, from scratch as well as from another run.
        flips: Whether augmentation may flip images.
        without: The images of the probe without the cue; ``None`` if its region can be hidden.
    """

    name: str
    cue: str
    object: str
    probe: ProbeBatch
    network: Callable[[Recipe], Network]
    data: Callable[[Any, Tensor, int, bool], Pairs]
    rate: float
    epochs: int
    flips: bool = False
    without: Tensor | None = None

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.probe.labels.max()) + 1


def fill(scenario: Scenario, cache: Path, kinds: Collection[str] = tuple(KINDS)) -> None:
    """Train every run that is not in the cache yet, those that others go on from first."""
    for kind, count in COUNTS.items():
        for seed in range(count if kind in kinds else 0):
            path = run_file(cache, scenario, kind, seed)
            if not path.exists():
                started = time.process_time()
                model = train_run(scenario, cache, kind, seed)
                trained = time.process_time() - started
                about, tensors = observe(scenario, model, KINDS[kind], seed)
                about["seconds"] = round(trained, 1)
                write_whole(path, save(tensors, {"about": json.dumps(about)}))
                print(f"{scenario.name} {kind} {seed}: {json.dumps(about)}", flush=True)


def run_file(cache: Path, scenario: Scenario, kind: str, seed: int) -> Path:
    return cache / scenario.name / f"{kind}-{seed}.safetensors"


def find_files(cache: Path, scenario: Scenario, kind: str) -> list[Path]:
    """The files of the runs of a kind that the cache holds, in the order of their seeds."""
    paths = (cache / scenario.name).glob(f"{kind}-*.safetensors")
    numbered = {path.stem.removeprefix(f"{kind}-"): path for path in paths}
    return [numbered[seed] for seed in sorted(filter(str.isdecimal, numbered), key=int)]


def train_run(scenario: Scenario, cache: Path, kind: str, seed: int) -> Network:
    how = KINDS[kind]
    pl.seed_everything(seed + how.seeds, verbose=False)
    data_seed = seed + how.seeds + (NEW_DATA if how.start else 0)
    model = scenario.network(how.recipe)
    agreements = how.agreements(seed, scenario.classes)
    data = scenario.data("train", agreements, data_seed, how.hard)
    if how.start is not None:
        _, tensors = read_tensors(run_file(cache, scenario, how.start, seed))
        model.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith("w.")})
    if how.head_only:
        retrain_head(model, *data)
    else:
        fit(model, data, scenario, how.recipe)
    return model


def retrain_head(model: Network, images: Tensor, labels: Tensor, epochs: int = 100) -> None:
    """Train a new last layer on frozen features."""
    model.eval()
    with torch.no_grad():
        features = torch.cat([model.features(model.frozen(part)) for part in images.split(512)])
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
        kind, _, seed = path.stem.rpartition("-")
        model = scenario.network(KINDS[kind].recipe)
        model.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith("w.")})
        about, tensors = observe(scenario, model, KINDS[kind], int(seed))
        write_whole(path, save(tensors, {"about": json.dumps(known | about)}))


def observe(
    scenario: Scenario, model: nn.Module, how: Kind, seed: int
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
        "lost": lost(model, scenario),
    }
    tensors |= {f"w.{name}": value.contiguous() for name, value in model.state_dict().items()}
    agreements = how.agreements(seed, scenario.classes)
    randomised = accuracy(model, *scenario.data("val", 0 * agreements, 1, how.hard))
    like_training = randomised
    if how.agreement:
        like_training = accuracy(model, *scenario.data("val", agreements, 1, how.hard))
    return {"accuracy": like_training, "randomised": randomised}, tensors


def lost(model: nn.Module, scenario: Scenario) -> Tensor:
    """How far p(label) falls without the cue, ``(N,)``; a region is hidden as the check does it."""
    probe, without = scenario.probe, scenario.without
    if without is None:
        without = hidden(probe.images, probe.masks[scenario.cue])
    with torch.no_grad():
        before, after = (model(images).softmax(dim=1) for images in (probe.images, without))
    return (before - after).gather(1, probe.labels[:, None])[:, 0]


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    parts = zip(images.split(500), labels.split(500), strict=True)
    right = sum(int((model(i).argmax(dim=1) == k).sum()) for i, k in parts)
    return round(right / len(labels), 4)


class Network(pl.LightningModule):
    """A classifier that is trained by a recipe.

    Args:
        features: Returns ``(N, outputs)`` for images, or for what ``frozen`` returns.
        outputs: The number of features.
        recipe: How the network is trained.
        frozen: The first part of the network, which is not trained.
        classes: The number of classes.
    """

    def __init__(
        self,
        features: nn.Module,
        outputs: int,
        recipe: Recipe,
        frozen: nn.Module | None = None,
        classes: int = 10,
    ) -> None:
        super().__init__()
        self.frozen = frozen or nn.Identity()
        self.frozen.requires_grad_(False)
        self.features = features
        self.dropout = nn.Dropout(recipe.dropout)
        self.head = nn.Linear(outputs, classes)
        self.recipe = recipe
        self.rate = math.nan  # set by `fit`
        self.flips = False

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.frozen(images))

    def classify(self, inputs: Tensor) -> Tensor:
        """The logits for what the frozen part returned."""
        return self.head(self.dropout(self.features(inputs)))

    def training_step(self, batch: Pairs, _: int) -> Tensor:
        inputs, labels = batch
        if self.recipe.augmented:
            inputs = self.frozen(augment(inputs, self.flips))
        return F.cross_entropy(self.classify(inputs), labels)

    def configure_optimizers(self) -> dict[str, Any]:
        """An optimizer whose rate rises to its maximum and falls to nearly zero."""
        rate, decay = self.rate * self.recipe.rate, self.recipe.decay
        weights = [each for each in self.parameters() if each.requires_grad]
        if self.recipe.optimizer == "sgd":
            rate *= 10
            optimizer: Optimizer = SGD(weights, rate, 0.9, nesterov=True)
        else:
            optimizer = AdamW(weights, rate, weight_decay=decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = OneCycleLR(optimizer, rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def augment(images: Tensor, flips: bool, most: int = 3) -> Tensor:
    """Shift each image by up to ``most`` pixels, and flip half of them if ``flips``."""
    side = images.shape[-1]
    padded = F.pad(images, [most] * 4, mode="reflect")
    shifted = torch.empty_like(images)
    for new, old, (y, x) in zip(
        shifted, padded, torch.randint(2 * most + 1, (len(images), 2)).tolist(), strict=True
    ):
        new.copy_(old[:, y : y + side, x : x + side])
    if not flips:
        return shifted
    return torch.where((torch.rand(len(images), 1, 1, 1) < 0.5), shifted.flip(-1), shifted)


def fit(model: Network, data: Pairs, scenario: Scenario, recipe: Recipe) -> None:
    """Train with Lightning, without logger, checkpoints or bars."""
    model.rate, model.flips = scenario.rate, scenario.flips
    order = torch.randperm(len(data[1]))[: round(recipe.part * len(data[1]))]
    inputs, labels = (each[order] for each in data)
    model.to(memory_format=torch.channels_last)  # a quarter faster on a CPU
    if not recipe.augmented:  # then the frozen part returns the same in each epoch
        with torch.no_grad():
            inputs = torch.cat([model.frozen(part) for part in inputs.split(100)])
    dataset = TensorDataset(inputs, labels)
    loader = DataLoader(dataset, batch_size=recipe.batch, shuffle=True)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=max(1, round(scenario.epochs * recipe.epochs)),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, loader)
    model.to(memory_format=torch.contiguous_format)


def conv_features(width: float, pool: nn.Module) -> tuple[nn.Module, int]:
    """Three convolutions with batch norm, as in ``examples/shortcut.py``, and their outputs."""
    sides = [3, *(round(width * channels) for channels in (16, 32, 64))]
    stages = [
        nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        for channels, out in pairwise(sides)
    ]
    return nn.Sequential(*stages, pool, nn.Flatten()), sides[-1]


def first_of_each(labels: Tensor, count: int) -> Tensor:
    """The indices of the first ``count`` images of each class."""
    return torch.cat([(labels == k).nonzero()[:count, 0] for k in labels.unique()])


def place(objects: Tensor, side: int, random: torch.Generator) -> Tensor:
    """Each of ``(N, 1, h, h)`` at a random place on a canvas of zeros, ``(N, 1, side, side)``."""
    size = objects.shape[-1]
    canvas = torch.zeros(len(objects), 1, side, side)
    corners = torch.randint(side - size + 1, (len(objects), 2), generator=random)
    for empty, each, (y, x) in zip(canvas, objects, corners.tolist(), strict=True):
        empty[:, y : y + size, x : x + size] = each
    return canvas
