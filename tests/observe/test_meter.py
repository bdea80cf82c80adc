"""The measurements of an explanation, compared with the same computed from its maps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from matrix import Touchy, probe
from torch import Tensor

from lightning_saliency import Explanation, ProbeBatch, explain
from lightning_saliency.check.moves import find_move
from lightning_saliency.functional.measures import moved_mass, profiles, share
from lightning_saliency.observe.meter import Meter


def same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def explained(images: ProbeBatch, meter: Meter, part=same):
    request = meter.request(part)
    model = Touchy()
    return explain(model, part(images.images), request.targets, rules=request.rules)


def joint_maps(explanation: Explanation, images: ProbeBatch) -> tuple[Tensor, Tensor]:
    """Where the logit would change with a pixel, and where it does; both by their definitions."""
    gradient = explanation["gradient"][:, 0]
    contrast = images.images - images.images.mean(dim=(2, 3), keepdim=True)
    return gradient.abs().sum(dim=1).sqrt(), (gradient * contrast).sum(dim=1).abs()


def test_the_label_s_gradient_is_measured_in_two_ways():
    images = probe()
    meter = Meter.for_probe(images, 96)
    explanation = explained(images, meter)
    both = joint_maps(explanation, images)
    found = meter.measure(explanation, same)
    assert torch.equal(found.classes, images.labels)
    torch.testing.assert_close(found.views, torch.stack([profiles(m) for m in both], dim=1))
    torch.testing.assert_close(found.profiles, sum(profiles(m) for m in both) / 2)
    shares = [share(m, images.masks["corner"]) for m in both]
    torch.testing.assert_close(found.shares["corner"], sum(shares) / 2)
    expected = explanation.logits.softmax(dim=1).gather(1, images.labels[:, None])[:, 0]
    torch.testing.assert_close(found.probabilities, expected)
    parts = sum(m / m.sum(dim=(1, 2), keepdim=True) for m in both)
    expected = (parts / parts.amax(dim=(1, 2), keepdim=True)).half()
    torch.testing.assert_close(found.maps, expected)


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
    both = joint_maps(explanation, images)
    torch.testing.assert_close(found.views, torch.stack([profiles(m) for m in both], dim=1))


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

    views = torch.full((1, 4, 2, 8, 8), 1 / 64, dtype=torch.float64)

    def run_views(self) -> torch.Tensor:
        return self.views[:, 0]


def test_one_number_per_measure():
    images = probe()
    meter = Meter.for_probe(images, 96)
    found = meter.measure(explained(images, meter), same)
    now, even = found.mean_profile(), torch.full((8, 8), 1 / 64, dtype=torch.float64)
    alone = meter.summarize(found)
    assert alone == {"corner.share": pytest.approx(float(found.shares["corner"].mean()))}
    beside = replace(meter, good=Even()).summarize(found, first=now, previous=even)
    moves = ["moved_mass", "image_moved_mass"]
    assert list(beside) == ["corner.share", *moves, "drift.first", "drift.previous"]
    assert beside["image_moved_mass"] > beside["moved_mass"]
    assert beside["moved_mass"] == pytest.approx(find_move(found.mean_views(), Even().run_views()))
    assert 0 < beside["drift.previous"] == pytest.approx(moved_mass(now, even))
    assert beside["drift.first"] == 0


def test_the_mean_profile_weighs_all_images_alike_and_skips_empty_ones():
    maps = torch.zeros(3, 8, 8)
    maps[0, 0, 0], maps[1, 7, 7] = 1000.0, 0.001
    meter = Meter.for_probe(probe(), 96)
    found = replace(meter.measure(explained(probe(), meter)), views=profiles(maps)[:, None])
    mean = found.mean_profile()
    assert float(mean[0, 0]) == float(mean[7, 7]) == 0.5
