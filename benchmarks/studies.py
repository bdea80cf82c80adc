"""What the studies of the attention check say: tables of the runs of a scenario, in Markdown.

A study is a :class:`Scenario` and the command line here; :mod:`study_runs` trains.
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
from lightning_saliency.check.evaluate import MOST_CHANGED, Candidate, judge
from lightning_saliency.check.reference import GoodRun, Reference, left_out_moves
from lightning_saliency.check.requirements import DEFAULT, MOVED_MASS, Requirement, parse_all
from lightning_saliency.check.verdict import Finding, Verdict
from lightning_saliency.functional.measures import moved_mass, profile, profiles, share, spearman
from lightning_saliency.record.observation import Measured, Observation
from lightning_saliency.record.run import RunInfo
from lightning_saliency.storage.files import read_tensors

__all__ = ["Pairs", "Scenario", "main"]

Bound: TypeAlias = Callable[[Sequence[float]], float]

PER_CLASS = 8  # images of the probe that are measured
JUDGED = {"squared": "square", "contributions": "contribution"}  # maps, and how a check names them


@dataclass(frozen=True)
class Looks:
    """Where a run looks: what its observation would hold of the label's gradient.

    ``seen`` is what a check judges, measured of one of the ``maps``.
    """

    kind: str
    seed: int
    about: Mapping[str, float]
    maps: Mapping[str, Tensor]
    seen: Candidate

    @classmethod
    def read(cls, scenario: Scenario, path: Path, per_class: int, judged: str) -> Looks:
        """Read a run, with ``per_class`` images of the probe; ``judged`` are maps by their name."""
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
        return cls(
            kind,
            int(seed),
            about,
            maps,
            Candidate(info_of(labels, masks), observation_of(measured)),
        )

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


def read_all(
    scenario: Scenario, cache: Path, per_class: int, judged: str = "squared"
) -> dict[str, list[Looks]]:
    """By kind, the runs that the cache holds."""
    found = {}
    for kind, count in COUNTS.items():
        paths = (run_file(cache, scenario, kind, seed) for seed in range(count))
        found[kind] = [
            Looks.read(scenario, path, per_class, judged) for path in paths if path.exists()
        ]
    return found


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
        f"{thing} share, contributions": lambda run: float(
            share(run.maps["contributions"], inside).nanmean()
        ),
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
    judged: Mapping[str, Mapping[str, list[Looks]]],
    sizes: Iterable[int],
    sets: Mapping[str, Sequence[str]],
) -> None:
    """How many verdicts fail, over references drawn in all ways from the clean runs.

    Args:
        judged: By the maps that are judged, the runs of each kind.
        sizes: Of the references.
        sets: What is required, by what that is called.
    """
    rows = []
    for size in sizes:
        for maps, runs in judged.items():
            for name, sentences in sets.items():
                failed = failures(runs, size, parse_all(sentences))
                rows.append([str(size), JUDGED[maps], name, *map(rate, failed.values())])
    tell(["good runs", "reduce", "required", *named(next(iter(judged.values())))], rows)


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
    known: dict[str, Bound] = {
        "the check's": partial(moved_mass_bound, confidence=CONFIDENCE),
        "by the spread (before)": spread_bound,
    }
    rows = []
    for size in sizes:
        for name in ("squared", "magnitudes", "contributions"):
            for told, bound in known.items():
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


def spread_bound(left_out: Sequence[float]) -> float:
    """The bound that the check used before: of a value, not of a distance."""
    return max(upper(left_out, CONFIDENCE), 1.5 * max(left_out))


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
    "a share changed by half (before)",
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
        rate([any(map(changed_by_half, shares_of(*pair))) for pair in pairs]),
        *(
            mean_sd(float(spearman(now.maps[of], start.maps[of]).nanmean()) for now, start in pairs)
            for of in ("guided", "squared")
        ),
    ]


def shares_of(now: Looks, start: Looks) -> list[tuple[float, float]]:
    return [(now.seen.share(region), start.seen.share(region)) for region in now.seen.info.areas]


def changed_by_half(shares: tuple[float, float]) -> bool:
    """Whether a share is warned of by the rule before, under which any change counted."""
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
    (moved, shares), no_mask = DEFAULT, "moved mass, no mask"
    sets = {
        no_mask: [moved],
        f"{region}.share": [f"{region}.share within auto"],
        f"moved mass, {region}.share": [moved, f"{region}.share within auto"],
        "moved mass, both shares": [moved, shares],
    }
    tell_measures(scenario, scratch)
    both = {name: of_scratch(read_all(scenario, cache, PER_CLASS, name)) for name in JUDGED}
    tell_rates(both, (3, 5), sets)
    print("References of new runs alone:\n")
    tell_rates({name: new_alone(kinds) for name, kinds in both.items()}, (3, 5), {no_mask: [moved]})
    print("Moved mass without a mask, by how the maps are made and the bound is set:\n")
    tell_alternatives(scratch, (3, 5))
    print("Runs that went on from another, against that one alone:\n")
    tell_starts(scenario, runs)
    print("Fine-tuned runs, against references of those that were fine-tuned on clean data:\n")
    tuned = {"clean": runs["tuned-clean"], "tuned-always": runs["tuned-always"]}
    tell_alternatives(tuned, (3,))
    for per_class in (1, 2, 4, 20):
        print(f"{per_class} probe images a class, not {PER_CLASS}:\n")
        fewer = {n: of_scratch(read_all(scenario, cache, per_class, n)) for n in JUDGED}
        tell_rates(fewer, (5,), {no_mask: [moved]})


def of_scratch(runs: Mapping[str, list[Looks]]) -> dict[str, list[Looks]]:
    return {kind: mine for kind, mine in runs.items() if KINDS[kind].start is None}


def new_alone(runs: Mapping[str, list[Looks]]) -> dict[str, list[Looks]]:
    """Only runs that had no part in choosing anything, the clean ones to draw references from."""
    return {"clean": runs["new-clean"], "new-mostly": runs["new-mostly"]}
