"""The tables of a study of the attention check: the runs of a scenario compared, in Markdown.

A study is a :class:`Scenario` and the command line below; :mod:`study_runs` trains.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import pytorch_lightning as pl
import torch
from study_runs import COUNTS, KINDS, Pairs, Scenario, fill, observe_again, run_file
from torch import Tensor

from lightning_saliency.check.bounds import CONFIDENCE, moved_mass_bound, upper
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.measures import MOST_CHANGED, MOVED_MASS, left_out_moves
from lightning_saliency.check.reference import GoodRun, Reference
from lightning_saliency.check.requirements import DEFAULT, Requirement, parse_all
from lightning_saliency.check.verdict import Finding, Verdict
from lightning_saliency.functional.measures import moved_mass, profiles, share, spearman
from lightning_saliency.record.observation import Measured, Observation, Snapshot
from lightning_saliency.record.run import RunInfo
from lightning_saliency.storage.files import read_tensors

__all__ = ["Pairs", "Scenario", "main"]

Bound: TypeAlias = Callable[[Sequence[float]], float]

PER_CLASS = 8  # images of each class of the probe that are measured
JUDGED = {"squared": "square", "contributions": "contribution"}  # maps: their name in a check


@dataclass(frozen=True)
class Looks:
    """Where a run looks: what its observation would hold of the gradient of the label.

    Attributes:
        kind: How the run came about; a key of :data:`study_runs.KINDS`.
        seed: The seed of the run, from 0 in each kind.
        about: The accuracies of the run.
        maps: By name, the maps that the cache holds, ``(images, H, W)``.
        candidate: What a check judges, measured on one of the ``maps``.
    """

    kind: str
    seed: int
    about: Mapping[str, float]
    maps: Mapping[str, Tensor]
    candidate: Candidate

    @classmethod
    def read(cls, scenario: Scenario, path: Path, per_class: int, judged: str) -> Looks:
        """Read a run, with ``per_class`` images of each class; ``judged`` names the maps."""
        about, tensors = read_tensors(path)
        kind, _, seed = path.stem.rpartition("-")
        chosen = first_of_each(scenario.probe.labels, per_class)
        maps = {name: kept[chosen] for name, kept in tensors.items() if not name.startswith("w.")}
        masks = {name: mask[chosen] for name, mask in scenario.probe.masks.items()}
        labels = scenario.probe.labels[chosen]
        measured = Measured(
            classes=labels,
            probabilities=torch.zeros(len(labels)),
            maps=maps[judged].half(),
            profiles=profiles(maps[judged]),
            shares={name: share(maps[judged], mask) for name, mask in masks.items()},
        )
        candidate = Candidate(describe(labels, masks), Observation(NO_SNAPSHOT, 0, "", measured))
        return cls(kind, int(seed), about, maps, candidate)

    @cached_property
    def profile(self) -> Tensor:
        return self.candidate.measured.mean_profile()

    def share(self, region: str) -> float:
        return self.candidate.measured.mean_share(region)

    def mean_profile(self, name: str) -> Tensor:
        """The mean profile of the maps of that name, which need not be the ones judged."""
        return profiles(self.maps[name]).nanmean(dim=0)


# Nothing is drawn here, so there is nothing to show.
NO_SNAPSHOT = Snapshot(0, "", torch.empty(0), torch.empty(0), None, maps={}, peaks={})


def first_of_each(labels: Tensor, count: int) -> Tensor:
    """The indices of the first ``count`` images of each class."""
    return torch.cat([(labels == k).nonzero()[:count, 0] for k in labels.unique()])


def describe(labels: Tensor, masks: Mapping[str, Tensor]) -> RunInfo:
    names = tuple(map(str, range(len(labels))))
    areas = {name: float(mask.float().mean()) for name, mask in masks.items()}
    return RunInfo(name="saliency", fingerprint="", images=names, areas=areas)


def build_reference(good: Sequence[Looks]) -> Reference:
    """A reference made of runs in the cache."""
    measured = [looks.candidate.measured for looks in good]
    regions = measured[0].shares
    return Reference(
        info=good[0].candidate.info,
        runs=tuple(GoodRun(0, "", None, None, "", {}, {}) for _ in good),
        classes=measured[0].classes,
        profiles=torch.stack([m.profiles for m in measured]),
        shares={name: torch.stack([m.shares[name] for m in measured]) for name in regions},
        maps=torch.empty(0),
        photos=torch.empty(0),
    )


def read_all(
    scenario: Scenario, cache: Path, per_class: int, judged: str = "squared"
) -> dict[str, list[Looks]]:
    """The runs that the cache holds, by kind."""
    found = {}
    for kind, count in COUNTS.items():
        paths = (run_file(cache, scenario, kind, seed) for seed in range(count))
        found[kind] = [
            Looks.read(scenario, path, per_class, judged) for path in paths if path.exists()
        ]
    return found


def print_measures(scenario: Scenario, runs: Mapping[str, list[Looks]]) -> None:
    """Print the measures of each kind of run, mean ± standard deviation."""
    cue, thing = scenario.cue, scenario.object
    inside = scenario.probe.masks[thing][first_of_each(scenario.probe.labels, PER_CLASS)]
    measures: dict[str, Callable[[Looks], float]] = {
        "accuracy on data like the training data": lambda run: run.about["accuracy"],
        f"accuracy with the {cue} randomised": lambda run: run.about["randomised"],
        f"{thing} share, guided backprop, abs": lambda run: float(
            share(run.maps["guided"], inside).nanmean()
        ),
        f"{thing} share, gradient squared": lambda run: run.share(thing),
        f"{cue} share, gradient squared": lambda run: run.share(cue),
        f"{thing} share, contributions": lambda run: float(
            share(run.maps["contributions"], inside).nanmean()
        ),
        f"p(label) lost when the {cue} is hidden": lambda run: float(run.maps["lost"].mean()),
    }
    areas = runs["clean"][0].candidate.info.areas
    print(", ".join(f"area share of the {name} {area:.3f}" for name, area in areas.items()) + "\n")
    rows = [
        [name, *(mean_sd(map(measure, mine)) for mine in runs.values())]
        for name, measure in measures.items()
    ]
    for name in ("squared", "contributions"):
        pairs = [moves_from_clean(runs["clean"], mine, name) for mine in runs.values()]
        rows.append([f"moved mass against a clean run, {name}", *map(spread, pairs)])
    print_table(["", *(f"{kind} ({len(mine)})" for kind, mine in runs.items())], rows)


def moves_from_clean(clean: Sequence[Looks], mine: Sequence[Looks], name: str) -> list[float]:
    """Moved mass in the maps ``name``, for each pair of a clean run and another run."""
    before = [(run, run.mean_profile(name)) for run in clean]
    after = [(run, run.mean_profile(name)) for run in mine]
    return [moved_mass(p, q) for run, p in before for other, q in after if run is not other]


def print_rates(
    judged: Mapping[str, Mapping[str, list[Looks]]],
    sizes: Iterable[int],
    sets: Mapping[str, Sequence[str]],
) -> None:
    """Print the rate of failing verdicts, over all references that clean runs can make.

    Args:
        judged: The runs of each kind, by the name of the maps that are judged.
        sizes: The numbers of runs in a reference.
        sets: The requirements, by the heading of their rows.
    """
    rows = []
    for size in sizes:
        for maps, runs in judged.items():
            for name, sentences in sets.items():
                failed = failures(runs, size, parse_all(sentences))
                rows.append([str(size), JUDGED[maps], name, *map(rate, failed.values())])
    print_table(["good runs", "reduce", "required", *named(next(iter(judged.values())))], rows)


def named(runs: Iterable[str]) -> list[str]:
    return ["clean, left out" if kind == "clean" else kind for kind in runs]


def failures(
    runs: Mapping[str, list[Looks]], size: int, required: Sequence[Requirement]
) -> dict[str, list[bool]]:
    """Whether each possible verdict fails, by the kind of the run that is judged."""
    failed: dict[str, list[bool]] = {kind: [] for kind in runs}
    for good in combinations(runs["clean"], size):
        reference = build_reference(good)
        profile = reference.profile()
        # The bounds are the same for every run that is held against the reference, so they are
        # computed once, for any run at all.
        findings = evaluate(good[0].candidate, reference, required).findings
        for kind, mine in runs.items():
            judged = [looks for looks in mine if not any(looks is one for one in good)]
            failed[kind] += [any(outside(f, looks, profile) for f in findings) for looks in judged]
    return failed


def outside(finding: Finding, looks: Looks, profile: Tensor) -> bool:
    """Whether a run is outside the bounds of a finding that was made on another run."""
    if finding.measure == MOVED_MASS.name:
        value = moved_mass(looks.profile, profile)
    else:
        value = looks.share(finding.measure.removesuffix(".share"))
    return (finding.low is not None and value < finding.low) or (
        finding.high is not None and value > finding.high
    )


def print_alternatives(runs: Mapping[str, list[Looks]], sizes: Iterable[int]) -> None:
    """Print how often moved mass fails for other maps and another bound than the check's."""
    bounds: dict[str, Bound] = {
        "the check's": partial(moved_mass_bound, confidence=CONFIDENCE),
        "by the spread (before)": spread_bound,
    }
    rows = []
    for size in sizes:
        for name in ("squared", "magnitudes", "contributions"):
            for words, bound in bounds.items():
                failed = moved_rates(runs, size, name, bound)
                rows.append([str(size), name, words, *map(rate, failed.values())])
    print_table(["good runs", "maps", "bound", *named(runs)], rows)


