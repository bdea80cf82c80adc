"""The tables of a study of the attention check: the runs of a scenario compared, in Markdown.

A study is a :class:`Scenario` and the command line below; :mod:`study_runs` trains, and
:mod:`study_choices` prints what the numbers of the check were chosen from.
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytorch_lightning as pl
import torch
from study_joint import choose
from study_looks import REDUCES, Looks, build_reference, read_all
from study_runs import KINDS, RECIPES, Scenario, favoured, fill, observe_again

from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.measures import find_measure
from lightning_saliency.check.moves import find_move
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.requirements import DEFAULT, Requirement, parse_all
from lightning_saliency.check.verdict import Finding, Verdict

__all__ = ["Scenario", "main"]

REFERENCES = 60  # that a table judges by at most, for each size
PER_CLASS = 8  # images of each class of the probe that are measured
OLD_AND_NEW = ("square", "joint")


def print_measures(scenario: Scenario, runs: Mapping[str, list[Looks]]) -> None:
    """Print the measures of each kind of run, mean ± standard deviation."""
    cue, areas = scenario.cue, runs["clean"][0].candidates["joint"].info.areas
    measures: dict[str, Callable[[Looks], float]] = {
        "accuracy on data like the training data": lambda run: run.about["accuracy"],
        f"accuracy with the {cue} randomised": lambda run: run.about["randomised"],
        f"p(label) lost without the {cue}": lambda run: float(run.lost.mean()),
    }
    for region in areas:
        for reduce in OLD_AND_NEW:
            # Both are bound as defaults, because the functions are called after the loops.
            measures[f"{region} share, {reduce}"] = lambda run, region=region, reduce=reduce: (
                run.share(region, reduce)
            )
    print(", ".join(f"area share of the {name} {area:.3f}" for name, area in areas.items()) + "\n")
    rows = [
        [name, *(mean_sd(map(measure, mine)) for mine in runs.values())]
        for name, measure in measures.items()
    ]
    for reduce in ("square", "sensitivity", "contribution"):
        pairs = [moves_from_clean(runs["clean"], mine, reduce) for mine in runs.values()]
        rows.append([f"moved mass against a clean run, {reduce}", *map(spread, pairs)])
    print_table(["", *(f"{kind} ({len(mine)})" for kind, mine in runs.items())], rows)


def moves_from_clean(clean: Sequence[Looks], mine: Sequence[Looks], reduce: str) -> list[float]:
    """How far one run is from another, for each pair of a clean run and another run."""
    pairs = [(first, second) for first in clean for second in mine if first is not second]
    return [find_move(second.views(reduce), first.views(reduce)[None]) for first, second in pairs]


def print_rates(
    runs: Mapping[str, list[Looks]],
    good: str,
    sizes: Iterable[int],
    sets: Mapping[str, Sequence[str]],
    reduces: Iterable[str] = OLD_AND_NEW,
) -> None:
    """Print the rate of failing verdicts, over all references that runs of a kind can make.

    Args:
        runs: The runs of each kind.
        good: The kind of run that references are made of.
        sizes: The numbers of runs in a reference.
        sets: The requirements, by the heading of their rows.
        reduces: What is measured.
    """
    rows = []
    for size in sizes:
        for reduce in reduces:
            for name, sentences in sets.items():
                failed = failures(runs, good, size, parse_all(sentences), reduce)
                rows.append([str(size), reduce, name, *map(rate, failed.values())])
    named = [f"{kind}, left out" if kind == good else kind for kind in runs]
    print_table(["good runs", "reduce", "required", *named], rows)


def failures(
    runs: Mapping[str, list[Looks]],
    good: str,
    size: int,
    required: Sequence[Requirement],
    reduce: str,
) -> dict[str, list[bool]]:
    """Whether each possible verdict fails, by the kind of the run that is judged."""
    failed: dict[str, list[bool]] = {kind: [] for kind in runs}
    for chosen in choose(len(runs[good]), size, REFERENCES):
        mine = [runs[good][i] for i in chosen]
        reference = build_reference(mine, reduce)
        # The bounds are the same for every run that is held against the reference, so they are
        # computed once, for any run at all.
        findings = evaluate(mine[0].candidates[reduce], reference, required).findings
        for kind, others in runs.items():
            judged = [looks for looks in others if not any(looks is one for one in mine)]
            failed[kind] += [
                any(outside(finding, looks.candidates[reduce], reference) for finding in findings)
                for looks in judged
            ]
    return failed


def outside(finding: Finding, candidate: Candidate, reference: Reference) -> bool:
    """Whether a run is outside the bounds of a finding that was made on another run."""
    found = find_measure(finding.measure)
    if found is None:
        raise ValueError(f"there is no measure {finding.measure!r}")
    measure, region = found
    value = measure.value(candidate.measured, region, reference)
    return (finding.low is not None and value < finding.low) or (
        finding.high is not None and value > finding.high
    )


def print_recipes(runs: Mapping[str, list[Looks]], sizes: Iterable[int]) -> None:
    """Print how often a changed recipe fails without a mask, on clean data."""
    rows = []
    kinds = {name: f"recipe-{name}" for name in RECIPES if f"recipe-{name}" in runs}
    for size in sizes:
        for reduce in REDUCES:
            failed: dict[str, list[bool]] = {kind: [] for kind in kinds.values()}
            for good in GOOD:
                judged = {good: runs[good]} | {kind: runs[kind] for kind in kinds.values()}
                required = parse_all(NO_MASK if reduce == "joint" else [MOVED])
                found = failures(judged, good, size, required, reduce)
                for kind in failed:
                    failed[kind] += found[kind]
            kept = [each for kind, mine in failed.items() if kind != "recipe-sgd" for each in mine]
            rows.append([str(size), reduce, *map(rate, failed.values()), rate(kept)])
    print_table(["good runs", "reduce", *kinds, "all but sgd"], rows)


def print_classes(scenario: Scenario, cache: Path, reduce: str = "joint", size: int = 5) -> None:
    """Print what is found of a cue that agrees for one class, from how many images of each."""
    rows = []
    most = int(torch.bincount(scenario.probe.labels).min())
    for per_class in [count for count in (1, 2, 4, 8, 20) if count <= most]:
        kinds = ["clean", "new-clean", *(name for name, kind in KINDS.items() if kind.one_class)]
        runs = read_all(scenario, cache, per_class, kinds)
        found: dict[str, list[bool]] = {}
        for chosen in choose(len(runs["clean"]), size)[::2]:
            reference = build_reference([runs["clean"][i] for i in chosen], reduce)
            for kind in [kind for kind in runs if kind != "clean"]:
                for looks in runs[kind]:
                    verdict = evaluate(looks.candidates[reduce], reference, parse_all(NO_MASK))
                    far = {m.index for m in verdict.classes if m.bound and m.moved > m.bound}
                    own = favoured(looks.seed, scenario.classes)
                    found.setdefault(f"{kind}: fails", []).append(verdict.outcome == "fail")
                    found.setdefault(f"{kind}: a class is named", []).append(bool(far))
                    if KINDS[kind].one_class:
                        found.setdefault(f"{kind}: its class is named", []).append(own in far)
        rows.append([str(per_class), *map(rate, found.values())])
    print_table(["images per class", *found], rows)


def print_starts(runs: Mapping[str, list[Looks]]) -> None:
    """Print how runs that went on from another compare with that one alone."""
    rows = []
    for kind, mine in runs.items():
        start = KINDS[kind].start
        if start is not None and start in runs:
            by_seed = {looks.seed: looks for looks in runs[start]}
            pairs = [(looks, by_seed[looks.seed]) for looks in mine if looks.seed in by_seed]
            accuracies = (
                mean_sd(now.about[name] for now, _ in pairs) for name in ("accuracy", "randomised")
            )
            lost = mean_sd(float(now.lost.mean()) for now, _ in pairs)
            rows.append([kind, start, *accuracies, lost, *against_start(pairs)])
    print_table(["", "start", *ABOUT_THEM, *AGAINST_START], rows)


ABOUT_THEM = ["accuracy", "cue randomised", "p(label) lost without the cue"]
AGAINST_START = [
    *(f"{words}, {reduce}" for reduce in OLD_AND_NEW for words in ("moved", "warned of it")),
    "warned of shares, joint",
]


def against_start(pairs: Sequence[tuple[Looks, Looks]]) -> list[str]:
    """Moved mass, and verdicts against a reference of one run."""

    def verdicts(sentences: Sequence[str], reduce: str) -> list[Verdict]:
        required = parse_all(sentences)
        return [
            evaluate(now.candidates[reduce], build_reference([start], reduce), required)
            for now, start in pairs
        ]

    cells = []
    for reduce in OLD_AND_NEW:
        found = verdicts([MOVED], reduce)
        cells += [
            spread([verdict.findings[0].value for verdict in found]),
            rate([bool(verdict.warnings) for verdict in found]),
        ]
    return [
        *cells,
        rate([bool(verdict.warnings) for verdict in verdicts(["*.share within auto"], "joint")]),
    ]


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
    parser.add_argument("--kinds", nargs="+", help="train only these, and print nothing")
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
        fill(scenario, arguments.cache, arguments.kinds or KINDS)
    report(scenario, arguments.cache)


GOOD = ("clean", "new-clean")  # what references are made of: to choose by, and to report on


def report(scenario: Scenario, cache: Path) -> None:
    """Print all tables."""
    print(f"torch {torch.__version__}, pytorch-lightning {pl.__version__}, {platform.machine()}\n")
    runs = read_all(scenario, cache, PER_CLASS)
    main_kinds = {kind: runs[kind] for kind in MAIN if kind in runs}
    region = scenario.object
    no_mask = {"moved mass": [MOVED], "no mask": NO_MASK}
    masks = {
        f"{region}.share": [f"{region}.share within auto"],
        "all": DEFAULT,
    }
    print_measures(scenario, main_kinds)
    for good in GOOD:
        print(f"References of {good} runs:\n")
        print_rates(main_kinds, good, (3, 5), no_mask, REDUCES)
        print_rates(main_kinds, good, (3, 5), masks)
    print("Changed recipes, without a mask:\n")
    print_recipes(runs, (3, 5))
    print("Runs that went on from another, against that one alone:\n")
    print_starts(runs)
    print("By how many images of each class there are, 5 good runs:\n")
    for per_class in (1, 2, 4):
        fewer = read_all(scenario, cache, per_class, MAIN)
        print_rates(
            fewer, "clean", (5,), {f"{per_class} per class, {w}": s for w, s in no_mask.items()}
        )
    print("A cue that agrees with one class of the ten:\n")
    print_classes(scenario, cache)


MAIN = ("clean", "mostly", "always", "new-clean", "new-mostly")
# What was judged by default before single images were compared, and is now without a mask.
MOVED = "moved_mass <= auto"
NO_MASK = [sentence for sentence in DEFAULT if "share" not in sentence]
