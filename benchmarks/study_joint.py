"""Runs of a study as arrays of numbers, and the joint distance in two views, over many references.

The tables of :mod:`study_choices` are made from these: they hold thousands of verdicts against each
other, for which arrays are quick enough and verdicts of the package are not.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from safetensors import safe_open
from study_runs import KINDS, Scenario, find_files
from torch import Tensor

from lightning_saliency.functional.measures import profiles, share
from lightning_saliency.functional.quantiles import fisher

VIEWS = ("square", "sensitivity", "contribution")
JOINT = ("sensitivity", "contribution")
MOST = 250  # references of each size; the choice among more of them is seeded


@dataclass(frozen=True)
class Run:
    """What the tables need of a run.

    Attributes:
        kind: A key of :data:`study_runs.KINDS`.
        seed: The seed of the run, from 0 in each kind.
        about: Accuracies and seconds.
        profiles: By view, the profile of each image, ``(images, 64)``.
        shares: By view, then by region, the share in each image, ``(images,)``.
        lost: How far p(label) falls without the cue, ``(images,)``.
    """

    kind: str
    seed: int
    about: Mapping[str, float]
    profiles: Mapping[str, Tensor]
    shares: Mapping[str, Mapping[str, Tensor]]
    lost: Tensor

    def mean(self, view: str) -> Tensor:
        """The mean profile, ``(64,)``."""
        return self.profiles[view].nanmean(dim=0)

    def share(self, region: str, views: Sequence[str]) -> float:
        """The mean share of a region over images and views."""
        return sum(float(self.shares[view][region].nanmean()) for view in views) / len(views)

    def only(self, images: Tensor) -> Run:
        """The run as measured on some of the images of the probe."""
        return Run(
            self.kind,
            self.seed,
            self.about,
            {view: each[images] for view, each in self.profiles.items()},
            {v: {name: s[images] for name, s in each.items()} for v, each in self.shares.items()},
            self.lost[images],
        )


def read_run(scenario: Scenario, path: Path) -> Run:
    """Read a run from the cache."""
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["about"])
        squared, magnitudes, contributions, lost = map(
            file.get_tensor, ("squared", "magnitudes", "contributions", "lost")
        )
    maps = {
        "square": squared,
        "sensitivity": magnitudes.sqrt(),
        "contribution": contributions,
    }
    kind, _, seed = path.stem.rpartition("-")
    masks = scenario.probe.masks
    return Run(
        kind,
        int(seed),
        about,
        {view: profiles(each).flatten(1) for view, each in maps.items()},
        {v: {name: share(each, mask) for name, mask in masks.items()} for v, each in maps.items()},
        lost,
    )


def read_runs(scenario: Scenario, cache: Path) -> dict[str, list[Run]]:
    """The runs in the cache, by kind; kinds without any are left out."""
    found = {}
    for kind in KINDS:
        if runs := [read_run(scenario, path) for path in find_files(cache, scenario, kind)]:
            found[kind] = runs
    return found


def choose(count: int, size: int, most: int = MOST) -> list[tuple[int, ...]]:
    """Choices of ``size`` out of ``count``: all of them, or ``most`` drawn at random."""
    every = list(combinations(range(count), size))
    if len(every) <= most:
        return every
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
    return [every[int(i)] for i in order[:most]]


def stack(runs: Sequence[Run], views: Sequence[str], each: bool = False) -> Tensor:
    """The mean profiles ``(runs, views, 64)``, or those of ``each`` image before its last axis."""
    if each:
        return torch.stack([torch.stack([run.profiles[view] for view in views]) for run in runs])
    return torch.stack([torch.stack([run.mean(view) for view in views]) for run in runs])


def moved(first: Tensor, second: Tensor) -> Tensor:
    """Moved mass between profiles ``(..., 64)``."""
    return (first - second).abs().sum(dim=-1) / 2


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Moved mass in each view, ``(..., views)``: its mean over images if they have profiles."""
    found = moved(first, second)
    return found.nanmean(dim=-1) if first.dim() == 4 else found


def left_out_squares(good: Tensor) -> Tensor:
    """The mean square of the distances of good runs from the mean of the others, ``(views,)``."""
    count = len(good)
    others = (good.sum(dim=0) - good) / (count - 1)
    return distances(good, others).square().mean(dim=0)


def judge(good: Tensor, judged: Tensor) -> Tensor:
    """The mean over views of squared distances from the good runs over those among them."""
    squares = distances(judged, good.mean(dim=0)).square()
    return (squares / left_out_squares(good)).mean(dim=-1)


@dataclass(frozen=True)
class Statistics:
    """The statistic of runs against all references of one size.

    Attributes:
        size: The number of good runs in a reference.
        by_kind: The statistics of each kind; ``"left out"`` are those of the good kind.
    """

    size: int
    by_kind: Mapping[str, Tensor]

    def beyond(self, directions: int, confidence: float = 0.99) -> dict[str, Tensor]:
        """Whether each statistic is beyond the bound, by kind."""
        bound = fisher(confidence, directions, directions * self.size)
        return {kind: values > bound for kind, values in self.by_kind.items()}

    def rates(self, directions: int, confidence: float = 0.99) -> dict[str, float]:
        """The rate beyond the bound, by kind."""
        return to_rates(self.beyond(directions, confidence))


def to_rates(beyond: Mapping[str, Tensor]) -> dict[str, float]:
    return {kind: float(values.double().mean()) for kind, values in beyond.items()}


def compute(
    runs: Mapping[str, Sequence[Run]],
    size: int,
    views: Sequence[str],
    good: str = "clean",
    judged: Iterable[str] = (),
    each: bool = False,
) -> Statistics:
    """Judge runs by all references that runs of the kind ``good`` can make."""
    clean = stack(runs[good], views, each)
    others = {kind: stack(runs[kind], views, each) for kind in judged if kind in runs}
    found: dict[str, list[Tensor]] = {"left out": []} | {kind: [] for kind in others}
    for chosen in choose(len(clean), size):
        left = [i for i in range(len(clean)) if i not in chosen]
        reference = clean[list(chosen)]
        if left:
            found["left out"].append(judge(reference, clean[left]))
        for kind, mine in others.items():
            found[kind].append(judge(reference, mine))
    return Statistics(size, {kind: torch.cat(mine) for kind, mine in found.items() if mine})


def effective_directions(squares: Tensor) -> float:
    """2·mean²/variance of squared distances: the ν of a χ² that is spread like them."""
    return float(2 * squares.mean().square() / squares.var()) if len(squares) > 2 else math.nan


def pair_squares(runs: Sequence[Run], views: Sequence[str]) -> Tensor:
    """Squared distances of all pairs of runs in each view, ``(pairs, views)``."""
    means = stack(runs, views)
    first, second = torch.combinations(torch.arange(len(means)), 2).T
    return moved(means[first], means[second]).square()