def moved_rates(
    runs: Mapping[str, list[Looks]], size: int, name: str, bound: Bound
) -> dict[str, list[bool]]:
    """Whether moved mass exceeds its bound, by kind, over all references of clean runs."""
    found = {kind: [looks.mean_profile(name) for looks in mine] for kind, mine in runs.items()}
    failed: dict[str, list[bool]] = {kind: [] for kind in runs}
    for chosen in combinations(range(len(found["clean"])), size):
        good = torch.stack([found["clean"][i] for i in chosen])
        allowed, middle = bound(left_out_moves(good)), good.mean(dim=0)
        for kind, mine in found.items():
            left = [p for i, p in enumerate(mine) if kind != "clean" or i not in chosen]
            failed[kind] += [moved_mass(p, middle) > allowed for p in left]
    return failed


def spread_bound(left_out: Sequence[float]) -> float:
    """The bound that the check used formerly: it took a distance for any other value."""
    return max(upper(left_out, CONFIDENCE), 1.5 * max(left_out))


def print_starts(scenario: Scenario, runs: Mapping[str, list[Looks]]) -> None:
    """Print how runs that went on from another compare with that one alone."""
    rows = []
    for kind, how in KINDS.items():
        if how.start is not None and runs[kind]:
            pairs = [(looks, runs[how.start][looks.seed]) for looks in runs[kind]]
            accuracies = (
                mean_sd(now.about[name] for now, _ in pairs) for name in ("accuracy", "randomised")
            )
            lost = mean_sd(float(now.maps["lost"].mean()) for now, _ in pairs)
            cue = mean_sd(now.share(scenario.cue) for now, _ in pairs)
            rows.append([kind, how.start, *accuracies, lost, cue, *against_start(pairs)])
    print_table(["", "start", *ABOUT_THEM, f"{scenario.cue} share", *AGAINST_START], rows)


