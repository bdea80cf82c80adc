"""What the numbers of the attention check were chosen from, over all scenarios, in Markdown.

    python benchmarks/study_choices.py            # the runs that the studies left in the cache
    python benchmarks/study_choices.py tint mark  # of these alone

How closely good runs agree in each view, how often a bound is passed that stands on a number of
directions, what one or two good runs can tell, and where the mass goes that a shortcut moves and
where that which a change of recipe moves. See :mod:`studies`.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from study_joint import (
    JOINT,
    VIEWS,
    Run,
    choose,
    compute,
    effective_directions,
    judge,
    left_out_squares,
    moved,
    pair_squares,
    read_runs,
    stack,
    to_rates,
)
from study_runs import KINDS, RECIPES, Scenario
from torch import Tensor

from lightning_saliency.functional.quantiles import fisher, student

STUDIES = {"tag": "shortcut_study", "background": "background_study"}
STUDIES |= {"tint": "tint_study", "mark": "mark_study"}
PER_CLASS = 8  # images of each class of the probe that are measured
SETS = {view: (view,) for view in VIEWS} | {"joint": JOINT}
DIRECTIONS = (3, 5, 6, 8, 12)
EACH = (30, 50, 65, 80, 120)  # directions in which the profiles of single images are spread
NU = 5  # directions of the mean profile, where nothing else is said
GOOD = ("clean", "new-clean")
SHORTCUTS = ("mostly", "new-mostly", "always")
Studies = Mapping[str, Mapping[str, list[Run]]]  # by scenario, then by kind


def pick(scenario: Scenario, runs: Mapping[str, Sequence[Run]]) -> dict[str, list[Run]]:
    """The runs as measured on the first images of each class."""
    labels = scenario.probe.labels
    chosen = torch.cat([(labels == k).nonzero()[:PER_CLASS, 0] for k in labels.unique()])
    return {kind: [run.only(chosen) for run in mine] for kind, mine in runs.items()}


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown; numbers get three digits."""
    for row in (head, ["---"] * len(head), *rows):
        print("| " + " | ".join(map(show, row)) + " |")
    print()


def show(cell: object) -> str:
    if isinstance(cell, float):
        return "–" if math.isnan(cell) else f"{cell:.3f}"
    return str(cell)


def quantiles(values: Tensor, at: Sequence[float] = (0.05, 0.5, 0.95)) -> str:
    if not len(values):
        return "–"
    return " / ".join(f"{float(values.double().quantile(p)):.3f}" for p in at)


def print_runs(studies: Studies) -> None:
    """Print accuracies, and how much p(label) leans on the cue."""
    rows = []
    for kind in KINDS:
        cells = [describe(runs.get(kind, [])) for runs in studies.values()]
        if set(cells) != {"–"}:
            rows.append([kind, *cells])
    print("Runs: accuracy / with the cue randomised / p(label) lost without the cue\n")
    print_table(["", *studies], rows)


def describe(runs: Sequence[Run]) -> str:
    if not runs:
        return "–"
    values = (
        [run.about["accuracy"] for run in runs],
        [run.about["randomised"] for run in runs],
        [float(run.lost.mean()) for run in runs],
    )
    return f"{len(runs)}: " + " / ".join(f"{statistics.fmean(each):.3f}" for each in values)


def print_agreement(studies: Studies) -> None:
    """Print how far good runs lie apart in each view, and in how many directions."""
    rows = []
    for name, runs in studies.items():
        mine = [run for kind in GOOD for run in runs.get(kind, [])]
        squares = pair_squares(mine, VIEWS)
        within = {
            view: [directions(runs[kind], views) for kind in GOOD if len(runs.get(kind, [])) > 3]
            for view, views in SETS.items()
        }
        rms = squares.mean(dim=0).sqrt().tolist()
        nu = [" / ".join(f"{each:.1f}" for each in found) for found in within.values()]
        rows.append([name, len(mine), *rms, rms[1] / rms[2], *nu])
    print("Root mean square of the moved mass between good runs, and directions ν = 2·mean²/var\n")
    rms_head = [f"rms, {view}" for view in VIEWS]
    nu_head = [f"ν, {view}" for view in SETS]
    print_table(["", "runs", *rms_head, "sensitivity / contribution", *nu_head], rows)


def directions(runs: Sequence[Run], views: Sequence[str]) -> float:
    squares = pair_squares(runs, views)
    return effective_directions((squares / squares.mean(dim=0)).mean(dim=1))


