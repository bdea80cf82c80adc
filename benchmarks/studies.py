"""What the studies of the attention check say: tables of the runs of a scenario, in Markdown.

A study is a :class:`Scenario` and the command line here; :mod:`study_runs` trains.
"""

from __future__ import annotations

import argparse
import logging
import math
import platform
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

import pytorch_lightning as pl
import scipy.stats
import torch
from study_runs import COUNTS, KINDS, Pairs, Scenario, fill, observe_again, run_file
from torch import Tensor

from lightning_saliency.bounds import CONFIDENCE, moved_mass_bound
from lightning_saliency.files import read_tensors
from lightning_saliency.judge import MOST_CHANGED, Seen, judge
from lightning_saliency.measures import moved_mass, profile, profiles, share, spearman
from lightning_saliency.record import Measured, Observation, RunInfo
from lightning_saliency.reference import GoodRun, Reference, left_out_moves
from lightning_saliency.requirements import DEFAULT, MOVED_MASS, Requirement, parse_all
from lightning_saliency.verdict import Finding, Verdict

__all__ = ["Pairs", "Scenario", "main"]

Bound: TypeAlias = Callable[[Sequence[float]], float]

PER_CLASS = 8  # images of the probe that are measured
LEAST_CHANGED = 0.02  # of a share, to be something
FREEDOM = 5  # directions in which good runs differ, by how their moved masses spread


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
        maps = {name: kept[chosen] for name, kept in tensors.items() if not name.startswith("w.")}
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
    """What each kind of run measures, mean ± standard deviation."""
    cue, thing = scenario.cue, scenario.object
    inside = scenario.probe.masks[thing][first_of_each(scenario.probe.labels, PER_CLASS)]
    measures: dict[str, Callable[[Looks], float]] = {
        "accuracy on data like the training data": lambda run: run.about["accuracy"],
        f"accuracy with the {cue} randomised": lambda run: run.about["randomised"],
        f"{thing} share, guided backprop, abs": lambda run: float(
            share(run.maps["guided"], inside).nanmean()
        ),
        f"{thing} share, gradient squared": lambda run: run.seen.share(thing),
        f"{cue} share, gradient squared": lambda run: run.seen.share(cue),
        f"p(label) lost when the {cue} is hidden": lambda run: float(run.maps["lost"].mean()),
    }
    areas = runs["clean"][0].seen.info.areas
    print(", ".join(f"area share of the {name} {area:.3f}" for name, area in areas.items()) + "\n")
    rows = [
        [name, *(mean_sd(map(of, mine)) for mine in runs.values())] for name, of in measures.items()
    ]
    for name in ("squared", "contributions"):
        pairs = [moves_from_clean(runs["clean"], mine, name) for mine in runs.values()]
        rows.append([f"moved mass against a clean run, {name}", *map(spread, pairs)])
    tell(["", *(f"{kind} ({len(mine)})" for kind, mine in runs.items())], rows)


def moves_from_clean(clean: Sequence[Looks], mine: Sequence[Looks], name: str) -> list[float]:
    """Of each pair of a clean run and another."""
    before = [(run, profile(run.maps[name])) for run in clean]
    after = [(run, profile(run.maps[name])) for run in mine]
    return [moved_mass(p, q) for run, p in before for other, q in after if run is not other]


def tell_rates(
    runs: Mapping[str, list[Looks]], sizes: Iterable[int], sets: Mapping[str, Sequence[str]]
) -> None:
    """How many verdicts fail, over references drawn in all ways from the clean runs."""
    rows = []
    for size in sizes:
        for name, sentences in sets.items():
            failed = failures(runs, size, parse_all(sentences))
            rows.append([str(size), name, *map(rate, failed.values())])
    tell(["good runs", "required", *named(runs)], rows)


def named(runs: Iterable[str]) -> list[str]:
    return ["clean, left out" if kind == "clean" else kind for kind in runs]


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


def tell_alternatives(runs: Mapping[str, list[Looks]], sizes: Iterable[int]) -> None:
    """Moved mass of other maps and with another bound, beside those of the check."""
    bounds = {"the check's": partial(moved_mass_bound, confidence=CONFIDENCE), "ratio": ratio_bound}
    rows = []
    for size in sizes:
        for name in ("squared", "magnitudes", "contributions"):
            for told, bound in bounds.items():
                failed = moved_rates(runs, size, name, bound)
                rows.append([str(size), name, told, *map(rate, failed.values())])
    tell(["good runs", "maps", "bound", *named(runs)], rows)


def moved_rates(
    runs: Mapping[str, list[Looks]], size: int, name: str, bound: Bound
) -> dict[str, list[bool]]:
    """By kind, whether moved mass is beyond its bound, over references drawn in all ways."""
    found = {kind: [profile(looks.maps[name]) for looks in mine] for kind, mine in runs.items()}
    failed: dict[str, list[bool]] = {kind: [] for kind in runs}
    for chosen in combinations(range(len(found["clean"])), size):
        good = torch.stack([found["clean"][i] for i in chosen])
        allowed, middle = bound(left_out_moves(good)), good.mean(dim=0)
        for kind, mine in found.items():
            left = [p for i, p in enumerate(mine) if kind != "clean" or i not in chosen]
            failed[kind] += [moved_mass(p, middle) > allowed for p in left]
    return failed


