"""What the studies of the attention check share: runs in a cache, measures of them, tables.

A study is a :class:`Scenario` and the command line here. A run that is found in the cache is not
trained again, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
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
from lightning_saliency.judge import Seen, judge
from lightning_saliency.measures import moved_mass, profiles, share, spearman
from lightning_saliency.occlusion import hidden
from lightning_saliency.record import Measured, Observation, RunInfo
from lightning_saliency.reference import GoodRun, Reference
from lightning_saliency.requirements import DEFAULT, MOVED_MASS, Requirement, parse_all
from lightning_saliency.verdict import Finding

Pairs: TypeAlias = tuple[Tensor, Tensor]  # images and labels


@dataclass(frozen=True)
class Kind:
    """How runs come about.

    Attributes:
        agreement: Of the data that they are trained on last.
        start: The kind of the run of the same seed that they go on from; ``None`` from scratch.
        head_only: Whether they have a new head on its features, in place of being trained whole.
        hard: Whether the data is noisier than before, so that the cue is worth more.
    """

    agreement: float
    start: str | None = None
    head_only: bool = False
    hard: bool = False


KINDS = {
    "clean": Kind(0.0),
    "always": Kind(1.0),
    "mostly": Kind(0.9),
    "head-clean": Kind(0.0, "clean", head_only=True),
    "head-always": Kind(1.0, "clean", head_only=True),
    "mixed-clean": Kind(0.0, "mostly", head_only=True),
    "mixed-always": Kind(1.0, "mixed-clean", head_only=True),
    "further-clean": Kind(0.0, "clean"),
    "further-always": Kind(1.0, "clean"),
    "tuned-clean": Kind(0.0, "clean", hard=True),
    "tuned-always": Kind(1.0, "clean", hard=True),
}
COUNTS = {"clean": 10, "always": 10} | dict.fromkeys(list(KINDS)[2:], 5)
PER_CLASS = 8  # images of the probe that are measured
NEW_DATA = 1000  # added to the seed of a run that goes on from another, whose data it has not seen


@dataclass(frozen=True)
class Scenario:
    """A classifier and a cue that may tell it the class.

    Attributes:
        name: Of the folder in the cache.
        cue: The region of the probe's masks that holds the cue; the other one is the object.
        probe: Images whose cue agrees with their class, the same for every run.
        network: ``network(rate=…)``, an untrained one of modules ``features`` and ``head``.
        data: ``data(split, agreement, seed, hard)``, images and labels.
        rate: The highest learning rate.
        epochs: From scratch, and again when a network goes on from another.
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
                about, tensors = observe(scenario, model, KINDS[kind])
                about["seconds"] = round(time.perf_counter() - started, 1)
                write_whole(path, save(tensors, {"about": json.dumps(about)}))
                print(f"{scenario.name} {kind} {seed}: {json.dumps(about)}", flush=True)


def run_file(cache: Path, scenario: Scenario, kind: str, seed: int) -> Path:
    return cache / scenario.name / f"{kind}-{seed}.safetensors"


def train_run(scenario: Scenario, cache: Path, kind: str, seed: int) -> pl.LightningModule:
    how = KINDS[kind]
    pl.seed_everything(seed, verbose=False)
    model = scenario.network(rate=scenario.rate)
    new_data = NEW_DATA if how.start else 0
    data = scenario.data("train", how.agreement, seed + new_data, how.hard)
    if how.start is not None:
        _, tensors = read_tensors(run_file(cache, scenario, how.start, seed))
        model.load_state_dict({n[2:]: t for n, t in tensors.items() if n.startswith("w.")})
    if how.head_only:
        retrain_head(model, *data)
    else:
        fit(model, data, epochs=scenario.epochs)
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
    scenario: Scenario, model: nn.Module, how: Kind
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
        "accuracy": accuracy(model, *scenario.data("val", how.agreement, 1, how.hard)),
        "randomised": accuracy(model, *scenario.data("val", 0.0, 1, how.hard)),
    }
    return about, tensors


def lost(model: nn.Module, probe: ProbeBatch, region: str) -> Tensor:
    """How far p(label) falls when a region is hidden, ``(N,)``."""
    place = probe.masks[region]
    with torch.no_grad():
        shown = (probe.images, hidden(probe.images, place))
        before, after = (model(images).softmax(dim=1) for images in shown)
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


