"""The measurements of an explanation, compared with the same computed from its maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matrix import Touchy, probe

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.functional.measures import profiles, share
from lightning_saliency.observe.meter import Meter


def same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def explained(images: ProbeBatch, meter: Meter, part=same):
    request = meter.request(part)
    model = Touchy()
    return explain(model, part(images.images), request.targets, rules=request.rules)


def test_the_label_s_squared_gradient_is_measured():
    images = probe()
    meter = Meter.for_probe(images, 96)
    explanation = explained(images, meter)
    maps = explanation.maps("gradient", "square")[:, 0]
    found = meter.measure(explanation, same)
    assert torch.equal(found.classes, images.labels)
    torch.testing.assert_close(found.profiles, profiles(maps))
    torch.testing.assert_close(found.shares["corner"], share(maps, images.masks["corner"]))
    expected = explanation.logits.softmax(dim=1).gather(1, images.labels[:, None])[:, 0]
    torch.testing.assert_close(found.probabilities, expected)
    assert found.maps.shape == maps.shape
    assert float(found.maps.amax()) == 1


def test_contributions_are_measured_if_asked_for():
    images = probe()
    meter = Meter.for_probe(images, 96, reduce="contribution")
    explanation = explained(images, meter)
    mean = images.images.mean(dim=(2, 3), keepdim=True)
    maps = (explanation["gradient"][:, 0] * (images.images - mean)).sum(dim=1).abs()
    torch.testing.assert_close(meter.measure(explanation, same).profiles, profiles(maps))


def test_without_labels_the_class_of_the_reference_or_the_predicted_one_is_measured():
    images = ProbeBatch(probe().images)
    meter = Meter.for_probe(images, 96)
    explanation = explained(images, meter)
    assert torch.equal(meter.measure(explanation, same).classes, explanation.logits.argmax(dim=1))
    classes = torch.tensor([3, 2, 1, 0])
    meter = Meter.for_probe(images, 96, classes=classes)
    assert torch.equal(meter.measure(explained(images, meter), same).classes, classes)


def test_each_process_measures_its_part():
    images = probe()
    meter = Meter.for_probe(images, 96)
    torch.manual_seed(0)
    whole = meter.measure(explained(images, meter), same)
    torch.manual_seed(0)
    part = meter.measure(explained(images, meter, lambda t: t[2:]), lambda t: t[2:])
    torch.testing.assert_close(part.profiles, whole.profiles[2:], rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(part.shares["corner"], whole.shares["corner"][2:])


def test_maps_are_kept_at_picture_resolution_and_measured_in_full():
    images = probe()
    meter = Meter.for_probe(images, 6)
    explanation = explained(images, meter)
    found = meter.measure(explanation, same)
    assert found.maps.shape == (4, 6, 6)
    torch.testing.assert_close(
        found.profiles, profiles(explanation.maps("gradient", "square")[:, 0])
    )


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_empty_and_diverged_maps_measure_as_nan(value):
    images = probe()
    meter = Meter.for_probe(images, 96)
    explanation = explained(images, meter)
    explanation["gradient"][1] = value
    found = meter.measure(explanation, same)
    assert found.profiles.isnan().any(dim=-1).any(dim=-1).tolist() == [False, True, False, False]
    assert found.shares["corner"].isnan().tolist() == [False, True, False, False]
    assert bool(torch.isfinite(found.mean_profile()).all())


class Even:
    """Good runs whose gradient is spread evenly."""

    def profile(self) -> torch.Tensor:
        return torch.full((8, 8), 1 / 64, dtype=torch.float64)


def test_one_number_per_measure():
    images = probe()
    meter = Meter.for_probe(images, 96)
    found = meter.measure(explained(images, meter), same)
    now, even = found.mean_profile(), torch.full((8, 8), 1 / 64, dtype=torch.float64)
    alone = meter.summarize(found)
    assert alone == {"corner.share": pytest.approx(float(found.shares["corner"].mean()))}
    beside = replace(meter, good=Even()).summarize(found, first=now, previous=even)
    assert list(beside) == ["corner.share", "moved_mass", "drift.first", "drift.previous"]
    assert beside["moved_mass"] == beside["drift.previous"] > 0
    assert beside["drift.first"] == 0


def test_the_mean_profile_weighs_all_images_alike_and_skips_empty_ones():
    maps = torch.zeros(3, 8, 8)
    maps[0, 0, 0], maps[1, 7, 7] = 1000.0, 0.001
    meter = Meter.for_probe(probe(), 96)
    found = replace(meter.measure(explained(probe(), meter)), profiles=profiles(maps))
    mean = found.mean_profile()
    assert float(mean[0, 0]) == float(mean[7, 7]) == 0.5