def ratio_bound(left_out: Sequence[float]) -> float:
    """A multiple of the root mean square of the moves of the good runs.

    A distance in several directions spreads like the root of a χ² of as many degrees of freedom,
    so the ratio of two such squares follows Fisher's F. Where three to five runs tell no spread
    worth its name, their mean is known well.
    """
    return fisher(len(left_out)) * math.sqrt(statistics.fmean(move**2 for move in left_out))


@lru_cache
def fisher(count: int) -> float:
    return math.sqrt(scipy.stats.f.ppf(CONFIDENCE, FREEDOM, FREEDOM * count))


def tell_starts(scenario: Scenario, runs: Mapping[str, list[Looks]]) -> None:
    """What went on from another run, against that run alone."""
    rows = []
    for kind, how in KINDS.items():
        if how.start is not None and runs[kind]:
            pairs = [(looks, runs[how.start][looks.seed]) for looks in runs[kind]]
            accuracies = (
                mean_sd(now.about[of] for now, _ in pairs) for of in ("accuracy", "randomised")
            )
            lost = mean_sd(float(now.maps["lost"].mean()) for now, _ in pairs)
            cue = mean_sd(now.seen.share(scenario.cue) for now, _ in pairs)
            rows.append([kind, how.start, *accuracies, lost, cue, *against_start(pairs)])
    tell(["", "start", *ABOUT_THEM, f"{scenario.cue} share", *AGAINST_START], rows)


ABOUT_THEM = ["accuracy", "cue randomised", "p(label) lost, cue hidden"]
AGAINST_START = [
    *("moved mass, squared", "moved mass, contributions"),
    *("warned of moved mass", "fails under --strict, no mask", "warned of shares"),
    "of shares that changed by .02 at least",
    *("guided maps alike", "squared gradients alike"),
]


def against_start(pairs: Sequence[tuple[Looks, Looks]]) -> list[str]:
    """Moved mass, verdicts on a reference of one run, rank correlation of the maps."""

    def moved(name: str) -> list[float]:
        profiles = ((profile(run.maps[name]) for run in pair) for pair in pairs)
        return [moved_mass(now, start) for now, start in profiles]

    def verdicts(required: Sequence[str], strict: bool = False) -> list[Verdict]:
        sentences = parse_all(required)
        one = ((now, reference_of([start])) for now, start in pairs)
        return [judge(now.seen, start, sentences, strict=strict) for now, start in one]

    no_mask, shares = DEFAULT
    return [
        *(spread(moved(name)) for name in ("squared", "contributions")),
        rate([bool(v.warnings) for v in verdicts([no_mask])]),
        rate([v.outcome == "fail" for v in verdicts([no_mask], strict=True)]),
        rate([bool(v.warnings) for v in verdicts([shares])]),
        rate([any(map(clearly_changed, shares_of(*pair))) for pair in pairs]),
        *(
            mean_sd(float(spearman(now.maps[of], start.maps[of]).nanmean()) for now, start in pairs)
            for of in ("guided", "squared")
        ),
    ]


def shares_of(now: Looks, start: Looks) -> list[tuple[float, float]]:
    return [(now.seen.share(region), start.seen.share(region)) for region in now.seen.info.areas]


def clearly_changed(shares: tuple[float, float]) -> bool:
    """Whether a share changed by more than half, and by so much that it is something."""
    now, start = shares
    return abs(now - start) > max(MOST_CHANGED * start, LEAST_CHANGED)


def mean_sd(values: Iterable[float]) -> str:
    known = list(values)
    if len(known) < 2:
        return "–"
    return f"{statistics.fmean(known):.3f} ± {statistics.stdev(known):.3f}"


def spread(values: Sequence[float]) -> str:
    return f"{mean_sd(values)} ({min(values):.3f} to {max(values):.3f})" if values else "–"


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
    scratch = of_scratch(runs)
    region = scenario.object
    moved, shares = DEFAULT
    sets = {
        "moved mass, no mask": [moved],
        f"{region}.share": [f"{region}.share within auto"],
        f"moved mass, {region}.share": [moved, f"{region}.share within auto"],
        "moved mass, both shares": [moved, shares],
    }
    tell_measures(scenario, scratch)
    tell_rates(scratch, (3, 5), sets)
    print("Moved mass without a mask, by how the maps are made and the bound is set:\n")
    tell_alternatives(scratch, (3, 5))
    print("Runs that went on from another, against that one alone:\n")
    tell_starts(scenario, runs)
    print("Fine-tuned runs, against references of those that were fine-tuned on clean data:\n")
    tuned = {"clean": runs["tuned-clean"], "tuned-always": runs["tuned-always"]}
    tell_alternatives(tuned, (3,))
    for per_class in (1, 2, 4, 20):
        print(f"{per_class} probe images a class, not {PER_CLASS}:\n")
        fewer = of_scratch(read_all(scenario, cache, per_class))
        tell_rates(fewer, (5,), {"moved mass, no mask": [moved]})


def of_scratch(runs: Mapping[str, list[Looks]]) -> dict[str, list[Looks]]:
    return {kind: mine for kind, mine in runs.items() if KINDS[kind].start is None}
