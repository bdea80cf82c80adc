"""Rules that are callables: what they are given, what they may return, and what they cannot do."""

from __future__ import annotations

import functools
import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from callables import hiding, nasty, noisy, slope
from matrix import Touchy, differences, probe, run_state
from networks import Small
from torch import Tensor, nn

from lightning_saliency import AttentionCheck, SaliencyCallback, SaliencyError, explain
from lightning_saliency.attribution.logits import call_plainly
from lightning_saliency.attribution.passes import PassOptions, Request, compute
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.health import health
from lightning_saliency.rules import LogitModel

IMAGES = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small() -> nn.Module:
    torch.manual_seed(0)
    return Small(F.relu).eval()


# What a method is given, and what is made of what it returns


def test_a_callable_that_computes_the_gradient_is_the_gradient():
    model = small().train()
    explained = explain(model, IMAGES, rules=("gradient", slope))
    # On a CPU, the built-in rules may call the model with its weights in another memory format.
    torch.testing.assert_close(explained["slope"], explained["gradient"], rtol=1e-4, atol=1e-7)
    assert explained["slope"].shape == (3, 3, 3, 8, 8)
    assert all(m.training for m in model.modules())


HEADS = {
    "softmax": lambda logits: logits.softmax(dim=1),
    "log-softmax": lambda logits: logits.log_softmax(dim=1),
    "sigmoid": torch.sigmoid,
    "one of several": lambda logits: logits.softmax(dim=1)[:, 1],
    "of a dict": lambda logits: {"logits": logits},
}


@pytest.mark.parametrize("head", HEADS)
def test_what_is_explained_is_the_logit(head):
    def forward(model: nn.Module, images: Tensor) -> Any:
        return HEADS[head](model(images))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        explained = explain(small(), IMAGES, rules=("gradient", slope, hiding), forward=forward)
    torch.testing.assert_close(explained["slope"], explained["gradient"], rtol=1e-4, atol=1e-7)
    hidden = IMAGES.clone()
    hidden[..., :4] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        after = explain(small(), hidden, rules=("gradient",), forward=forward).logits
    fall = (explained.logits - after)[..., None, None, None].expand(-1, -1, 1, 8, 8)
    torch.testing.assert_close(explained["hiding"], fall)