ABOUT_THEM = ["accuracy", "cue randomised", "p(label) lost, cue hidden"]
AGAINST_START = [
    *("moved mass, squared", "moved mass, contributions"),
    *("warned of moved mass", "fails under --strict, no mask", "warned of shares"),
    "a share changed by half (before)",
    *("guided maps alike", "squared gradients alike"),
]


def against_start(pairs: Sequence[tuple[Looks, Looks]]) -> list[str]:
    """Moved mass, verdicts against a reference of one run, and rank correlation of the maps."""

    def moved(name: str) -> list[float]:
        return [moved_mass(now.mean_profile(name), s.mean_profile(name)) for now, s in pairs]

    def verdicts(required: Sequence[str], strict: bool = False) -> list[Verdict]:
        sentences = parse_all(required)
        references = ((now, build_reference([start])) for now, start in pairs)
        return [evaluate(now.candidate, r, sentences, strict=strict) for now, r in references]

    def alike(name: str) -> str:
        return mean_sd(float(spearman(n.maps[name], s.maps[name]).nanmean()) for n, s in pairs)

    no_mask, shares = DEFAULT
    return [
        *(spread(moved(name)) for name in ("squared", "contributions")),
        rate([bool(v.warnings) for v in verdicts([no_mask])]),
        rate([v.outcome == "fail" for v in verdicts([no_mask], strict=True)]),
        rate([bool(v.warnings) for v in verdicts([shares])]),
        rate([any(map(changed_by_half, pair_shares(*pair))) for pair in pairs]),
        *(alike(name) for name in ("guided", "squared")),
    ]


