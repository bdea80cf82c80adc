"""What a page gives up to fit into its budget."""

from __future__ import annotations

import json

import numpy as np
import pytest
import records
import torch
from pages import decode

from lightning_saliency.record.writer import RunWriter
from lightning_saliency.viewer import packing
from lightning_saliency.viewer.maps import quantise
from lightning_saliency.viewer.packing import Plan, Selection, coarsen, select
from lightning_saliency.viewer.record import Record, _round

N, SIDE = 6, 96


def make_record(folder, count, *, classes=3, side=SIDE, changing=False, rules=("gradient",)):
    """Record ``count`` observations of noise, the hardest to make small."""
    writer = RunWriter(folder / "saliency")
    writer.begin(records.info(class_names=None), records.photos(), after=-1)
    generator = torch.Generator().manual_seed(0)
    for step in range(count):
        maps = torch.randn(N, classes, side, side, generator=generator)
        maps = (maps / maps.abs().amax(dim=(2, 3), keepdim=True)).half()
        targets = torch.arange(classes).expand(N, classes).contiguous()
        if changing:
            targets = (targets + step) % (2 * classes)
        peaks = torch.arange(classes).float().expand(N, classes).contiguous()
        changed = {
            "targets": targets,
            "probabilities": torch.rand(N, classes, generator=generator),
            "maps": dict.fromkeys(rules, maps),
            "peaks": dict.fromkeys(rules, peaks),
        }
        writer.add(records.observation(step, step=step, epoch=step, **changed))
    writer.end({}, finished=True)
    return Record(folder / "saliency", folder.name)


def free(chosen) -> int:
    return 0


def size(blobs) -> int:
    return sum(len(text) for run in blobs for text in run.values())


def test_without_need_nothing_is_lost(tmp_path):
    record = make_record(tmp_path, 3, side=16)
    (chosen,), (blobs,) = select([record], 10**9, free)
    assert chosen.cut() == []
    assert list(blobs) == [(step, "gradient") for step in range(3)]
    for step in range(3):
        assert np.array_equal(decode(blobs[step, "gradient"], (N, 3, 16, 16)), record.maps(step))


def test_levels_go_first_then_pixels_then_observations(tmp_path):
    """Each budget is just too small for the one before."""
    record = make_record(tmp_path, 6, side=72)
    budget, cuts = 10**9, []
    for _ in range(5):
        (chosen,), blobs = select([record], budget, free)
        assert size(blobs) <= budget
        cuts.append(chosen.cut())
        budget = size(blobs)
    levels = "Maps have {} levels of strength instead of 255."
    pixels = "Maps have 64 × 64 pixels instead of 72 × 72."
    assert cuts == [
        [],
        [levels.format(63)],
        [levels.format(31)],
        [levels.format(31), pixels],
        [levels.format(31), pixels, cuts[4][2]],
    ]
    assert cuts[4][2].endswith(" of 6 observations are here, spread evenly.")
    assert chosen.kept[0] == 0
    assert chosen.kept[-1] == 5
    assert [m.step for m in chosen.moments()] == list(chosen.kept)
    assert chosen.moments()[0].map == (64, 64)
    (text, *_) = blobs[0].values()
    assert np.abs(decode(text, (N, 3, 64, 64))).max() == 15


def test_what_is_kept_is_spread_evenly(tmp_path):
    record = make_record(tmp_path, 11, side=8)
    chosen = Selection.of_all(record, record.moments()[0], Plan())
    assert chosen.thin(0.5).kept == [0, 2, 5, 8, 10]
    assert chosen.thin(0).kept == [0, 10]
    assert chosen.thin(9).kept == list(range(11))
    one = Selection.of_all(record, record.moments()[0][:1], Plan())
    assert one.thin(0).kept == [0]