def test_further_inputs_are_passed_along():
    model = small()
    shift = torch.tensor([1.0, 2.0, 3.0])

    def forward(model: nn.Module, images: Tensor, shift: Tensor) -> Tensor:
        return model(images) * shift[:, None]

    def twice(model: LogitModel, images: Tensor, targets: Tensor) -> Tensor:
        both, extras = images.repeat(2, 1, 1, 1), (rows.repeat(2) for rows in model.extras)
        chosen = model(both, *extras).gather(1, targets.repeat(2)[:, None]).sum()
        return torch.autograd.grad(chosen, images)[0] / 2

    options: Any = {"forward": forward, "extras": {"shift": shift}, "chunk_size": 2}
    explained = explain(model, IMAGES, rules=("gradient", slope, twice), **options)
    for name in ("slope", "twice"):
        torch.testing.assert_close(explained[name], explained["gradient"], rtol=1e-4, atol=1e-7)

    def careless(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return slope(model, images[:1], targets[:1])

    with pytest.raises(SaliencyError, match=r"1 images in place of 2.*rows of shift.*\*extras"):
        explain(model, IMAGES, rules=(careless,), **options)


def test_layers_are_found_by_their_names():
    def activations(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return model.second(model.first(images)).sum(dim=1, keepdim=True)

    model = small()
    explained = explain(model, IMAGES, 0, rules=(activations,))
    expected = model.second(model.first(IMAGES)).sum(dim=1, keepdim=True)
    torch.testing.assert_close(explained[activations][:, 0], expected.detach())
    with pytest.raises(AttributeError, match="no attribute 'third'"):
        _ = LogitModel(call_plainly, model, IMAGES, {}, None, False).third


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_attributions_have_the_precision_of_the_built_in_rules(dtype):
    given = []

    def looking(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        given.append((images.dtype, model(images).dtype, images.requires_grad))
        return slope(model, images, targets).half()

    explained = explain(small().to(dtype), IMAGES.to(dtype), 0, rules=("gradient", looking))
    single = torch.float64 if dtype == torch.float64 else torch.float32
    assert given == [(single, single, True)]
    assert explained[looking].dtype == explained["gradient"].dtype == single
    torch.testing.assert_close(explained[looking], explained["gradient"], rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("outer", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_gradients_are_enabled_for_it(outer):
    model = small()
    plain = explain(model, IMAGES, rules=(slope,))
    with outer():
        assert torch.equal(explain(model, IMAGES, rules=(slope,))[slope], plain[slope])


def test_a_model_without_a_gradient_can_be_explained_by_what_takes_none():
    class Rounding(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.round().sum(dim=(2, 3)).detach()

    explained = explain(Rounding(), IMAGES, rules=(hiding,))
    expected = IMAGES[..., :4].round().sum(dim=(2, 3))
    torch.testing.assert_close(explained[hiding][..., 0, 0, 0], expected)
    assert str(explained.coverage) == "no activations"
    with pytest.raises(SaliencyError, match="do not depend on `images`"):
        explain(Rounding(), IMAGES, rules=(hiding, "gradient"))


def test_no_doubt_of_the_graph_is_said_of_it():
    linear = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", SaliencyWarning)
        explain(linear, IMAGES, rules=(slope, "gradient"))


# Rules of both kinds, together


def test_order_names_maps_and_pictures():
    explained = explain(small(), IMAGES, rules=(hiding, "guided_backprop", slope))
    assert list(explained.attributions) == ["hiding", "guided_backprop", "slope"]
    assert explained["hiding"].shape == (3, 3, 1, 8, 8)
    assert torch.equal(explained.maps(hiding, "abs_sum"), explained["hiding"][:, :, 0].abs())
    assert len(explained.plot(IMAGES, image=0, targets=1).axes) == 12
    assert len(explained.plot(IMAGES, rule=slope).axes) == 12
    assert len(explained.plot(IMAGES, rule=[slope, "hiding"], image=0, targets=1).axes) == 8
    heads = [ax.get_title(loc="left") for ax in explained.plot(IMAGES, rule=hiding).axes]
    assert heads[1] == "hiding\nsigned"
    assert explained._repr_png_().startswith(b"\x89PNG")


def test_the_built_in_rules_are_the_same_bits_with_or_without_it():
    alone = explain(small(), IMAGES, rules=("gradient", "guided_backprop"))
    both = explain(small(), IMAGES, rules=(nasty, "gradient", slope, "guided_backprop", nasty_too))
    for rule in alone.attributions:
        assert torch.equal(both[rule], alone[rule])
    # What one call has left behind, the next does not see.
    assert torch.equal(both["nasty"], both["slope"])
    assert torch.equal(both["nasty_too"], both["slope"])


@functools.wraps(nasty)
def nasty_too(*given: Any) -> Tensor:
    return nasty(*given)


nasty_too.name = "nasty_too"


def test_nothing_is_left_of_it():
    model = Touchy().train()
    model.conv1.weight.requires_grad_(False)
    model.trainer = None

    class Idle:
        optimizers, lr_scheduler_configs, callback_metrics, logged_metrics = [], [], {}, {}

    before = run_state(Idle, model)
    with torch.no_grad():
        explain(model, probe().images, rules=(nasty, noisy))
        assert not torch.is_grad_enabled()
    assert differences(before, run_state(Idle, model)) == []
    assert not hasattr(model, "note")


def test_its_random_numbers_are_the_same_in_each_call():
    model = small()
    first = explain(model, IMAGES, rules=(noisy,))[noisy]
    torch.manual_seed(2), np.random.seed(2), random.seed(2)
    then = torch.get_rng_state()
    second = explain(model, IMAGES, rules=("gradient", noisy))[noisy]
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), then)
    assert torch.equal(first[:, 0], first[:, 1])  # Classes differ by the class alone.
    assert first.std() > 0.5


def test_chunks_and_memory():
    called = []

    def hungry(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        called.append(len(images))
        if len(images) > 2:
            raise torch.OutOfMemoryError
        return slope(model, images, targets)

    whole = explain(small(), IMAGES, 1, rules=(slope,))
    with pytest.warns(SaliencyWarning, match="explaining 2 image"):
        explained = explain(small(), IMAGES, 1, rules=(hungry,))
    assert called == [3, 2, 1]
    torch.testing.assert_close(explained[hungry], whole[slope])
    chunked = explain(small(), IMAGES, 1, rules=(slope, "gradient"), chunk_size=1)
    torch.testing.assert_close(chunked[slope], whole[slope])


def test_health_takes_it_too():
    found, expected = (health(Touchy(), probe(), rule=rule) for rule in (slope, "gradient"))
    assert str(found).startswith("slope: ")
    for name in ("last_layer", "all_layers", "other_class", "other_image"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name), abs=0.3)


def test_health_swaps_the_weights_that_it_sees():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    a, b = (health(model, probe3(), rule=rule) for rule in (slope, "gradient"))
    assert (a.last_layer, a.other_class) == pytest.approx((b.last_layer, b.other_class))
    assert a.last_layer < 0.3


def probe3() -> Any:
    from lightning_saliency import ProbeBatch

    return ProbeBatch(IMAGES, [0, 1, 2])


# What is refused


def wrong(value: Any) -> Any:
    def returning(model: nn.Module, images: Tensor, targets: Tensor) -> Any:
        return value(slope(model, images, targets)) if callable(value) else value

    return returning


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        pytest.param(None, r"\(3, 1, 8, 8\), got NoneType. Convert", id="nothing"),
        pytest.param(lambda g: g.numpy(), "got ndarray. Convert it with `torch.as_te", id="array"),
        pytest.param(lambda g: (g, 0), "got tuple. Return the item that", id="tuple"),
        pytest.param(
            lambda g: g.long(), r"got torch.int64. Convert it with `.float", id="integers"
        ),
        pytest.param(
            lambda g: g.sum(1), r"\(3, 8, 8\). Add an axis .*\[:, None\]", id="no-channel"
        ),
        pytest.param(lambda g: g[..., :2, :2], r"with `F.interpolate\(maps, \(8, 8\)", id="small"),
        pytest.param(lambda g: g[:, :2], r"got shape \(3, 2, 8, 8\). Add up", id="channels"),
        pytest.param(lambda g: g[:1], "called with several images at a time", id="one-image"),
        pytest.param(
            lambda g: 1 / 0,
            r" failed on .*ZeroDivisionError: div.*\n.*is called",
            id="error",
        ),
    ],
)
def test_what_it_must_not_return(returned, message):
    calls = []

    def counted(*given: Any) -> Any:
        calls.append(None)
        return wrong(returned)(*given)

    counted.name = "returning"
    with pytest.raises(SaliencyError, match=f"the rule 'returning'.*{message}"):
        explain(small(), IMAGES, 0, rules=(counted,))
    assert len(calls) == 1


def test_values_that_are_not_finite_are_a_warning_for_models_diverge():
    with pytest.warns(SaliencyWarning, match="the map by broken contains NaN"):
        explain(small(), IMAGES, 0, rules=(named("broken", lambda m, i, t: i / 0),))


def named(name: Any, call: Any = slope) -> Any:
    def rule(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        return call(model, images, targets)

    rule.name = name
    return rule


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        pytest.param([lambda m, i, t: i], ValueError, "has no name.*`def my_rule", id="lambda"),
        pytest.param([functools.partial(slope)], ValueError, "rule.name = ", id="partial"),
        pytest.param([small()], ValueError, "has no name", id="module"),
        pytest.param([named("")], ValueError, "must begin with a letter.*''", id="empty"),
        pytest.param([named("../x")], ValueError, "letters, digits, '_'", id="path"),
        pytest.param([named("<b>")], ValueError, "must begin with a letter", id="markup"),
        pytest.param([named("gradient")], ValueError, 'rule.name = "my_gradient"', id="built-in"),
        pytest.param([slope, slope], ValueError, "once, got 'slope' twice.*`name`", id="twice"),
        pytest.param([slope, named("slope")], ValueError, "each rule once", id="same-name"),
        pytest.param([3], TypeError, "must be one of gradient.*got 3", id="number"),
        pytest.param(slope, ValueError, "must be a tuple such as", id="not-in-a-tuple"),
    ],
)
def test_names(rules, error, message):
    with pytest.raises(error, match=message):
        explain(small(), IMAGES, rules=rules)
    if isinstance(rules, list) and rules != [3]:
        with pytest.raises(error, match=message):
            SaliencyCallback(rule=tuple(rules))


def test_what_a_callback_shows():
    options = SaliencyCallback(rule=("gradient", slope, named("mine"))).options
    assert options.rules == ("gradient", "slope", "mine")
    assert list(options.methods) == ["slope", "mine"]
    assert options.display_key["rule"] == ["gradient", "slope", "mine"]
    assert SaliencyCallback(rule=slope).options.display_key["rule"] == "slope"
    with pytest.raises(ValueError, match=r"must be one of gradient.*a callable .*, got 3"):
        SaliencyCallback(rule=3)


def test_a_check_measures_a_gradient():
    with pytest.raises(ValueError, match=r"rule='gradient'.*show the callable with `Saliency"):
        AttentionCheck(rule=slope)


def test_with_other_processes_the_passes_go_on_to_their_end():
    called = []

    def failing(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        called.append(len(images))
        raise RuntimeError("only here")

    methods = {"failing": failing, "slope": slope}
    options = PassOptions(call_plainly, chunk_size=1, alone=False, methods=methods)
    asked = [Request(("failing", "gradient"), 0)]
    with pytest.raises(SaliencyError, match=r"'failing' failed .*: only here"):
        compute(options, small(), IMAGES, asked)
    assert called == [1, 1, 1]