# --- the second phase: what the cache says


@dataclass(frozen=True)
class Looks:
    """Where a run looks: what its observation would hold of the label's gradient."""

    kind: str
    seed: int
    about: Mapping[str, float]
    maps: Mapping[str, Tensor]
    seen: Seen

    @classmethod
    def read(cls, scenario: Scenario, cache: Path, kind: str, seed: int, per_class: int) -> Looks:
        """Read a run, with ``per_class`` images of the probe."""
        about, tensors = read_tensors(run_file(cache, scenario, kind, seed))
        chosen = first_of_each(scenario.probe.labels, per_class)
        maps = {name: tensors[name][chosen] for name in ("squared", "guided", "lost")}
        masks = {name: mask[chosen] for name, mask in scenario.probe.masks.items()}
        labels = scenario.probe.labels[chosen]
        measured = Measured(
            classes=labels,
            chances=torch.zeros(len(labels)),
            maps=maps["squared"].half(),
            profiles=profiles(maps["squared"]),
            shares={name: share(maps["squared"], mask) for name, mask in masks.items()},
        )
        return cls(kind, seed, about, maps, Seen(info_of(labels, masks), observation_of(measured)))

    @cached_property
    def profile(self) -> Tensor:
        return self.seen.profiles.nanmean(dim=0)


def first_of_each(labels: Tensor, count: int) -> Tensor:
    return torch.cat([(labels == k).nonzero()[:count, 0] for k in labels.unique()])


def info_of(labels: Tensor, masks: Mapping[str, Tensor]) -> RunInfo:
    names = tuple(map(str, range(len(labels))))
    areas = {name: float(mask.float().mean()) for name, mask in masks.items()}
    return RunInfo(name="saliency", fingerprint="", images=names, areas=areas)


def observation_of(measured: Measured) -> Observation:
    none = torch.empty(0)
    return Observation(0, 0, "", "", "gradient", none, none, none, none, measured)


def reference_of(good: Sequence[Looks]) -> Reference:
    """A reference of runs in the cache."""
    measured = [looks.seen.observation.measured for looks in good]
    regions = measured[0].shares
    return Reference(
        info=good[0].seen.info,
        runs=tuple(GoodRun(0, "", None, None, "", {}, {}) for _ in good),
        classes=measured[0].classes,
        profiles=torch.stack([m.profiles for m in measured]),
        shares={name: torch.stack([m.shares[name] for m in measured]) for name in regions},
        maps=torch.empty(0),
        photos=torch.empty(0),
    )


def read_all(scenario: Scenario, cache: Path, per_class: int) -> dict[str, list[Looks]]:
    """By kind, the runs that the cache holds."""
    return {
        kind: [
            Looks.read(scenario, cache, kind, seed, per_class)
            for seed in range(count)
            if run_file(cache, scenario, kind, seed).exists()
        ]
        for kind, count in COUNTS.items()
    }


def tell_measures(scenario: Scenario, runs: Mapping[str, list[Looks]]) -> None:
    """The table of the design: what each kind of run measures, mean ± standard deviation."""
    probe, clean = scenario.probe, runs["clean"]
    masks = {n: m[first_of_each(probe.labels, PER_CLASS)] for n, m in probe.masks.items()}

    def moves(looks: Looks) -> float:
        others = [other for other in clean if other is not looks]
        return statistics.fmean(moved_mass(looks.profile, other.profile) for other in others)

    def guided(looks: Looks) -> float:
        return float(share(looks.maps["guided"], masks[scenario.object]).nanmean())

    measures: dict[str, Callable[[Looks], float]] = {
        "accuracy on data like the training data": lambda looks: looks.about["accuracy"],
        f"accuracy with the {scenario.cue} randomised": lambda looks: looks.about["randomised"],
        f"{scenario.object} share, guided backprop, abs": guided,
        f"{scenario.object} share, gradient squared": lambda looks: looks.seen.share(
            scenario.object
        ),
        f"{scenario.cue} share, gradient squared": lambda looks: looks.seen.share(scenario.cue),
        "moved mass against a clean run": moves,
        f"p(label) lost when the {scenario.cue} is hidden": lambda looks: float(
            looks.maps["lost"].mean()
        ),
    }
    rows = [
        [name, *(mean_sd(map(of, mine)) for mine in runs.values())] for name, of in measures.items()
    ]
    tell(["", *(f"{kind} ({len(mine)})" for kind, mine in runs.items())], rows)