@pytest.mark.parametrize("changing", [False, True])
def test_of_very_many_classes_the_true_and_the_most_probable_stay(tmp_path, changing):
    record = make_record(tmp_path, 3, classes=40, side=16, changing=changing)
    everything = size(select([record], 10**9, free)[1])
    (chosen,), (blobs,) = select([record], everything * 2 // 5, free)
    assert chosen.cut() == [
        "Each image has 12 of 40 classes: the true ones and the most probable ones."
    ]
    whole = {moment.step: moment for moment in record.moments()[0]}
    for moment in chosen.moments():
        maps = decode(blobs[moment.step, "gradient"], (N, 12, 16, 16))
        before, source = whole[moment.step], whole[moment.step if changing else 2]
        for image in range(N):
            order = sorted(range(40), key=lambda k: -source.p[image][k])
            label = record.facts().labels[image][0]
            true = [k for k in order if before.targets[image][k] == label]
            kept = (true + [k for k in order if k not in true])[:12]
            assert moment.targets[image] == [before.targets[image][k] for k in kept]
            assert moment.p[image] == [before.p[image][k] for k in kept]
            assert moment.peaks["gradient"][image] == [float(k) for k in kept]
            assert np.array_equal(maps[image], record.maps(moment.step)[image, kept])


def test_every_rule_is_packed(tmp_path):
    record = make_record(tmp_path, 2, side=8, rules=("gradient", "deconvnet"))
    _, (blobs,) = select([record], 10**9, free)
    assert list(blobs) == [(s, rule) for s in (0, 1) for rule in ("gradient", "deconvnet")]


def test_several_runs_share_the_budget(tmp_path):
    runs = [make_record(tmp_path / name, count) for name, count in (("long", 12), ("short", 4))]
    everything = size(select(runs, 10**9, free)[1])
    chosen, blobs = select(runs, everything // 8, free)
    assert size(blobs) <= everything // 8
    assert [len(run.kept) < len(run.recorded) for run in chosen] == [True, True]
    assert len(chosen[0].kept) > len(chosen[1].kept)


def test_a_budget_that_is_too_small_says_what_it_takes(tmp_path):
    record = make_record(tmp_path, 5)
    with pytest.raises(ValueError, match=r"of 0\.01 MB is too small: .* the page takes 0\.\d MB"):
        select([record], 10_000, free)


def test_what_the_rest_of_the_page_takes_counts(tmp_path):
    record = make_record(tmp_path, 5)
    everything = size(select([record], 10**9, free)[1])
    (chosen,), blobs = select([record], 2 * everything, lambda chosen: 3 * everything // 2)
    assert size(blobs) <= everything // 2
    assert chosen.cut()


def test_a_bad_guess_makes_no_page_too_large(tmp_path, monkeypatch):
    record = make_record(tmp_path, 4, side=32)
    budget = size(select([record], 10**9, free)[1]) // 3
    monkeypatch.setattr(packing, "_guess_size", lambda chosen: 1)
    assert size(select([record], budget, free)[1]) <= budget


def test_smaller_maps_keep_the_strongest_value_of_each_block():
    """Gradients alternate in sign, so that an average would lose them."""
    maps = np.zeros((1, 1, 4, 6), np.int8)
    maps[0, 0, 0, 0], maps[0, 0, 1, 1] = 100, -127
    maps[0, 0, 3, 5], maps[0, 0, 2, 4] = 50, -20
    expected = np.array([[-127, 0, 0], [0, 0, 50]])
    assert np.array_equal(coarsen(maps, 127, 3)[0, 0], expected)
    assert np.array_equal(coarsen(maps, 15, 3)[0, 0], [[-15, 0, 0], [0, 0, 6]])
    assert np.array_equal(coarsen(maps, 127, None), maps)


@pytest.mark.parametrize(("shape", "expected"), [((96, 64), (64, 43)), ((1, 500), (1, 64))])
def test_the_proportions_stay(shape, expected):
    maps = np.ones((2, *shape), np.int8)
    assert coarsen(maps, 127, 64).shape == (2, *expected)


def test_a_map_that_is_not_finite_stays_so():
    maps = np.zeros((2, 8, 8), np.float16)
    maps[1, 3, 3] = np.nan
    smaller = coarsen(quantise(maps), 15, 4)
    assert (smaller[1] == -128).all()
    assert (smaller[0] == 0).all()


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 127), (-1, -127), (0.5, 64), (-0.004, -1), (0.003, 0), (1.5, 127), (-9, -127)],
)
def test_values_are_rounded_to_the_nearest_level(value, expected):
    assert quantise(np.full((1, 1), value, np.float32)).item() == expected


def test_numbers_keep_four_digits():
    values = np.array([[0.123456, -98765.4, 0.0, 1e-30], [np.nan, np.inf, 0.99996, 3.0]])
    rounded = _round(values.astype(np.float64), 4)
    assert rounded[0] == [0.1235, -98770.0, 0.0, pytest.approx(1e-30)]
    assert rounded[1] == [None, None, 1.0, 3.0]
    assert json.dumps(_round(np.random.default_rng(0).random((1, 1000)), 4)).count("0000") < 20