def print_rates(studies: Studies, size: int, good: str) -> None:
    """Print the rates of failing verdicts by the number of directions that the bound assumes."""
    judged = [kind for kind in ("clean", "new-clean", *SHORTCUTS) if kind != good]
    rows: list[list[object]] = []
    for view, views in SETS.items():
        found = {
            name: compute(runs, size, views, good, judged)
            for name, runs in studies.items()
            if len(runs.get(good, [])) > size
        }
        for nu in DIRECTIONS if view == "joint" else (5,):
            rates = [each.rates(nu) for each in found.values()]
            cells = [
                " ".join(show(r.get(k, math.nan)) for k in ("left out", *judged)) for r in rates
            ]
            rows.append([view, nu, *cells])
    print(f"{size} good runs of the kind {good}; rates of: left out, {', '.join(judged)}\n")
    print_table(["view", "ν", *found], rows)


def print_each(studies: Studies, size: int, good: str) -> None:
    """Print the rates if each image is compared by itself, alone and with the mean profile."""
    recipes = [f"recipe-{name}" for name in RECIPES if name != "sgd"]
    judged = [kind for kind in ("clean", "new-clean", *SHORTCUTS) if kind != good]
    shown = ("left out", *judged, "recipes")
    rows: dict[tuple[str, object], list[str]] = {}
    names = [name for name, runs in studies.items() if len(runs.get(good, [])) > size]
    for name in names:
        kinds = [*judged, *recipes]
        mean = compute(studies[name], size, JOINT, good, kinds)
        each = compute(studies[name], size, JOINT, good, kinds, each=True)
        for nu in EACH:
            alone = each.beyond(nu)
            either = {
                kind: flags | mean.beyond(NU, 0.995)[kind]
                for kind, flags in each.beyond(nu, 0.995).items()
            }
            for words, beyond in (("each image", alone), ("or the mean, .995", either)):
                if flagged := [beyond[kind] for kind in recipes if kind in beyond]:
                    beyond["recipes"] = torch.cat(flagged)
                rates = to_rates(beyond)
                cells = " ".join(show(rates.get(kind, math.nan)) for kind in shown)
                rows.setdefault((words, nu), []).append(cells)
    print(f"Each image by itself, {size} good runs of the kind {good}; rates: {', '.join(shown)}\n")
    print_table(["", "ν", *names], [[*key, *cells] for key, cells in rows.items()])


def print_recipes(studies: Studies, size: int) -> None:
    """Print the rates at which runs with a changed recipe fail."""
    rows: list[list[object]] = []
    for view, views in SETS.items():
        for nu in DIRECTIONS[1:] if view == "joint" else (5,):
            flagged: dict[str, list[float]] = {name: [] for name in RECIPES}
            for runs in studies.values():
                kinds = [f"recipe-{name}" for name in RECIPES if f"recipe-{name}" in runs]
                for good in [kind for kind in GOOD if len(runs.get(kind, [])) >= size]:
                    rates = compute(runs, size, views, good, kinds).rates(nu)
                    for kind in kinds:
                        flagged[kind.removeprefix("recipe-")].append(rates[kind])
            means = {name: statistics.fmean(each or [math.nan]) for name, each in flagged.items()}
            kept = [mean for name, mean in means.items() if name != "sgd" and mean == mean]
            rows.append([view, nu, *means.values(), statistics.fmean(kept or [math.nan])])
    print(f"Changed recipes that fail, {size} good runs, mean over scenarios\n")
    print_table(["view", "ν", *RECIPES, "all but sgd"], rows)


