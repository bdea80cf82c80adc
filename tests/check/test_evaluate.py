"""Verdicts by hand, with profiles of two cells: their moved mass is a difference of two numbers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from records import info, observation
from scipy import stats
from torch import Tensor

from lightning_saliency.check.bounds import DIRECTIONS, moved_mass_bound
from lightning_saliency.check.evaluate import Candidate, evaluate
from lightning_saliency.check.moves import find_weights, left_out_moves
from lightning_saliency.check.reference import GoodRun, Reference
from lightning_saliency.check.requirements import DEFAULT, parse_all
from lightning_saliency.check.verdict import Finding, Verdict
from lightning_saliency.record.observation import Measured

NAN = math.nan
ALL = torch.tensor([0, 0, 1, 2])  # the classes of four images
MOVED = ("moved_mass <= auto",)


def profiles(parts: Sequence[float]) -> Tensor:
    """One profile per image, with ``parts`` of its mass in the first cell, the rest in the last."""
    found = torch.zeros(len(parts), 8, 8, dtype=torch.float64)
    found[:, 0, 0] = torch.tensor(parts, dtype=torch.float64)
    found[:, 7, 7] = 1 - found[:, 0, 0]
    found[found[:, 0, 0].isnan()] = NAN
    return found


def told(**changed: Any) -> Any:
    known = {
        "images": tuple("abcd"),
        "labels": ((0,), (0,), (1,), (2,)),
        "areas": {"object": 0.25},
    }
    return info(**known | changed)


def seen(
    parts: Sequence[float],
    share: float | Sequence[float] = 0.5,
    metrics: dict[str, float] | None = None,
    classes: Tensor = ALL,
    **changed: Any,
) -> Candidate:
    """A run whose images have ``parts`` of their gradient in the first cell."""
    shares = torch.as_tensor(share, dtype=torch.float64).expand(4)
    measured = Measured(
        classes=classes,
        probabilities=torch.ones(4),
        maps=torch.ones(4, 2, 2).half(),
        views=profiles(parts)[:, None],
        shares={"object": shares},
    )
    return Candidate(told(**changed), observation(measured=measured), metrics or {})


def reference(
    runs: Sequence[Sequence[float]],
    shares: Sequence[float] | None = None,
    metrics: Sequence[dict[str, float]] | None = None,
) -> Reference:
    """Good runs, each with the ``parts`` of its images as in :func:`seen`."""
    count = len(runs)
    each = torch.tensor(shares or [0.5] * count, dtype=torch.float64)
    known = metrics or [{}] * count
    return Reference(
        info=told(),
        runs=tuple(GoodRun(1, "epoch 1", 0, None, "", {}, known[i]) for i in range(count)),
        classes=ALL,
        views=torch.stack([profiles(parts) for parts in runs])[:, :, None],
        shares={"object": each[:, None].expand(count, 4)},
        maps=torch.ones(4, 2, 2).half(),
        photos=torch.zeros(4, 2, 2, 3, dtype=torch.uint8),
    )


def even(*parts: float) -> list[list[float]]:
    """Runs all of whose images are alike."""
    return [[part] * 4 for part in parts]


def held(
    run: Candidate, good: Reference | None, require: Sequence[str] = MOVED, **options: Any
) -> Verdict:
    return evaluate(run, good, parse_all(require), **options)


def finding(verdict: Verdict, measure: str = "moved_mass") -> Finding:
    [found] = [f for f in verdict.findings if f.measure == measure]
    return found


# --- moved mass


@pytest.mark.parametrize(("part", "mark"), [(0.75, "pass"), (0.76, "warn")])
@pytest.mark.parametrize("runs", [[0.5], [0.4, 0.6]], ids=["N=1", "N=2"])
def test_fewer_than_three_runs_only_warn(runs, part, mark):
    verdict = held(seen([part] * 4), reference(even(*runs)))
    found = finding(verdict)
    assert found.value == pytest.approx(part - 0.5)
    assert (found.low, found.high, found.mark) == (None, 0.25, mark)
    too_few = "one good run has no spread" if len(runs) == 1 else "2 good runs are too few"
    assert found.source == f"a rule of thumb: {too_few}"
    assert verdict.outcome == "pass"
    assert verdict.exit_code == 0
    assert len(verdict.warnings) == (mark == "warn")


def test_warnings_fail_if_that_is_asked_for():
    verdict = held(seen([0.76] * 4), reference(even(0.5)), strict=True)
    assert (verdict.outcome, verdict.exit_code) == ("fail", 1)
    assert finding(verdict).mark == "fail"
    assert held(seen([0.74] * 4), reference(even(0.5)), strict=True).outcome == "pass"


def test_the_bound_of_three_runs_by_hand():
    """Left out, each 0.5 is 0.05 from the mean of the others, and 0.6 is 0.1 from it."""
    good = reference(even(0.5, 0.5, 0.6))
    expected = math.sqrt((2 * 0.05**2 + 0.1**2) / 3 * stats.f.ppf(0.99, DIRECTIONS, 3 * DIRECTIONS))
    found = finding(held(seen([0.5] * 4), good))
    assert found.high == pytest.approx(expected)
    assert found.value == pytest.approx(0.1 / 3)
    assert found.source == "3 good runs: 0.067 ± 0.029, from 0.050 to 0.100"
    middle = 1.6 / 3
    for part, outcome in (
        (middle + expected - 1e-6, "pass"),
        (middle + expected + 1e-6, "fail"),
        (middle - expected + 1e-6, "pass"),
        (middle - expected - 1e-6, "fail"),
    ):
        assert held(seen([part] * 4), good).outcome == outcome


def test_the_bound_of_five_runs_by_hand():
    parts = [0.40, 0.45, 0.50, 0.55, 0.60]
    left_out = [abs(p - (2.5 - p) / 4) for p in parts]
    expected = math.sqrt(
        sum(v**2 for v in left_out) / 5 * stats.f.ppf(0.99, DIRECTIONS, 5 * DIRECTIONS)
    )
    found = finding(held(seen([0.5] * 4), reference(even(*parts))))
    assert found.high == pytest.approx(expected)


def test_runs_that_are_equally_far_apart_allow_twice_as_much():
    """Each is 0.4/3 from the mean of the others; the bound needs no spread of these distances."""
    found = finding(held(seen([0.5] * 4), reference(even(0.4, 0.4, 0.6, 0.6))))
    assert found.high == pytest.approx(
        0.4 / 3 * math.sqrt(stats.f.ppf(0.99, DIRECTIONS, 4 * DIRECTIONS))
    )
    assert 1.9 < found.high / (0.4 / 3) < 2.1


def test_a_bound_that_nothing_exceeds_says_so():
    found = finding(held(seen([1.0] * 4), reference(even(0.0, 0.1, 1.0))))
    assert found.high == 1.0
    assert found.source.endswith("too far apart to judge by; add more")


# --- shares


def test_the_bounds_of_a_share_by_hand_with_the_confidence_shared_out():
    """Both moved masses have one bound, the share two on a log scale: 1 % is split in four."""
    shares = [0.4, 0.5, 0.6]
    logs = [math.log(s) for s in shares]
    mean = sum(logs) / 3
    spread = math.sqrt(sum((v - mean) ** 2 for v in logs) / 2)
    reach = stats.t.ppf(1 - 0.01 / 4, 2) * spread * math.sqrt(4 / 3)
    good = reference(even(0.1, 0.5, 0.9), shares)
    found = finding(held(seen([0.5] * 4), good, DEFAULT), "object.share")
    assert found.low == pytest.approx(math.exp(mean - reach))
    assert found.high == 1.0
    assert found.area == 0.25
    alone = finding(held(seen([0.5] * 4), good, ["object.share >= auto"]), "object.share")
    reach = stats.t.ppf(0.99, 2) * spread * math.sqrt(4 / 3)
    assert (alone.low, alone.high) == (pytest.approx(math.exp(mean - reach)), None)


def test_a_bound_that_two_sentences_ask_for_counts_once():
    good = reference(even(0.4, 0.5, 0.6), [0.4, 0.5, 0.6])
    once = held(seen([0.5] * 4), good, DEFAULT)
    twice = held(
        seen([0.5] * 4),
        good,
        (*DEFAULT, "moved_mass  <= auto", "object.share within auto", "object.share >= auto"),
    )
    assert {f.high for f in twice.findings if f.measure == "moved_mass"} == {finding(once).high}
    assert {f.low for f in twice.findings if f.low is not None} == {
        finding(once, "object.share").low
    }


@pytest.mark.parametrize(
    ("share", "mark"),
    [(0.2, "pass"), (0.6, "pass"), (0.19, "warn"), (0.61, "warn")],
)
def test_with_one_good_run_a_share_may_change_by_half(share, mark):
    good = reference(even(0.5), [0.4])
    verdict = held(seen([0.5] * 4, share), good, ["*.share within auto"])
    found = finding(verdict, "object.share")
    assert (found.low, found.high) == (pytest.approx(0.2), pytest.approx(0.6))
    assert found.mark == mark
    assert verdict.outcome == "pass"


def test_a_region_that_never_had_a_share_may_stay_without():
    good = reference(even(0.4, 0.5, 0.6), [0.0, 0.0, 0.0])
    assert held(seen([0.5] * 4, 0.0), good, ["*.share within auto"]).outcome == "pass"
    assert held(seen([0.5] * 4, 0.3), good, ["*.share within auto"]).outcome == "fail"


def test_a_region_that_has_everything_may_keep_it():
    good = reference(even(0.4, 0.5, 0.6), [1.0, 1.0, 1.0])
    assert held(seen([0.5] * 4, 1.0), good, ["*.share within auto"]).outcome == "pass"
    assert held(seen([0.5] * 4, 0.7), good, ["*.share within auto"]).outcome == "fail"


@pytest.mark.parametrize("share", [0.1, 0.3, 0.7, 1 / 3, 0.9])
def test_a_share_that_is_the_same_in_all_runs_may_stay_the_same(share):
    """Taking a logarithm and its inverse changes the last digit, which must not matter."""
    good = reference(even(0.4, 0.5, 0.6), [share] * 3)
    assert held(seen([0.5] * 4, share), good, ["*.share within auto"]).outcome == "pass"


# --- requirements of numbers


@pytest.mark.parametrize(
    ("sentence", "outcome"),
    [
        ("object.share >= 0.5", "pass"),
        ("object.share >= 0.51", "fail"),
        ("object.share <= 0.5", "pass"),
        ("object.share <= 0.49", "fail"),
        ("*.share <= 0.49", "fail"),
    ],
)
@pytest.mark.parametrize("good", [None, 1], ids=["alone", "with-one-run"])
def test_a_bound_that_is_a_number_fails_with_and_without_a_reference(sentence, outcome, good):
    verdict = held(seen([0.5] * 4), good and reference(even(0.5)), [sentence])
    assert verdict.outcome == outcome
    assert verdict.findings[0].source == "as required"


@pytest.mark.parametrize("sentence", ["moved_mass <= 0.1", "moved_mass <= auto", "*.share <= auto"])
def test_what_needs_a_reference_does_not_pass_without_one(sentence):
    verdict = held(seen([0.5] * 4), None, [sentence, "object.share >= 0.1"])
    assert (verdict.outcome, verdict.exit_code) == ("no reference", 3)
    assert verdict.why == f"{sentence!r} needs one"
    assert len(verdict.findings) == 1  # What could be judged is reported.
    failed = held(seen([0.5] * 4), None, [sentence, "object.share >= 0.9"])
    assert failed.outcome == "fail"


def test_moved_mass_may_have_a_bound_of_its_own():
    good = reference(even(0.5))
    assert held(seen([0.6] * 4), good, ["moved_mass <= 0.11"]).outcome == "pass"
    assert held(seen([0.6] * 4), good, ["moved_mass <= 0.09"]).outcome == "fail"


def test_nothing_passes_that_was_not_evaluated():
    without_masks = Candidate(told(areas={}), seen([0.5] * 4).observation)
    assert held(seen([0.5] * 4), None, []).outcome == "no reference"
    assert held(seen([0.5] * 4), None, []).why == "nothing is required"
    assert held(without_masks, None, ["*.share >= 0.1"]).outcome == "no reference"
    good = reference(even(0.5))
    verdict = held(seen([0.5] * 4), good, [])
    assert verdict.outcome == "inconclusive"
    assert verdict.why == "no requirement applies to anything that was measured"


def test_a_region_without_a_mask_is_an_error():
    with pytest.raises(ValueError, match="needs a mask of the region 'mark'; the probe has masks"):
        held(seen([0.5] * 4), reference(even(0.5)), ["mark.share <= 0.1"])


# --- not comparable


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        pytest.param({"fingerprint": "e" * 64}, "their probes differ", id="probe"),
        pytest.param({"areas": {"mark": 0.1}}, "their probes differ", id="regions"),
        pytest.param({"rule": "deconvnet"}, r"different rules, gradient \(joint\) and", id="rule"),
        pytest.param({"reduce": "abs_max"}, "different rules", id="reduction"),
        pytest.param({"class_names": ("dog", "cat", "cow")}, "in their order", id="classes"),
        pytest.param({"classes": ALL.flip(0)}, "without labels, a probe measures", id="labels"),
    ],
)
def test_runs_of_another_kind_are_not_compared(changed, why):
    verdict = held(seen([0.9] * 4, **changed), reference(even(0.5)), ["object.share >= 0.99"])
    assert (verdict.outcome, verdict.exit_code) == ("not comparable", 4)
    assert re.search(why, verdict.why)
    assert verdict.findings == ()


# --- maps that are empty


def test_half_of_the_maps_or_more_that_are_empty_are_inconclusive():
    good = reference(even(0.4, 0.5, 0.6))
    verdict = held(seen([NAN, NAN, 0.5, 0.5]), good)
    assert (verdict.outcome, verdict.exit_code) == ("inconclusive", 5)
    assert verdict.why == "2 of 4 maps are all zero or not finite, here or in a good run"
    assert held(seen([NAN] * 4), None, ["object.share >= 0.1"]).outcome == "inconclusive"


def test_an_image_that_is_left_out_is_left_out_of_the_good_runs_too():
    """The first image looks elsewhere in every good run, so leaving it out moves their means."""
    runs = [[1.0, part, part, part] for part in (0.10, 0.12, 0.14)]
    verdict = held(seen([NAN, 0.12, 0.12, 0.12]), reference(runs))
    assert (verdict.outcome, verdict.left_out) == ("pass", 1)
    assert finding(verdict).value == pytest.approx(0)
    shares = [0.9, 0.1, 0.1, 0.1]
    good = reference(runs)
    object.__setattr__(good, "shares", {"object": torch.tensor([shares] * 3, dtype=torch.float64)})
    lost = seen([NAN, 0.12, 0.12, 0.12], [NAN, 0.1, 0.1, 0.1])
    assert held(lost, good, ["*.share within auto"]).outcome == "pass"


def test_an_image_that_one_good_run_left_out_is_left_out():
    runs = [[0.5, 0.5, 0.5, 1.0], [0.4, 0.4, 0.4, NAN], [0.6, 0.6, 0.6, 1.0]]
    verdict = held(seen([0.5, 0.5, 0.5, 0.0]), reference(runs))
    assert (verdict.outcome, verdict.left_out) == ("pass", 1)
    assert [m.name for m in verdict.images] == ["a", "b", "c"]


def test_good_runs_that_measured_nothing_decide_nothing():
    verdict = held(seen([0.5] * 4), reference([[NAN] * 4] * 3), DEFAULT)
    assert verdict.outcome == "inconclusive"


# --- what else a verdict reports


def test_what_grew_is_a_region_if_one_grew_as_much_as_any_cell():
    good = reference(even(0.1), [0.1])
    cell = held(seen([0.6] * 4, 0.3), good).growth
    assert (cell.region, cell.row, cell.column) == (None, 0, 0)
    assert (cell.before, cell.now) == (pytest.approx(0.1), pytest.approx(0.6))
    assert cell.place == "row 1, column 1 of the 8×8 grid"
    region = held(seen([0.6] * 4, 0.6), good).growth
    assert (region.region, region.before, region.now) == ("object", pytest.approx(0.1), 0.6)
    assert region.place == "the region 'object'"


def test_what_grew_is_weighed_against_all_that_moved():
    """The first cell loses 0.4 of the mass, which one cell gains, or two, or five alike."""
    good = reference(even(1.0))
    for gains, scattered in (([0.4], False), ([0.2] * 2, False), ([0.08] * 5, True)):
        run = seen([0.6] * 4)
        views = run.measured.views.clone()
        views[..., 7, 7] = 0
        views[..., 1, : len(gains)] = torch.tensor(gains, dtype=torch.float64)
        measured = replace(run.measured, views=views)
        run = replace(run, observation=replace(run.observation, measured=measured))
        growth = held(run, good).growth
        assert (growth.row, growth.scattered) == (1, scattered)
    assert not held(seen([1.0] * 4), good).growth.scattered  # Nothing moved.


def test_a_class_that_moves_alone_is_a_warning_and_fails_if_warnings_do():
    parts = (0.48, 0.5, 0.52)
    run = seen([0.5, 0.5, 0.5, 0.9])
    verdict = held(run, reference(even(*parts)), ["moved_mass <= 0.5"])
    assert verdict.outcome == "pass"
    assert [c.name for c in verdict.classes if c.surprising] == ["cow"]
    assert verdict.classes[0].index == 2
    assert verdict.classes[0].moved == pytest.approx(0.4)
    square = (0.03**2 + 0.0**2 + 0.03**2) / 3
    confidence = 1 - 0.01 / 3  # shared out over three classes
    bound = math.sqrt(square * stats.f.ppf(confidence, DIRECTIONS, 3 * DIRECTIONS))
    assert verdict.classes[0].bound == pytest.approx(bound)
    assert verdict.warnings == (f"class cow moved 0.400 (bound {bound:.3f})",)
    strict = held(run, reference(even(*parts)), ["moved_mass <= 0.5"], strict=True)
    assert strict.outcome == "fail"


def test_a_class_is_weighed_as_the_whole_run_is():
    """In the cow, good runs agree four times as closely in the first view as in the second."""
    parts = torch.tensor([[[0.4, 0.4], [0.45, 0.3]], [[0.5, 0.5]] * 2, [[0.6, 0.6], [0.55, 0.7]]])
    images = torch.stack([parts[:, 0], parts[:, 0], parts[:, 0].flip(1), parts[:, 1]], dim=1)
    views = torch.zeros(3, 4, 2, 8, 8, dtype=torch.float64)
    views[..., 0, 0], views[..., 7, 7] = images, 1 - images
    good = replace(reference(even(0.4, 0.5, 0.6)), views=views)
    run = seen([0.5] * 4)
    measured = replace(run.measured, views=views[1])
    run = replace(run, observation=replace(run.observation, measured=measured))
    (cow,) = (c for c in held(run, good).classes if c.name == "cow")
    weights = find_weights(good.run_views())
    left_out = left_out_moves(views[:, 3], weights)
    assert cow.bound == pytest.approx(moved_mass_bound(left_out, 1 - 0.01 / 3))
    own = left_out_moves(views[:, 3])
    assert cow.bound != pytest.approx(moved_mass_bound(own, 1 - 0.01 / 3), rel=0.05)


def test_classes_have_no_bound_with_fewer_than_three_good_runs():
    verdict = held(seen([0.5, 0.5, 0.5, 1.0]), reference(even(0.4, 0.6)))
    assert all(c.bound is None and not c.surprising for c in verdict.classes)
    assert verdict.warnings == ()


def test_classes_and_images_are_listed_worst_first():
    verdict = held(seen([0.6, 0.7, 0.55, 0.9]), reference(even(0.5)))
    assert [(i.name, i.index) for i in verdict.images] == [("d", 3), ("b", 1), ("a", 0), ("c", 2)]
    assert [i.moved for i in verdict.images] == pytest.approx([0.4, 0.2, 0.1, 0.05])
    assert [c.name for c in verdict.classes] == ["cow", "cat", "dog"]


def test_classes_without_names_are_numbered():
    run = seen([0.5] * 4, class_names=None)
    good = reference(even(0.5))
    object.__setattr__(good, "info", told(class_names=None))
    assert [c.name for c in held(run, good).classes] == ["0", "1", "2"]
    short = told(class_names=("7", "8"))
    object.__setattr__(good, "info", short)
    assert [c.name for c in held(seen([0.5] * 4, class_names=("7", "8")), good).classes] == [
        *("7", "8", "2")
    ]


def test_metrics_are_those_that_all_good_runs_have():
    known = [{"val_acc": 0.9, "val_loss": 1.0}, {"val_acc": 0.7}, {"val_acc": 0.8, "lr": 1.0}]
    good = reference(even(0.4, 0.5, 0.6), metrics=known)
    verdict = held(seen([0.5] * 4, metrics={"val_acc": 0.99}), good)
    assert verdict.reference_metrics == {"val_acc": pytest.approx(0.8)}
    assert verdict.metrics == {"val_acc": 0.99}


def test_one_image_of_one_class_is_judged_like_any_other():
    measured = Measured(
        classes=torch.tensor([0]),
        probabilities=torch.ones(1),
        maps=torch.ones(1, 2, 2).half(),
        views=profiles([0.9])[:, None],
        shares={"a.share": torch.tensor([0.5], dtype=torch.float64)},
    )
    about = told(images=("one",), labels=((0,),), areas={"a.share": 0.5})
    run = Candidate(about, observation(measured=measured))
    good = Reference(
        info=about,
        runs=reference(even(0.4, 0.5, 0.6)).runs,
        classes=torch.tensor([0]),
        views=torch.stack([profiles([part]) for part in (0.4, 0.5, 0.6)])[:, :, None],
        shares={"a.share": torch.tensor([[0.4], [0.5], [0.6]], dtype=torch.float64)},
        maps=torch.ones(1, 2, 2).half(),
        photos=torch.zeros(1, 2, 2, 3, dtype=torch.uint8),
    )
    verdict = held(run, good, DEFAULT)
    assert [f.measure for f in verdict.findings] == [
        "moved_mass",
        "image_moved_mass",
        "a.share.share",
    ]
    assert finding(verdict).value == pytest.approx(0.4)
    assert finding(verdict, "a.share.share").mark == "pass"


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 5])
def test_of_a_hundred_good_runs_at_most_one_fails(count):
    """The bounds promise this of all requirements together, and again of all classes together."""
    torch.manual_seed(0)
    base = torch.distributions.Dirichlet(torch.full((64,), 0.3).double()).sample((4,))

    def draw() -> tuple[Tensor, Tensor]:
        """The profiles and shares of a run. Runs differ as a whole, and in each image."""
        noise = 0.35 * torch.randn(64).double() + 0.4 * torch.randn(4, 64).double()
        parts = base * noise.exp()
        grid = (parts / parts.sum(dim=1, keepdim=True)).view(4, 8, 8)
        return grid, grid[:, 2:6, 2:6].sum(dim=(1, 2))

    failed = surprising = 0
    good, run = reference(even(*[0.5] * count)), seen([0.5] * 4)
    for _ in range(600):
        drawn = [draw() for _ in range(count)]
        grids, shares = (torch.stack([each[part] for each in drawn]) for part in (0, 1))
        held_to = replace(good, views=grids[:, :, None], shares={"object": shares})
        grid, share = draw()
        measured = replace(run.observation.measured, views=grid[:, None], shares={"object": share})
        new = replace(run, observation=replace(run.observation, measured=measured))
        verdict = held(new, held_to, DEFAULT)
        failed += verdict.failed
        surprising += any(c.surprising for c in verdict.classes)
    assert failed <= 12
    assert surprising <= 12
