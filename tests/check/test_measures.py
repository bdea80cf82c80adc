"""Measures: their values and bounds by hand, and how little it takes to add one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from records import info, observation, record
from scipy import stats
from torch import Tensor

from lightning_saliency import ProbeBatch
from lightning_saliency.check import measures
from lightning_saliency.check.bounds import DIRECTIONS, IMAGE_DIRECTIONS, share_bounds
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.measures import (
    IMAGE_MOVED_MASS,
    MOVED_MASS,
    SHARE,
    Bounds,
    GoodRuns,
    Measure,
    Quantity,
    find_measure,
    quantities,
)
from lightning_saliency.check.moves import TYPICAL, find_move
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.report import as_text
from lightning_saliency.check.requirements import Requirement, parse_all
from lightning_saliency.observe.meter import Meter, measure_names
from lightning_saliency.record.observation import Measured

NAN = math.nan
MOVES = ["moved_mass", "image_moved_mass"]


def two_cells(parts: Sequence[float]) -> Tensor:
    """Profiles with ``parts`` of the mass in the first cell and the rest in the last."""
    profiles = torch.zeros(len(parts), 8, 8, dtype=torch.float64)
    profiles[:, 0, 0] = torch.tensor(parts, dtype=torch.float64)
    profiles[:, 7, 7] = 1 - profiles[:, 0, 0]
    return profiles


class Good:
    """Good runs with ``parts`` of their gradient in the first cell, and shares by region."""

    def __init__(self, parts: Sequence[float], **shares: list[float]) -> None:
        self.profiles, self.shares = two_cells(parts)[:, None], shares

    @property
    def views(self) -> Tensor:
        """As if there were a single image."""
        return self.profiles[:, None]

    def run_views(self) -> Tensor:
        return self.profiles

    def run_shares(self, region: str) -> list[float]:
        return self.shares[region]


def measured(parts: Sequence[float], shares: Mapping[str, Sequence[float]] | None = None):
    """What was measured of images with ``parts`` of their gradient in the first cell."""
    return Measured(
        classes=torch.zeros(len(parts), dtype=torch.int64),
        probabilities=torch.ones(len(parts)),
        maps=torch.ones(len(parts), 2, 2).half(),
        views=two_cells(parts)[:, None],
        shares={n: torch.tensor(s, dtype=torch.float64) for n, s in (shares or {}).items()},
    )


# --- moved mass


def test_moved_mass_is_the_distance_from_the_mean_of_the_good_runs():
    """The mean is 0.4 in the first cell, so 0.3 of the mass lies elsewhere."""
    moved = Quantity(MOVED_MASS)
    assert moved.name == "moved_mass"
    assert moved.value(measured([0.6, 0.8]), Good([0.3, 0.5])) == pytest.approx(0.3)
    assert math.isnan(moved.value(measured([0.6]), None))


def test_the_bound_of_moved_mass_by_hand():
    """Left out, two runs are 0.05 from the mean of the others, and one is 0.1 from it."""
    bounds = Quantity(MOVED_MASS).bounds(Good([0.5, 0.5, 0.6]), 0.99)
    expected = math.sqrt((2 * 0.05**2 + 0.1**2) / 3 * stats.f.ppf(0.99, DIRECTIONS, 3 * DIRECTIONS))
    assert (bounds.low, bounds.serious) == (None, True)
    assert bounds.high == pytest.approx(expected)
    assert bounds.source == "3 good runs: 0.067 ± 0.029, from 0.050 to 0.100"


@pytest.mark.parametrize(
    ("parts", "source"),
    [
        ([0.5], "a rule of thumb: one good run has no spread"),
        ([0.1, 0.9], "a rule of thumb: 2 good runs are too few"),
    ],
    ids=["N=1", "N=2"],
)
def test_moved_mass_has_a_rule_of_thumb_for_few_runs(parts, source):
    assert Quantity(MOVED_MASS).bounds(Good(parts), 0.99) == Bounds(None, 0.25, source, False)


@pytest.mark.parametrize(
    ("parts", "spread"),
    [([0.5], TYPICAL), ([0.5, 0.6], [math.sqrt((0.1**2 + 3 * t**2) / 4) for t in TYPICAL])],
    ids=["N=1", "N=2"],
)
def test_few_runs_are_bounded_by_how_far_good_runs_usually_lie_apart(parts, spread):
    """As if three more distances between good runs were known; both views are alike here."""
    good = Good(parts)
    good.profiles = good.profiles.expand(-1, 2, -1, -1)
    bounds = Quantity(MOVED_MASS).bounds(good, 0.99)
    square = 2 / sum(1 / each**2 for each in spread)
    fisher = stats.f.ppf(0.99, DIRECTIONS, (len(parts) + 2) * DIRECTIONS)
    assert (bounds.low, bounds.serious) == (None, False)
    assert bounds.high == pytest.approx(math.sqrt(square * fisher))
    assert bounds.source.startswith("typical of other trainings: ")


def test_runs_that_are_too_far_apart_bound_nothing_and_say_so():
    """Left out, they are 0.55, 0.4 and 0.95 from the mean of the others."""
    bounds = Quantity(MOVED_MASS).bounds(Good([0.0, 0.1, 1.0]), 0.99)
    spread = "3 good runs: 0.633 ± 0.284, from 0.400 to 0.950"
    assert bounds.source == f"{spread}, too far apart to judge by; add more"
    assert bounds.high == 1.0


# --- moved mass, image by image


def both_ways(*runs: Sequence[float]) -> Tensor:
    """Runs ``(runs, N, 2, 8, 8)``, with a part of each image's mass in the first cell."""
    return torch.stack([two_cells(parts) for parts in runs])[:, :, None].expand(-1, -1, 2, -1, -1)


