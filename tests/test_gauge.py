"""What is measured of an explanation, beside the same worked out from the maps themselves."""

from __future__ import annotations

import pytest
import torch
from matrix import Touchy, probe

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.gauge import Gauge, mean_profile, measures_of
from lightning_saliency.measures import profiles, share


def same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def explained(images: ProbeBatch, gauge: Gauge, part=same):
    request = gauge.request(part)
    model = Touchy()
    return explain(model, part(images.images), request.targets, rules=request.rules)


def test_the_label_s_squared_gradient_is_measured():
    images = probe()
    gauge = Gauge.for_probe(images, 96)
    explanation = explained(images, gauge)
    maps = explanation.maps("gradient", "square")[:, 0]
    found = gauge.read(explanation, same)
    assert torch.equal(found.classes, images.labels)
    torch.testing.assert_close(found.profiles, profiles(maps))
    torch.testing.assert_close(found.shares["corner"], share(maps, images.masks["corner"]))
    expected = explanation.logits.softmax(dim=1).gather(1, images.labels[:, None])[:, 0]
    torch.testing.assert_close(found.chances, expected)
    assert found.maps.shape == maps.shape
    assert float(found.maps.amax()) == 1


def test_contributions_are_measured_where_they_are_asked_for():
    images = probe()
    gauge = Gauge.for_probe(images, 96, reduce="contribution")
    explanation = explained(images, gauge)
    mean = images.images.mean(dim=(2, 3), keepdim=True)
    maps = (explanation["gradient"][:, 0] * (images.images - mean)).sum(dim=1).abs()
    torch.testing.assert_close(gauge.read(explanation, same).profiles, profiles(maps))


def test_of_a_probe_without_labels_the_predicted_class_is_measured_or_the_reference_s():
    images = ProbeBatch(probe().images)
    gauge = Gauge.for_probe(images, 96)
    explanation = explained(images, gauge)
    assert torch.equal(gauge.read(explanation, same).classes, explanation.logits.argmax(dim=1))
    classes = torch.tensor([3, 2, 1, 0])
    gauge = Gauge.for_probe(images, 96, classes=classes)
    assert torch.equal(gauge.read(explained(images, gauge), same).classes, classes)


def test_each_process_measures_its_part():
    images = probe()
    gauge = Gauge.for_probe(images, 96)
    torch.manual_seed(0)
    whole = gauge.read(explained(images, gauge), same)
    torch.manual_seed(0)
    part = gauge.read(explained(images, gauge, lambda t: t[2:]), lambda t: t[2:])
    torch.testing.assert_close(part.profiles, whole.profiles[2:], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(part.shares["corner"], whole.shares["corner"][2:])


def test_maps_are_kept_at_picture_resolution_and_measured_in_full():
    images = probe()
    gauge = Gauge.for_probe(images, 6)
    explanation = explained(images, gauge)
    found = gauge.read(explanation, same)
    assert found.maps.shape == (4, 6, 6)
    torch.testing.assert_close(
        found.profiles, profiles(explanation.maps("gradient", "square")[:, 0])
    )


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_map_of_nothing_and_one_that_diverged_are_not_numbers(value):
    images = probe()
    gauge = Gauge.for_probe(images, 96)
    explanation = explained(images, gauge)
    explanation["gradient"][1] = value
    found = gauge.read(explanation, same)
    assert found.profiles.isnan().any(dim=-1).any(dim=-1).tolist() == [False, True, False, False]
    assert found.shares["corner"].isnan().tolist() == [False, True, False, False]
    assert bool(torch.isfinite(mean_profile(found)).all())


def test_the_numbers_that_stand_for_an_observation():
    images = probe()
    gauge = Gauge.for_probe(images, 96)
    found = gauge.read(explained(images, gauge), same)
    now, even = mean_profile(found), torch.full((8, 8), 1 / 64, dtype=torch.float64)
    alone = measures_of(found, reference=None, first=None, previous=None)
    assert alone == {"corner.share": pytest.approx(float(found.shares["corner"].mean()))}
    beside = measures_of(found, reference=even, first=now, previous=even)
    assert list(beside) == ["corner.share", "moved_mass", "drift.first", "drift.previous"]
    assert beside["moved_mass"] == beside["drift.previous"] > 0
    assert beside["drift.first"] == 0