def pair_shares(now: Looks, start: Looks) -> list[tuple[float, float]]:
    regions = now.candidate.info.areas
    return [(now.share(region), start.share(region)) for region in regions]


def changed_by_half(shares: tuple[float, float]) -> bool:
    """Whether the former rule warns of a share: it counted every change, however small."""
    now, start = shares
    return abs(now - start) > MOST_CHANGED * start


def mean_sd(values: Iterable[float]) -> str:
    known = list(values)
    if len(known) < 2:
        return "–"
    mean = round(statistics.fmean(known), 3) + 0.0  # no minus before 0.000
    return f"{mean:.3f} ± {statistics.stdev(known):.3f}"


def spread(values: Sequence[float]) -> str:
    return f"{mean_sd(values)} ({min(values):.3f} to {max(values):.3f})" if values else "–"


def rate(failed: Sequence[bool]) -> str:
    return f"{statistics.fmean(failed):.3f}" if failed else "–"


def print_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table in Markdown."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(row) + " |")
    print()


# --- the command line


def main(scenario: Scenario, about: str | None) -> None:
    parser = argparse.ArgumentParser(description=(about or "").strip().splitlines()[0])
    parser.add_argument("--cache", type=Path, default=Path(".study"), help="folder of the runs")
    parser.add_argument("--tables", action="store_true", help="train nothing")
    parser.add_argument("--again", action="store_true", help="observe all runs in the cache again")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # networks this small gain nothing from more
    for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    if arguments.again:
        observe_again(scenario, arguments.cache)
    if not arguments.tables:
        fill(scenario, arguments.cache)
    report(scenario, arguments.cache)


def report(scenario: Scenario, cache: Path) -> None:
    """Print all tables."""
    print(f"torch {torch.__version__}, pytorch-lightning {pl.__version__}, {platform.machine()}\n")
    runs = read_all(scenario, cache, PER_CLASS)
    scratch = from_scratch(runs)
    region = scenario.object
    (moved, shares), no_mask = DEFAULT, "moved mass, no mask"
    sets = {
        no_mask: [moved],
        f"{region}.share": [f"{region}.share within auto"],
        f"moved mass, {region}.share": [moved, f"{region}.share within auto"],
        "moved mass, both shares": [moved, shares],
    }
    print_measures(scenario, scratch)
    both = {name: from_scratch(read_all(scenario, cache, PER_CLASS, name)) for name in JUDGED}
    print_rates(both, (3, 5), sets)
    print("References of new runs alone:\n")
    print_rates(
        {name: new_alone(kinds) for name, kinds in both.items()}, (3, 5), {no_mask: [moved]}
    )
    print("Moved mass without a mask, by how the maps are made and the bound is set:\n")
    print_alternatives(scratch, (3, 5))
    print("Runs that went on from another, against that one alone:\n")
    print_starts(scenario, runs)
    print("Fine-tuned runs, against references of those that were fine-tuned on clean data:\n")
    tuned = {"clean": runs["tuned-clean"], "tuned-always": runs["tuned-always"]}
    print_alternatives(tuned, (3,))
    for per_class in (1, 2, 4, 20):
        print(f"{per_class} probe images per class instead of {PER_CLASS}:\n")
        fewer = {n: from_scratch(read_all(scenario, cache, per_class, n)) for n in JUDGED}
        print_rates(fewer, (5,), {no_mask: [moved]})


def from_scratch(runs: Mapping[str, list[Looks]]) -> dict[str, list[Looks]]:
    return {kind: mine for kind, mine in runs.items() if KINDS[kind].start is None}


def new_alone(runs: Mapping[str, list[Looks]]) -> dict[str, list[Looks]]:
    """Only the runs that no choice was based on; the clean ones make the references."""
    return {"clean": runs["new-clean"], "new-mostly": runs["new-mostly"]}