def print_single(studies: Studies, typical: tuple[float, float]) -> None:
    """Print how far runs lie from a single good run, and the rates beyond fixed bounds."""
    weights = 1 / torch.tensor(typical, dtype=torch.float64).square()
    weights /= weights.sum()
    bounds = (0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
    rows: list[list[object]] = []
    for name, runs in studies.items():
        for label, squares in pairs_of(runs).items():
            joint = (squares[:, 1:] * weights).sum(dim=1).sqrt()
            views = [quantiles(squares[:, i].sqrt(), (0.5, 1)) for i in (1, 2, 0)]
            beyond = [float((joint > bound).double().mean()) for bound in bounds]
            square = float((squares[:, 0].sqrt() > 0.25).double().mean())
            shown = quantiles(joint, (0.5, 0.95, 0.99, 1))
            rows.append([name, label, len(joint), shown, *views, *beyond, square])
    print(f"Against a single run: joint with weights {weights[0]:.2f}, {weights[1]:.2f}\n")
    head = ["", "pair", "pairs", "joint: 50 / 95 / 99 / 100 %", "sensitivity: 50 / 100 %"]
    head += ["contribution", "square", *(f"> {bound}" for bound in bounds), "square > .25"]
    print_table(head, rows)


def pairs_of(runs: Mapping[str, Sequence[Run]]) -> dict[str, Tensor]:
    """Squared distances between a good run and others, ``(pairs, views)``, by what they are."""
    clean = [run for kind in GOOD for run in runs.get(kind, [])]
    means = stack(clean, VIEWS)
    found = {"clean, clean": pair_squares(clean, VIEWS)}
    for kind, mine in runs.items():
        start = KINDS[kind].start
        if start is not None:
            both = [(a, b) for a in mine for b in runs.get(start, []) if a.seed == b.seed]
            if both:
                now, before = (stack(each, VIEWS) for each in zip(*both, strict=True))
                found[f"{start}, {kind}"] = moved(now, before).square()
        elif kind in SHORTCUTS:
            others = stack(mine, VIEWS)
            found[f"clean, {kind}"] = moved(means[:, None], others).square().flatten(0, 1)
    recipes = [run for kind in runs if kind.startswith("recipe-") for run in runs[kind]]
    if kept := [run for run in recipes if run.kind != "recipe-sgd"]:
        others = stack(kept, VIEWS)
        found["clean, changed recipe"] = moved(means[:, None], others).square().flatten(0, 1)
    return found


def print_double(studies: Studies, typical: tuple[float, float]) -> None:
    """Print the rates of failing verdicts with two good runs, by how the bound is made."""
    prior = torch.tensor(typical, dtype=torch.float64).square()
    ways: dict[str, Callable[[Tensor], tuple[Tensor, float]]] = {
        "rms² of the pair, F(.99; 6, 6)": lambda pair: (pair, fisher(0.99, 6, 6)),
        "rms² typical, F(.99; 6, 12)": lambda pair: (0 * pair + prior, fisher(0.99, 6, 12)),
        "rms² the mean of both, F(.99; 6, 12)": lambda pair: (
            (pair + prior) / 2,
            fisher(0.99, 6, 12),
        ),
        "rms² the larger, F(.99; 6, 12)": lambda pair: (pair.maximum(prior), fisher(0.99, 6, 12)),
    }
    rows: list[list[object]] = []
    for name, runs in studies.items():
        clean = stack([run for kind in GOOD for run in runs.get(kind, [])], JOINT)
        others = {kind: stack(runs[kind], JOINT) for kind in SHORTCUTS if kind in runs}
        for words, bound in ways.items():
            failed: dict[str, list[Tensor]] = {kind: [] for kind in ("left out", *others)}
            for first, second in choose(len(clean), 2):
                good = clean[[first, second]]
                squares, most = bound(left_out_squares(good))
                left = [i for i in range(len(clean)) if i not in (first, second)]
                for kind, mine in {"left out": clean[left], **others}.items():
                    distances = moved(mine, good.mean(dim=0)).square()
                    failed[kind].append((distances / squares).mean(dim=-1) > most)
            rates = {kind: float(torch.cat(each).double().mean()) for kind, each in failed.items()}
            cells = [rates.get(kind, math.nan) for kind in ("left out", *SHORTCUTS)]
            rows.append([name, words, *cells])
    print("Two good runs\n")
    print_table(["", "bound", "left out", *SHORTCUTS], rows)


def print_growth(studies: Studies, nu: int, size: int = 5) -> None:
    """Print where the mass went, on the mean of both views, in verdicts that fail."""
    rows: list[list[object]] = []
    for name, runs in studies.items():
        found: dict[str, list[Tensor]] = {}
        for good in [kind for kind in GOOD if len(runs.get(kind, [])) >= size]:
            clean = stack(runs[good], JOINT)
            for kind, mine in runs.items():
                if kind != good and KINDS[kind].start is None:
                    recipe = kind.startswith("recipe-") and kind != "recipe-sgd"
                    others = stack(mine, JOINT)
                    for chosen in choose(len(clean), size):
                        gains = gains_of(clean[list(chosen)], others, nu)
                        found.setdefault("recipes but sgd" if recipe else kind, []).append(gains)
        for kind, parts in found.items():
            gains = torch.cat(parts)
            failed = gains[gains[:, 0] > 0][:, 1:]
            cells = [quantiles(column) for column in failed.T]
            rows.append([name, kind, float((gains[:, 0] > 0).double().mean()), *cells])
    print("Where mass went in failing verdicts: 5 / 50 / 95 %\n")
    head = ["", "kind", "fail", "moved", "largest gain of a cell", "its part of what moved"]
    print_table([*head, "part of the top 4 cells", "cells (1/Σp²)"], rows)


def gains_of(good: Tensor, others: Tensor, nu: int) -> Tensor:
    """Whether each run fails, and how concentrated its gains are; ``(runs, 6)``."""
    failed = judge(good, others) > fisher(0.99, nu, nu * len(good))
    gains = (others - good.mean(dim=0)).mean(dim=1).clamp(min=0).sort(descending=True).values
    total = gains.sum(dim=1)
    parts = gains / total[:, None]
    cells = 1 / parts.square().sum(dim=1)
    columns = (failed.double(), total, gains[:, 0], parts[:, 0], parts[:, :4].sum(dim=1), cells)
    return torch.stack(columns, dim=1)


def print_shares(scenarios: Mapping[str, Scenario], studies: Studies, size: int) -> None:
    """Print how often a region's share is outside of its bounds, by what it is a share of."""
    ways = {view: (view,) for view in VIEWS} | {"mean of both": JOINT}
    rows: list[list[object]] = []
    for name, runs in studies.items():
        for region in scenarios[name].probe.masks:
            for words, views in ways.items():
                for good in [kind for kind in GOOD if len(runs.get(kind, [])) > size]:
                    rates = share_rates(runs, good, region, views, size)
                    kinds = ("clean", "new-clean", *SHORTCUTS)
                    rows.append(
                        [name, region, words, good, *(rates.get(k, math.nan) for k in kinds)]
                    )
    print(f"Shares outside of their bounds, {size} good runs\n")
    print_table(["", "region", "share of", "good", "clean", "new-clean", *SHORTCUTS], rows)


def share_rates(
    runs: Mapping[str, Sequence[Run]], good: str, region: str, views: Sequence[str], size: int
) -> dict[str, float]:
    """The rates outside of the bounds of :func:`bounds.share_bounds` at confidence .99."""
    logs = {
        kind: torch.tensor([run.share(region, views) for run in mine]).clamp(min=1e-6).log()
        for kind, mine in runs.items()
        if kind in (*GOOD, *SHORTCUTS)
    }
    spreads = student(0.995, size - 1) * math.sqrt(1 + 1 / size)
    outside: dict[str, list[Tensor]] = {kind: [] for kind in logs}
    for chosen in choose(len(logs[good]), size):
        known = logs[good][list(chosen)]
        left = [i for i in range(len(logs[good])) if i not in chosen]
        for kind, each in logs.items():
            others = each[left] if kind == good else each
            outside[kind].append((others - known.mean()).abs() > spreads * known.std())
    return {kind: float(torch.cat(each).double().mean()) for kind, each in outside.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="scenario", help=", ".join(STUDIES))
    parser.add_argument("--cache", type=Path, default=Path(".study"), help="folder of the runs")
    parser.add_argument("--directions", type=int, default=NU, help="ν of failing verdicts")
    parser.add_argument("--typical", type=float, nargs=2, default=(0.03, 0.05), metavar="RMS")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    modules = {name: importlib.import_module(STUDIES[name]) for name in arguments.names or STUDIES}
    scenarios = {name: module.scenario() for name, module in modules.items()}
    report(scenarios, arguments.cache, arguments.directions, tuple(arguments.typical))


def report(
    scenarios: Mapping[str, Scenario], cache: Path, nu: int, typical: tuple[float, float]
) -> None:
    """Print all tables."""
    studies = {
        name: pick(scenario, read_runs(scenario, cache)) for name, scenario in scenarios.items()
    }
    print_runs(studies)
    print_agreement(studies)
    for size in (3, 5):
        for good in GOOD:
            print_rates(studies, size, good)
            print_each(studies, size, good)
        print_recipes(studies, size)
    print_single(studies, typical)
    print_double(studies, typical)
    print_growth(studies, nu)
    for size in (3, 5):
        print_shares(scenarios, studies, size)


if __name__ == "__main__":
    main()