def tell_rates(
    runs: Mapping[str, list[Looks]], sizes: Iterable[int], sets: Mapping[str, list[str]]
) -> None:
    """How many verdicts fail, over references drawn in all ways from the clean runs."""
    rows = []
    for size in sizes:
        for name, sentences in sets.items():
            failed = failures(runs, size, parse_all(sentences))
            rows.append([str(size), name, *(rate(failed[kind]) for kind in runs)])
    tell(["runs", "required", *("clean, left out" if k == "clean" else k for k in runs)], rows)


def failures(
    runs: Mapping[str, list[Looks]], size: int, required: Sequence[Requirement]
) -> dict[str, list[bool]]:
    """By kind, whether each verdict fails that can be drawn."""
    failed: dict[str, list[bool]] = {kind: [] for kind in runs}
    for good in combinations(runs["clean"], size):
        reference = reference_of(good)
        profile = reference.profile()
        # The bounds are the same for every run that is held against the reference.
        findings = judge(good[0].seen, reference, required).findings
        for kind, mine in runs.items():
            judged = [looks for looks in mine if not any(looks is one for one in good)]
            failed[kind] += [any(outside(f, looks, profile) for f in findings) for looks in judged]
    return failed


def outside(finding: Finding, looks: Looks, profile: Tensor) -> bool:
    """Whether a run is outside of the bounds of a finding on another."""
    if finding.measure == MOVED_MASS:
        value = moved_mass(looks.profile, profile)
    else:
        value = looks.seen.share(finding.measure.removesuffix(".share"))
    return (finding.low is not None and value < finding.low) or (
        finding.high is not None and value > finding.high
    )


def tell_starts(runs: Mapping[str, list[Looks]]) -> None:
    """What went on from another run, against that run alone."""
    rows = []
    for kind, how in KINDS.items():
        if how.start is not None and runs[kind]:
            pairs = [(looks, runs[how.start][looks.seed]) for looks in runs[kind]]
            rows.append([kind, *against_start(pairs)])
    tell(
        ["", "moved mass", "warned of", "fails under --strict", "guided maps", "squared gradients"],
        rows,
    )


def against_start(pairs: Sequence[tuple[Looks, Looks]]) -> list[str]:
    required = parse_all(DEFAULT)
    moved = [moved_mass(now.profile, start.profile) for now, start in pairs]
    verdicts = [judge(now.seen, reference_of([start]), required) for now, start in pairs]
    strict = [judge(now.seen, reference_of([start]), required, strict=True) for now, start in pairs]
    alike = {
        rule: [float(spearman(now.maps[rule], start.maps[rule]).nanmean()) for now, start in pairs]
        for rule in ("guided", "squared")
    }
    return [
        f"{mean_sd(moved)}, {min(moved):.3f} to {max(moved):.3f}",
        rate([bool(verdict.warnings) for verdict in verdicts]),
        rate([verdict.outcome == "fail" for verdict in strict]),
        *(mean_sd(values) for values in alike.values()),
    ]


def mean_sd(values: Iterable[float]) -> str:
    known = list(values)
    if len(known) < 2:
        return "–"
    return f"{statistics.fmean(known):.3f} ± {statistics.stdev(known):.3f}"


def rate(failed: Sequence[bool]) -> str:
    return f"{statistics.fmean(failed):.3f}" if failed else "–"


def tell(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


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
    report(scenario, arguments.cache)


def report(scenario: Scenario, cache: Path) -> None:
    """Print all tables."""
    print(f"torch {torch.__version__}, pytorch-lightning {pl.__version__}, {platform.machine()}\n")
    runs = read_all(scenario, cache, PER_CLASS)
    region = scenario.object
    tell_measures(scenario, runs)
    sets = {
        "moved mass, no mask": ["moved_mass <= auto"],
        f"share of the {region}": [f"{region}.share within auto"],
        f"both, mask of the {region}": ["moved_mass <= auto", f"{region}.share within auto"],
        "both, all masks": list(DEFAULT),
    }
    tell_rates(runs, (3, 5), sets)
    tell_starts(runs)
    for per_class in (1, 2, 4, 20):
        print(f"{per_class} images a class\n")
        tell_rates(read_all(scenario, cache, per_class), (5,), dict(list(sets.items())[:1]))
