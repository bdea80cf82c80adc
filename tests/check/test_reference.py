"""References: made from good runs, kept in two files, read without trusting them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from records import CLASSES, IMAGES, info, observation, photos, record

from lightning_saliency.check.reference import (
    NUMBERS_FILE,
    REFERENCE_FILE,
    Reference,
)
from lightning_saliency.errors import NotComparableError, RecordError
from lightning_saliency.record.writer import RunWriter


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        record(tmp_path / f"good_{seed}", seed, metrics={"val_acc": 0.9 + seed / 100, **more})
        for seed, more in enumerate(({"lr": 1.0}, {}, {"lr": 2.0}))
    ]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    return first == second


def equal(first: Reference, second: Reference) -> bool:
    return all(same(getattr(first, n), getattr(second, n)) for n in Reference.__dataclass_fields__)


# --- made from runs


def test_it_holds_what_the_last_observations_measured(runs):
    found = Reference.from_runs(runs, reason="they generalise")
    last = [observation(seed) for seed in range(3)]
    assert torch.equal(found.views, torch.stack([o.measured.views for o in last]))
    for region in ("object", "mark"):
        stacked = torch.stack([o.measured.shares[region] for o in last])
        assert torch.equal(found.shares[region], stacked)
        assert found.run_shares(region) == pytest.approx(stacked.mean(dim=1).tolist())
    assert found.classes.tolist() == [0, 1, 2, 0, 1, 2]
    assert [run.seed for run in found.runs] == [0, 1, 2]
    assert found.metrics() == {"val_acc": pytest.approx(0.91)}  # Not all runs logged `lr`.
    assert torch.equal(found.photos, photos())
    assert found.reason == "they generalise"
    assert found.history == ()
    assert found.maps.shape == (IMAGES, 16, 16)
    assert found.maps.amax(dim=(1, 2)).tolist() == [1.0] * IMAGES


def test_profiles_are_means_in_one_order_or_the_other(runs):
    found = Reference.from_runs(runs)
    torch.testing.assert_close(found.profile(), found.views.mean(dim=(0, 1, 2)))
    torch.testing.assert_close(found.image_profiles(), found.views.mean(dim=(0, 2)))
    assert found.run_views().shape == (3, 2, 8, 8)
    assert float(found.profile().sum()) == pytest.approx(1)


def test_the_mean_map_is_of_maps_of_equal_mass(tmp_path):
    """A run with many bright pixels counts no more than a run with one."""
    maps = [torch.zeros(IMAGES, 4, 4), torch.ones(IMAGES, 4, 4)]
    maps[0][:, 0, 0] = 1
    folders = []
    for number, one in enumerate(maps):
        data = observation(number, maps=torch.zeros(IMAGES, 3, 4, 4).half())
        recorder = RunWriter(tmp_path / str(number) / "saliency")
        recorder.begin(info(), photos(), after=-1)
        recorder.add(replace(data, measured=replace(data.measured, maps=one.half())))
        folders.append(tmp_path / str(number))
    found = Reference.from_runs(folders).maps[0]
    assert found[0, 0] == 1
    assert found[1, 1] == pytest.approx((1 / 16) / (17 / 16), rel=1e-3)


# --- what it cannot be made from


@pytest.mark.parametrize("given", [[], (), "logs", Path("logs")], ids=repr)
def test_it_needs_a_list_of_runs(given):
    with pytest.raises(RecordError, match="a reference needs a list of at least one run"):
        Reference.from_runs(given)


def test_copies_are_refused(runs, tmp_path):
    again = record(tmp_path / "again", 1)
    for given in ([runs[0], runs[0]], [runs[0], runs[1], again], [runs[0], runs[0] / "saliency"]):
        with pytest.raises(RecordError, match=r"hold identical maps: a run was given twice"):
            Reference.from_runs(given)


@pytest.mark.parametrize(
    ("told", "changed", "why"),
    [
        ({"fingerprint": "e" * 64}, {"fingerprint": "e" * 64}, "their probes differ"),
        (
            {"rule": "deconvnet"},
            {},
            r"by different rules, gradient \(joint\) and deconvnet \(joint\)",
        ),
        ({"reduce": "abs_max"}, {}, r"\(joint\) and gradient \(abs_max\)$"),
        ({"reduce": "square"}, {}, "squares by default, so record the good runs again and make"),
        ({"class_names": None}, {}, "in their names or in their order"),
        ({"class_names": CLASSES[::-1]}, {}, "in their names or in their order"),
    ],
)
def test_runs_of_different_kinds_are_refused(told, changed, why, runs, tmp_path):
    other = record(tmp_path / "other", 7, told=told, changed=changed)
    with pytest.raises(NotComparableError, match=rf"good_0/saliency and .*other/sal.*: .*{why}"):
        Reference.from_runs([runs[0], other])


def test_an_unlabelled_probe_whose_predictions_differ_needs_labels(tmp_path):
    data = observation(1)
    swapped = replace(data.measured, classes=data.measured.classes.flip(0))
    folders = []
    for number, measured in enumerate((observation(0).measured, swapped)):
        recorder = RunWriter(tmp_path / str(number) / "saliency")
        recorder.begin(info(labels=None), photos(), after=-1)
        recorder.add(replace(data, measured=measured))
        folders.append(tmp_path / str(number))
    with pytest.raises(NotComparableError, match="without labels, a probe measures the predic"):
        Reference.from_runs(folders)
    assert Reference.from_runs(folders[:1]).info.labels is None


def test_a_run_whose_maps_are_empty_is_not_a_good_run(runs, tmp_path):
    data = observation(5)
    views = data.measured.views.clone()
    views[: IMAGES // 2] = float("nan")
    shares = {name: values.clone() for name, values in data.measured.shares.items()}
    for values in shares.values():
        values[: IMAGES // 2] = float("nan")
    recorder = RunWriter(tmp_path / "empty" / "saliency")
    recorder.begin(info(), photos(), after=-1)
    measured = replace(data.measured, views=views, shares=shares)
    recorder.add(replace(data, measured=measured))
    with pytest.raises(RecordError, match="empty/saliency cannot be a good run: 3 of 6 maps of"):
        Reference.from_runs([*runs, tmp_path / "empty"])


def test_requirements_are_read_before_the_runs_are(runs):
    with pytest.raises(ValueError, match="must read like"):
        Reference.from_runs(runs, ["object.share"])
    with pytest.raises(ValueError, match="needs a mask of the region 'face'"):
        Reference.from_runs(runs, ["face.share >= 0.1"])
    with pytest.raises(TypeError, match="must be a list of sentences"):
        Reference.from_runs(runs, "moved_mass <= auto")


# --- kept


def test_it_is_read_as_it_was_written(runs, tmp_path):
    made = Reference.from_runs(runs, ["moved_mass <= auto", "object.share >= 0.6"], reason="größer")
    made.save(tmp_path / "a" / "ref")
    assert sorted(p.name for p in (tmp_path / "a" / "ref").iterdir()) == [
        *("reference.json", "reference.safetensors")
    ]
    assert equal(Reference.load(tmp_path / "a" / "ref"), made)
    assert equal(Reference.load(str(tmp_path / "a" / "ref")), made)
    told = (tmp_path / "a" / "ref" / REFERENCE_FILE).read_text()
    assert "größer" in told  # Letters are not escaped, because people read the file.


def test_a_requirement_that_a_person_wrote_into_it_is_used(runs, tmp_path):
    Reference.from_runs(runs).save(tmp_path / "ref")
    path = tmp_path / "ref" / REFERENCE_FILE
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"requirements": ["mark.share <= 0.01"]}))
    assert [r.text for r in Reference.load(tmp_path / "ref").requirements] == ["mark.share <= 0.01"]


def test_it_keeps_its_history(runs, tmp_path):
    first = Reference.from_runs(runs, reason="first")
    second = Reference.from_runs(runs[:2], reason="second").following(first)
    third = Reference.from_runs(runs[1:], reason="third").following(second)
    third.save(tmp_path / "ref")
    found = Reference.load(tmp_path / "ref")
    assert [(h.reason, h.runs) for h in found.history] == [("first", 3), ("second", 2)]
    assert [h.created for h in found.history] == [first.created, second.created]
    assert found.reason == "third"


# --- damaged


def changed_json(**changed: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / REFERENCE_FILE
        told = json.loads(path.read_text())
        for key, value in changed.items():
            *parents, last = key.split("__")
            place = told
            for parent in parents:
                place = place[int(parent) if isinstance(place, list) else parent]
            place[last] = value
        path.write_text(json.dumps(told))

    return damage


def changed_numbers(name: str, value: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / NUMBERS_FILE
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        about = json.loads(data[8 : 8 + length])["__metadata__"]
        tensors = safetensors.torch.load(data)
        tensors[name] = value(tensors[name].clone())
        path.write_bytes(safetensors.torch.save(tensors, about))

    return damage


def with_bytes(name: str, change: Any) -> Any:
    def damage(folder: Path) -> None:
        path = folder / name
        path.write_bytes(change(path.read_bytes()))

    return damage


def fewer_runs(folder: Path) -> None:
    told = json.loads((folder / REFERENCE_FILE).read_text())
    (folder / REFERENCE_FILE).write_text(json.dumps(told | {"runs": told["runs"][1:]}))


def nan_in_a_cell(profiles: torch.Tensor) -> torch.Tensor:
    profiles[0, 0, 0, 0] = float("nan")
    return profiles


NUMBERS, TOLD = "reference.safetensors is damaged", "reference.json is damaged"
DAMAGE: list[Any] = [
    pytest.param(with_bytes(REFERENCE_FILE, lambda b: b""), TOLD, id="empty"),
    pytest.param(with_bytes(REFERENCE_FILE, lambda b: b[:-5]), TOLD, id="json-cut"),
    pytest.param(with_bytes(REFERENCE_FILE, lambda b: b"[]"), "no JSON object", id="list"),
    pytest.param(with_bytes(REFERENCE_FILE, lambda b: b"\xff" + b), TOLD, id="no-text"),
    pytest.param(with_bytes(REFERENCE_FILE, lambda b: b"[" * 99999), TOLD, id="nested"),
    pytest.param(with_bytes(REFERENCE_FILE, lambda b: b + b" " * 4_000_000), "more than", id="big"),
    pytest.param(changed_json(schema=2), "it has schema 2, and this version reads 1", id="schema"),
    pytest.param(changed_json(runs=[]), "it has no runs", id="no-runs"),
    pytest.param(changed_json(runs=3), "`runs` must be a list, got 3", id="runs"),
    pytest.param(changed_json(runs__0__epoch=-2), "`epoch` must be an integer", id="epoch"),
    pytest.param(changed_json(runs__0__metrics={"a": "b"}), "`metrics.a` must be", id="metrics"),
    pytest.param(changed_json(probe=None), "`probe` must be a dict, got None", id="probe"),
    pytest.param(
        changed_json(probe__images=["a"]), "it does not have one label entry per image", id="images"
    ),
    pytest.param(changed_json(requirements=["x"]), "a requirement must read like", id="sentence"),
    pytest.param(changed_json(requirements="x"), "`requirements` must be a list", id="sentences"),
    pytest.param(changed_json(reason=None), "`reason` must be a str", id="reason"),
    pytest.param(changed_json(history=[3]), "`history` must be a dict, got 3", id="history"),
    pytest.param(
        changed_json(history=[{"a": 1}]), f"{TOLD}.*`reason` is missing", id="history-of-less"
    ),
    pytest.param(
        changed_json(history=[{"reason": "", "created": "", "runs": [[]]}]),
        "`runs` must be an integer of at least 1",
        id="history-of-more",
    ),
    pytest.param(fewer_runs, "its runs or images are not those of reference.json", id="fewer-runs"),
    pytest.param(
        changed_json(numbers="0" * 64), "does not belong to this reference.json", id="other-half"
    ),
    pytest.param(
        changed_numbers("share.mark", lambda s: s / 2),
        "does not belong to this reference.json",
        id="one-number",
    ),
    pytest.param(with_bytes(NUMBERS_FILE, lambda b: b""), NUMBERS, id="numbers-empty"),
    pytest.param(with_bytes(NUMBERS_FILE, lambda b: b[:-1]), NUMBERS, id="numbers-cut"),
    pytest.param(with_bytes(NUMBERS_FILE, lambda b: b + b"x"), NUMBERS, id="numbers-longer"),
    pytest.param(changed_numbers("views", lambda p: p[:2]), "has the shape", id="fewer"),
    pytest.param(changed_numbers("views", lambda p: p * 2), f"{NUMBERS}.*`views`", id="mass"),
    pytest.param(changed_numbers("views", nan_in_a_cell), "sum is not 1", id="nan"),
    pytest.param(changed_numbers("views", lambda p: -p), "outside of 0 to 1", id="negative"),
    pytest.param(changed_numbers("views", lambda p: p.float()), "torch.float32", id="dtype"),
    pytest.param(changed_numbers("share.mark", lambda s: s + 1), "outside of 0 to 1", id="share"),
    pytest.param(
        changed_numbers("share.mark", lambda s: s[:, 1:].contiguous()), "has the shape", id="shape"
    ),
    pytest.param(changed_numbers("classes", lambda c: c - 1), "a negative class", id="class"),
    pytest.param(changed_numbers("maps", lambda m: m[:, :, :0]), "has the shape", id="no-maps"),
    pytest.param(
        changed_json(probe__areas={"other": 0.5}), f"{NUMBERS}.*share.other", id="another-region"
    ),
    pytest.param(lambda f: (f / NUMBERS_FILE).unlink(), "there is no file .*tensors", id="half"),
    pytest.param(lambda f: (f / REFERENCE_FILE).unlink(), "there is no file .*json", id="no-json"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE)
def test_a_damaged_reference_is_refused_in_one_line(damage, message, runs, tmp_path):
    Reference.from_runs(runs).save(tmp_path / "ref")
    Reference.load(tmp_path / "ref")
    damage(tmp_path / "ref")
    with pytest.raises(RecordError, match=message) as raised:
        Reference.load(tmp_path / "ref")
    assert "\n" not in str(raised.value)
    assert re.search(r"ref/reference\.(json|safetensors)", str(raised.value))


@pytest.mark.parametrize("full_at", [NUMBERS_FILE, REFERENCE_FILE])
def test_a_reference_that_cannot_be_written_leaves_whole_files(
    full_at, runs, tmp_path, monkeypatch
):
    first = Reference.from_runs(runs, reason="first")
    first.save(tmp_path / "ref")
    told = (tmp_path / "ref" / REFERENCE_FILE).read_bytes()

    def replaced(path: Path, target: Path) -> None:
        if target.name == full_at:
            raise OSError("no space left on device")
        path.rename(target)

    monkeypatch.setattr(Path, "replace", replaced)
    with pytest.raises(OSError, match="no space left"):
        replace(first, reason="second").save(tmp_path / "ref")
    assert (tmp_path / "ref" / REFERENCE_FILE).read_bytes() == told
    assert len(list((tmp_path / "ref").iterdir())) == 2
    assert equal(Reference.load(tmp_path / "ref"), first)