def test_moves_of_images_do_not_cancel_out():
    """One image moves to the first cell and one away from it, so that the mean profile stays."""
    good = Good([0.5])
    run = replace(measured([0.5, 0.5]), views=both_ways([0.7, 0.3])[0])
    images = both_ways([0.5, 0.5])
    assert find_move(run.mean_views(), images.mean(dim=1)) == pytest.approx(0, abs=1e-12)
    with mock.patch.object(Good, "views", images):
        assert Quantity(IMAGE_MOVED_MASS).value(run, good) == pytest.approx(0.2)
    assert math.isnan(Quantity(IMAGE_MOVED_MASS).value(run, None))


def test_images_that_could_not_be_measured_are_left_out_of_the_mean():
    images = both_ways([0.5, 0.5, NAN])
    assert find_move(both_ways([0.7, 0.4, NAN])[0], images) == pytest.approx(0.15)


def test_images_of_another_probe_are_not_compared_one_by_one():
    with mock.patch.object(Good, "views", both_ways([0.5, 0.5, 0.5])):
        assert math.isnan(Quantity(IMAGE_MOVED_MASS).value(measured([0.5, 0.5]), Good([0.5])))


def test_the_bound_of_image_moves_by_hand():
    """Left out, the first image moves by 0.15, 0 and 0.15, and the second by 0.3, 0 and 0.3."""
    good = Good([0.5] * 3)
    with mock.patch.object(Good, "views", both_ways([0.4, 0.3], [0.5, 0.5], [0.6, 0.7])):
        bounds = Quantity(IMAGE_MOVED_MASS).bounds(good, 0.99)
    square = (0.225**2 + 0 + 0.225**2) / 3
    fisher = stats.f.ppf(0.99, IMAGE_DIRECTIONS, 3 * IMAGE_DIRECTIONS)
    assert bounds.high == pytest.approx(math.sqrt(square * fisher))
    assert (bounds.low, bounds.serious) == (None, True)


@pytest.mark.parametrize("count", [1, 2])
def test_few_runs_bound_no_moves_of_images(count):
    bounds = Quantity(IMAGE_MOVED_MASS).bounds(Good([0.5] * count), 0.99)
    assert bounds.high == 1
    assert bounds.source.startswith("not judged: ")


def test_the_moves_of_images_in_a_single_view_are_not_judged():
    bounds = Quantity(IMAGE_MOVED_MASS).bounds(Good([0.4, 0.5, 0.6]), 0.99)
    assert (bounds.high, bounds.source) == (
        1.0,
        "not judged: the gradient was measured in one way alone",
    )


