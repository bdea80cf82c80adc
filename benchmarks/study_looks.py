"""Runs of a study as a check would have recorded them: what is measured, and references."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from study_runs import KINDS, Scenario, find_files, first_of_each
from torch import Tensor

from lightning_saliency.check.evaluate import Candidate
from lightning_saliency.check.reference import GoodRun, Reference
from lightning_saliency.functional.measures import profiles, share
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import Measured, Observation, Snapshot
from lightning_saliency.storage.files import read_tensors

# What a check may be told to measure: the maps that it is made of.
REDUCES = {
    "square": ("squared",),
    "sensitivity": ("sensitivities",),
    "contribution": ("contributions",),
    "joint": ("sensitivities", "contributions"),
}


@dataclass(frozen=True)
class Looks:
    """Where a run looks: what its observation would hold of the gradient of the label.

    Attributes:
        kind: How the run came about; a key of :data:`study_runs.KINDS`.
        seed: The seed of the run, from 0 in each kind.
        about: The accuracies of the run.
        maps: By name, the maps that the cache holds, ``(images, H, W)``.
        lost: How far p(label) falls without the cue, ``(images,)``.
        candidates: By the name of a reduction, what a check judges.
    """

    kind: str
    seed: int
    about: Mapping[str, float]
    maps: Mapping[str, Tensor]
    lost: Tensor
    candidates: Mapping[str, Candidate]

    @classmethod
    def read(cls, scenario: Scenario, path: Path, per_class: int) -> Looks:
        """Read a run, with ``per_class`` images of each class."""
        about, tensors = read_tensors(path)
        kind, _, seed = path.stem.rpartition("-")
        chosen = first_of_each(scenario.probe.labels, per_class)
        maps = {name: kept[chosen] for name, kept in tensors.items() if not name.startswith("w.")}
        maps["sensitivities"] = maps["magnitudes"].sqrt()
        lost = maps.pop("lost")
        masks = {name: mask[chosen] for name, mask in scenario.probe.masks.items()}
        labels = scenario.probe.labels[chosen]
        info = describe(labels, masks)
        candidates = {
            reduce: Candidate(info, measure([maps[name] for name in names], labels, masks))
            for reduce, names in REDUCES.items()
        }
        return cls(kind, int(seed), about, maps, lost, candidates)

    def share(self, region: str, reduce: str) -> float:
        """The mean share of a region."""
        return self.candidates[reduce].measured.mean_share(region)

    def views(self, reduce: str) -> Tensor:
        """The mean profile of each view, ``(V, 8, 8)``."""
        return self.candidates[reduce].measured.mean_views()


# Nothing is drawn here, so there is nothing to show.
NO_SNAPSHOT = Snapshot(0, "", torch.empty(0), torch.empty(0), None, maps={}, peaks={})


def measure(views: Sequence[Tensor], labels: Tensor, masks: Mapping[str, Tensor]) -> Observation:
    """What the check measures of maps ``(images, H, W)``, one for each view."""
    shares = {
        name: torch.stack([share(maps, mask) for maps in views]).mean(dim=0)
        for name, mask in masks.items()
    }
    measured = Measured(
        classes=labels,
        probabilities=torch.zeros(len(labels)),
        maps=torch.empty(0),
        views=torch.stack([profiles(maps) for maps in views], dim=1),
        shares=shares,
    )
    return Observation(NO_SNAPSHOT, 0, "", measured)


def describe(labels: Tensor, masks: Mapping[str, Tensor]) -> RunInfo:
    names = tuple(map(str, range(len(labels))))
    areas = {name: float(mask.float().mean()) for name, mask in masks.items()}
    return RunInfo(name="saliency", fingerprint="", images=names, areas=areas)


def build_reference(good: Sequence[Looks], reduce: str) -> Reference:
    """A reference made of runs in the cache."""
    info = good[0].candidates[reduce].info
    measured = [looks.candidates[reduce].measured for looks in good]
    return Reference(
        info=info,
        runs=tuple(GoodRun(0, "", None, None, "", {}, {}) for _ in good),
        classes=measured[0].classes,
        views=torch.stack([m.views for m in measured]),
        shares={name: torch.stack([m.shares[name] for m in measured]) for name in info.areas},
        maps=torch.empty(0),
        photos=torch.empty(0),
    )


def read_all(
    scenario: Scenario, cache: Path, per_class: int, kinds: Iterable[str] = KINDS
) -> dict[str, list[Looks]]:
    """The runs that the cache holds, by kind; a kind without any is left out."""
    found = {}
    for kind in kinds:
        paths = find_files(cache, scenario, kind)
        if runs := [Looks.read(scenario, path, per_class) for path in paths]:
            found[kind] = runs
    return found
