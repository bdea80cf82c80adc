"""One observation: a single forward pass, and the same maps as `explain` for each rule."""

from __future__ import annotations

import pytest
import torch
from matrix import probe
from networks import Mixed
from torch import Tensor, nn

from lightning_saliency import explain
from lightning_saliency.attribution.logits import Forward, call_plainly
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.functional.maps import strongest_channel
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer

RULES = ("guided_backprop", "gradient")
TARGETS = torch.tensor([[0, 2], [1, 0], [2, 1], [0, 1]])


@pytest.fixture
def model() -> Mixed:
    torch.manual_seed(0)
    return Mixed().train()


def observer(
    rules: tuple[str, ...] = RULES, size: int = 12, forward: Forward = call_plainly
) -> Observer:
    images = probe()
    meter = Meter(images, size, classes=torch.tensor([0, 1, 2, 0]))
    return Observer(images, TARGETS, rules, size, PassOptions(forward), meter)


def test_two_rules_take_one_forward_pass(model):
    passes = []

    def counted(network: nn.Module, images: Tensor) -> Tensor:
        passes.append(len(images))
        return network(images)

    seen = observer(forward=counted).observe(model, "epoch 0", 7, epoch=0)
    assert passes == [4]  # for both rules and for what is measured
    assert seen.snapshot.rules == RULES
    assert (seen.step, seen.caption, seen.epoch) == (7, "epoch 0", 0)
    assert model.training


@pytest.mark.parametrize("rule", RULES)
def test_maps_are_those_of_explain(model, rule):
    watch = observer()
    seen = watch.observe(model, "epoch 0", 7).snapshot
    explanation = explain(model, watch.probe.images, TARGETS, rules=(rule,))
    expected = strongest_channel(explanation[rule])
    torch.testing.assert_close(seen.peaks[rule], expected.abs().amax(dim=(-2, -1)))
    found = seen.maps[rule].float() * seen.peaks[rule][..., None, None]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.equal(seen.targets, TARGETS)
    probabilities = explanation.logits.softmax(dim=1)
    torch.testing.assert_close(seen.probabilities, probabilities.gather(1, TARGETS))
    assert torch.equal(seen.predicted, explanation.logits.argmax(dim=1))


def test_a_rule_s_maps_do_not_depend_on_the_others(model):
    alone = observer(("gradient",)).observe(model, "", 0).snapshot
    both = observer().observe(model, "", 0).snapshot
    assert torch.equal(alone.maps["gradient"], both.maps["gradient"])
    assert not torch.equal(both.maps["gradient"], both.maps["guided_backprop"])


def test_maps_are_kept_small(model):
    seen = observer(size=6).observe(model, "", 0).snapshot
    assert {tuple(maps.shape) for maps in seen.maps.values()} == {(4, 2, 6, 6)}


def test_profiles_of_the_past_become_drifts(model):
    watch = observer()
    first = watch.observe(model, "", 0)
    assert set(first.measures) == {"corner.share"}
    profile = first.measured.mean_profile()
    second = watch.observe(model, "", 1, first=profile, previous=profile)
    assert second.measures["drift.first"] == second.measures["drift.previous"] == 0
    assert second.fingerprint == watch.probe.fingerprint