# --- shares


def test_a_share_is_the_mean_over_the_images_that_have_one():
    share = Quantity(SHARE, "object")
    assert share.name == "object.share"
    run = measured([0.5] * 3, {"object": [0.2, 0.4, NAN]})
    assert share.value(run, None) == pytest.approx(0.3)


def test_the_bounds_of_a_share_by_hand():
    """On a log scale, where 0.1, 0.2 and 0.4 are equally far apart."""
    good = Good([0.1, 0.2, 0.8], object=[0.1, 0.2, 0.4])
    bounds = Quantity(SHARE, "object").bounds(good, 0.9)
    reach = stats.t.ppf(0.9, 2) * math.log(2) * math.sqrt(4 / 3)
    assert bounds.low == pytest.approx(0.2 * math.exp(-reach))
    assert bounds.high == pytest.approx(min(1.0, 0.2 * math.exp(reach)))
    assert bounds.serious
    assert bounds.source == "3 good runs: 0.233 ± 0.153, from 0.100 to 0.400"


def test_a_share_changes_at_most_by_the_mass_that_moves():
    """Left out, the runs are 0.015, 0 and 0.015 from the mean of the others; the mean is 0.02."""
    good = Good([0.49, 0.5, 0.51], object=[0.005, 0.01, 0.045])
    bounds = Quantity(SHARE, "object").bounds(good, 0.99)
    assert share_bounds(good.shares["object"], 0.99)[1] == 1.0
    moves = math.sqrt(2 * 0.015**2 / 3 * stats.f.ppf(0.99, DIRECTIONS, 3 * DIRECTIONS))
    assert bounds.high == pytest.approx(0.02 + moves, rel=1e-6)
    assert 0 < bounds.low < 1e-4


@pytest.mark.parametrize(
    ("shares", "low", "high"),
    [
        pytest.param([0.4], 0.2, 0.6, id="half"),
        pytest.param([0.3, 0.5], 0.2, 0.6, id="half-of-the-mean"),
        pytest.param([0.01], 0.0, 0.03, id="a-tiny-share-may-change-by-2-percent"),
        pytest.param([0.9], 0.45, 1.0, id="no-share-exceeds-1"),
    ],
)
def test_a_share_has_a_rule_of_thumb_for_few_runs(shares, low, high):
    bounds = Quantity(SHARE, "object").bounds(Good([0.5] * len(shares), object=shares), 0.99)
    assert (bounds.low, bounds.high) == (pytest.approx(low), pytest.approx(high))
    assert not bounds.serious
    assert bounds.source.startswith("a change by at most half: ")


# --- bounds


@pytest.mark.parametrize(
    ("relation", "low", "high"),
    [("<=", None, 0.6), (">=", 0.4, None), ("within", 0.4, 0.6)],
)
def test_a_requirement_keeps_the_bounds_that_its_relation_asks_for(relation, low, high):
    assert Bounds(0.4, 0.6, "", serious=False).only(relation) == Bounds(low, high, "", False)


@pytest.mark.parametrize(
    ("low", "high", "value", "allowed"),
    [
        (0.4, 0.6, 0.4, True),
        (0.4, 0.6, 0.6, True),
        (0.4, 0.6, 0.39, False),
        (0.4, 0.6, 0.61, False),
        (None, 0.6, 0.0, True),
        (0.4, None, 1.0, True),
        (None, None, 0.5, True),
        (0.4, None, NAN, False),
        (None, 0.6, NAN, False),
    ],
)
def test_what_bounds_allow(low, high, value, allowed):
    assert Bounds(low, high, "").allow(value) is allowed


# --- names


@pytest.mark.parametrize(
    ("name", "measure", "region"),
    [
        ("moved_mass", MOVED_MASS, ""),
        ("object.share", SHARE, "object"),
        ("*.share", SHARE, "*"),
        ("a.share.share", SHARE, "a.share"),
        ("moved_mass.share", SHARE, "moved_mass"),
    ],
)
def test_a_name_finds_its_measure(name, measure, region):
    assert find_measure(name) == (measure, region)


