"""Files of observations: read back as they were written, and refused if anything does not fit."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from paths import FIXTURES
from records import IMAGES, RULE, SIDE, observation, parts, write_tensors

from lightning_saliency.errors import RecordError
from lightning_saliency.record.observation import Observation, encode_observation, read_observation


def same(first: Any, second: Any) -> bool:
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if hasattr(first, "__dataclass_fields__"):
        return all(same(getattr(first, f.name), getattr(second, f.name)) for f in fields(first))
    return first == second


def test_an_observation_is_read_as_it_was_written(tmp_path):
    path = tmp_path / "one.safetensors"
    path.write_bytes(encode_observation(observation(epoch=-1)))
    found = read_observation(path)
    assert isinstance(found, Observation)
    assert same(found, observation(epoch=-1))


def two_rules(first: str, second: str) -> Observation:
    """An observation of two rules whose maps and peaks differ."""
    maps = observation().snapshot.maps[RULE]
    peaks = torch.arange(IMAGES * 3).view(IMAGES, 3).float()
    return observation(
        maps={first: maps, second: -maps.flip(-1)}, peaks={first: peaks, second: peaks + 0.5}
    )


@pytest.mark.parametrize(
    "rules", [("guided_backprop", "gradient"), ("gradient", "guided_backprop")], ids=" ".join
)
def test_an_observation_of_two_rules_is_read_with_both_in_order(rules, tmp_path):
    written = two_rules(*rules)
    path = tmp_path / "two.safetensors"
    path.write_bytes(encode_observation(written))
    found = read_observation(path)
    assert found.snapshot.rules == rules
    assert list(found.snapshot.peaks) == list(rules)
    assert same(found, written)


def test_beside_the_maps_the_layout_of_a_file_is_that_of_version_0_1():
    """Schema 2 differs from 1 in the depth of the maps, and in nothing else."""
    old_about, old = parts(
        (FIXTURES / "v0_1/record/observation-0000000004.safetensors").read_bytes()
    )
    (region,) = (name for name in old if name.startswith("share."))
    new = observation()
    shares = {region.removeprefix("share."): new.measured.shares["mark"]}
    one_view = replace(new.measured, views=new.measured.views[:, :1], shares=shares)
    about, tensors = parts(encode_observation(replace(new, measured=one_view)))
    assert (old_about["schema"], about["schema"]) == (1, 2)
    assert list(about) == list(old_about)
    assert (old["maps"].dtype, tensors.pop("maps").dtype) == (torch.float16, torch.int8)
    assert {n: (t.dtype, t.ndim) for n, t in tensors.items()} == {
        n: (t.dtype, t.ndim) for n, t in old.items() if n != "maps"
    }


def test_a_file_of_schema_1_is_read_with_its_own_maps(tmp_path):
    about, tensors = parts()
    fine = torch.linspace(-1, 1, IMAGES * 3 * SIDE * SIDE).view(IMAGES, 3, SIDE, SIDE).half()
    about = {**about, "schema": 1}
    path = write_tensors(tmp_path / "one.safetensors", about, {**tensors, "maps": fine})
    found = read_observation(path)
    assert torch.equal(found.snapshot.maps[RULE], fine)
    write_tensors(path, about, tensors)
    with pytest.raises(RecordError, match=r"`maps` is torch\.int8 .*, not torch\.float16"):
        read_observation(path)


def test_maps_are_kept_to_half_a_255th_of_their_range(tmp_path):
    maps = torch.rand(IMAGES, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps[1, 2, 3, 4] = torch.inf
    path = tmp_path / "one.safetensors"
    path.write_bytes(encode_observation(observation(maps=maps)))
    found = read_observation(path).snapshot.maps[RULE]
    assert found[1, 2].isnan().all()
    maps[1, 2] = torch.nan
    torch.testing.assert_close(found.float(), maps, rtol=0, atol=0.5 / 127 + 5e-4, equal_nan=True)


def test_the_file_of_two_rules_adds_the_second_to_the_layout_of_one():
    about, tensors = parts(encode_observation(two_rules("gradient", "deconvnet")))
    one_about, one = parts()
    assert about.keys() - one_about.keys() == {"more_rules"}
    assert (about["rule"], about["more_rules"]) == ("gradient", ["deconvnet"])
    assert tensors.keys() - one.keys() == {"maps.deconvnet", "peaks.deconvnet"}


def test_an_observation_without_the_maps_of_its_second_rule_is_refused(tmp_path):
    about, tensors = parts(encode_observation(two_rules("gradient", "deconvnet")))
    for name in ("maps.deconvnet", "peaks.deconvnet"):
        without = {n: tensor for n, tensor in tensors.items() if n != name}
        path = write_tensors(tmp_path / "bad.safetensors", about, without)
        with pytest.raises(RecordError, match=f"is damaged.*'{name}'"):
            read_observation(path)


def test_an_observation_of_eight_images_and_ten_classes_is_small():
    """Eight images, ten classes and 96 pixels per side take less than 1 MB."""
    measured = replace(observation().measured, maps=torch.zeros(8, 96, 96).half())
    large = observation(maps=torch.zeros(8, 10, 96, 96).half(), measured=measured)
    assert len(encode_observation(large)) < 1_000_000


ABOUT: list[Any] = [
    pytest.param({"schema": 3}, "it has schema 3, and this version reads 1 and 2", id="newer"),
    pytest.param({"schema": None}, "it has schema None", id="no-schema"),
    pytest.param(
        {"step": -1}, "`step` must be an integer of at least 0, got -1", id="negative-step"
    ),
    pytest.param({"step": 1.5}, "`step` must be an integer", id="step-of-a-half"),
    pytest.param({"step": True}, "`step` must be an integer", id="step-true"),
    pytest.param({"step": 10**30}, "`step` must be an integer", id="huge-step"),
    pytest.param({"epoch": "3"}, "`epoch` must be an integer", id="epoch-as-text"),
    pytest.param({"caption": 3}, "`caption` must be a str, got 3", id="caption"),
    pytest.param({"rule": None}, "`rule` must be a str, got None", id="rule"),
    pytest.param({"measures": []}, r"`measures` must be a dict, got \[\]", id="measures"),
    pytest.param(
        {"measures": {"x": float("inf")}}, "`measures.x` must be a finite number", id="inf"
    ),
    pytest.param({"measures": {"x": 10**400}}, "`measures.x` must be a finite", id="huge-number"),
]


@pytest.mark.parametrize(("changed", "message"), ABOUT)
def test_metadata_of_the_wrong_kind_are_refused(changed, message, tmp_path):
    about, tensors = parts()
    path = write_tensors(tmp_path / "bad.safetensors", about | changed, tensors)
    with pytest.raises(RecordError, match=f"bad.safetensors is damaged.*{message}"):
        read_observation(path)


TENSORS: list[Any] = [
    pytest.param("targets", None, "'targets'", id="missing"),
    pytest.param(
        "targets",
        torch.zeros(IMAGES, 3),
        r"`targets` is torch.float32 \(6, 3\), not torch.int64 with 2 dimension",
        id="dtype",
    ),
    pytest.param("targets", -torch.ones(IMAGES, 3).long(), "a negative class", id="negative"),
    pytest.param(
        "peaks",
        torch.ones(IMAGES, 4),
        r"`peaks` has the shape \(6, 4\), which does not fit",
        id="columns",
    ),
    pytest.param("peaks", torch.ones(IMAGES), r"`peaks` is torch.float32 \(6,\)", id="ndim"),
    pytest.param(
        "measured.views", torch.ones(IMAGES, 2, 8, 9).double(), "`measured.views` has", id="grid"
    ),
    pytest.param(
        "measured.views",
        torch.full((IMAGES, 2, 8, 8), 0.5).double(),
        "has a profile whose sum is not 1",
        id="no-whole",
    ),
    pytest.param(
        "share.object",
        torch.full((IMAGES,), 1.5).double(),
        "`share.object` has values outside of 0 to 1",
        id="no-part",
    ),
    pytest.param("share.object", torch.ones(5).double(), "`share.object` has the shape", id="rows"),
    pytest.param(
        "maps", torch.ones(IMAGES, 3, 0, 4).to(torch.int8), "`maps` has the shape", id="empty"
    ),
]


@pytest.mark.parametrize(("name", "tensor", "message"), TENSORS)
def test_tensors_that_do_not_fit_are_refused(name, tensor, message, tmp_path):
    about, tensors = parts()
    tensors[name] = tensor
    if tensor is None:
        del tensors[name]
    path = write_tensors(tmp_path / "bad.safetensors", about, tensors)
    with pytest.raises(RecordError, match=f"is damaged.*{message}"):
        read_observation(path)


def test_maps_that_could_not_be_measured_are_read(tmp_path):
    """A map that is all zero has neither a profile nor a share."""
    about, tensors = parts()
    for name in ("measured.views", "share.object"):
        tensors[name][0] = torch.nan
    tensors["maps"][0] = -128
    found = read_observation(write_tensors(tmp_path / "one.safetensors", about, tensors))
    assert found.measured.profiles[0].isnan().all()
    assert found.measured.shares["object"].isnan().tolist() == [True] + [False] * (IMAGES - 1)
    assert found.snapshot.maps[RULE].shape == (IMAGES, 3, SIDE, SIDE)


def test_what_a_model_of_double_precision_said_is_read_back(tmp_path):
    double = observation(probabilities=torch.full((IMAGES, 3), 1 / 3, dtype=torch.float64))
    (tmp_path / "double.safetensors").write_bytes(encode_observation(double))
    found = read_observation(tmp_path / "double.safetensors").snapshot
    assert found.probabilities.dtype == torch.float32
    torch.testing.assert_close(found.probabilities, torch.full((IMAGES, 3), 1 / 3))