@pytest.mark.parametrize("name", ["", ".share", "share", "object", "Moved_mass", "a.moved_mass"])
def test_other_names_find_nothing(name):
    assert find_measure(name) is None


def test_every_region_has_its_share_and_every_probe_its_moved_mass():
    assert [q.name for q in quantities(["b", "a"])] == ["b.share", "a.share", *MOVES]
    assert [q.name for q in quantities([])] == MOVES


# --- a new measure


def centre_mass(run: Measured, _: str, __: GoodRuns | None) -> float:
    """The part of the gradient in the middle 4×4 cells."""
    return float(run.mean_profile()[2:6, 2:6].sum())


def outside(run: Measured, region: str, _: GoodRuns | None) -> float:
    """The part of the gradient outside of a region."""
    return 1 - run.mean_share(region)


CENTRE = Measure("centre_mass", centre_mass, lambda *_: Bounds(0.6, None, "a fixed bound"))
OUTSIDE = Measure(".outside", outside, lambda *_: Bounds(None, 0.3, "it too"), regional=True)


@pytest.fixture
def more_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole new measure: an entry of the table."""
    monkeypatch.setattr(measures, "MEASURES", (*measures.MEASURES, CENTRE, OUTSIDE))


@pytest.fixture
def reference(tmp_path: Path) -> Reference:
    return Reference.from_runs([record(tmp_path / str(seed), seed) for seed in range(3)])


@pytest.mark.usefixtures("more_measures")
def test_a_new_measure_can_be_required():
    required = Requirement.parse("centre_mass >= auto")
    assert (required.measure, required.region, required.bound) == (CENTRE, "", None)
    assert required.quantities(["object"]) == [Quantity(CENTRE)]
    every = Requirement.parse("*.outside <= 0.3")
    assert every.quantities(["object", "mark"]) == [
        Quantity(OUTSIDE, "mark"),
        Quantity(OUTSIDE, "object"),
    ]
    with pytest.raises(
        ValueError, match=r"or 'image_moved_mass' or 'centre_mass' or '<region>\.outs"
    ):
        Requirement.parse("centre >= 0.5")


@pytest.mark.usefixtures("more_measures")
@pytest.mark.parametrize(("on_mark", "mark"), [(0.02, "pass"), (0.6, "fail")])
@pytest.mark.parametrize("sentence", ["centre_mass >= auto", "centre_mass >= 0.6"])
def test_a_new_measure_is_judged_and_reported(sentence, on_mark, mark, reference):
    candidate = Candidate(info(), observation(9, on_mark=on_mark))
    verdict = evaluate(candidate, reference, parse_all([sentence]))
    (found,) = verdict.findings
    assert (verdict.outcome, found.mark, found.measure) == (mark, mark, "centre_mass")
    assert found.value == pytest.approx(centre_mass(candidate.measured, "", None))
    source = "a fixed bound" if sentence.endswith("auto") else "as required"
    expected = f"  {mark}  centre_mass  {found.value:.3f}  at least 0.600  ({source})"
    assert expected in as_text(verdict, "v3").splitlines()


@pytest.mark.usefixtures("more_measures")
def test_a_new_measure_of_each_region_is_judged_and_reported(reference):
    candidate = Candidate(info(), observation(9))
    verdict = evaluate(candidate, reference, parse_all(["*.outside <= auto"]))
    assert [(f.measure, f.mark) for f in verdict.findings] == [
        ("mark.outside", "fail"),
        ("object.outside", "pass"),
    ]
    assert "\n  fail  mark.outside    0.9" in as_text(verdict, "v3")


@pytest.mark.usefixtures("more_measures")
def test_a_new_measure_is_logged():
    run = replace(measured([0.5]), views=torch.full((1, 1, 8, 8), 1 / 64, dtype=torch.float64))
    meter = Meter.for_probe(ProbeBatch(torch.zeros(1, 3, 8, 8)), 8)
    assert meter.summarize(run) == {"centre_mass": pytest.approx(0.25)}
    assert {"centre_mass", "a.outside"} <= set(measure_names(["a"]))
