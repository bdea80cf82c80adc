"""Measure how much saliency maps depend on the model, before anybody trusts them.

A map that hardly changes when the weights are replaced by random ones shows the image, not the
model (Adebayo et al. 2018, Sanity Checks for Saliency Maps, https://arxiv.org/abs/1810.03292). The
numbers are a report: nothing in the package fails because of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_saliency.attribution.failures import saying_what_failed
from lightning_saliency.attribution.logits import Forward, count_classes, find_logits
from lightning_saliency.attribution.methods import Method, name_rule, read_rules
from lightning_saliency.attribution.passes import Attributions, PassOptions, Request, compute
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.targets import STRONGEST
from lightning_saliency.functional.measures import spearman
from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.probe.batch import ProbeBatch

# The seed of the random weights. Nobody trains with it, so they are not the ones that a user's
# model started from.
_SEED = 181003292

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Health:
    """How similar the maps of a model are to other maps.

    Each number is a rank correlation in [-1, 1], averaged over the images, between the maps of the
    model and the maps that the attribute names.

    Attributes:
        rule: The rule of all these maps.
        last_layer: The maps after the last layer before the logits was reinitialised.
        all_layers: The maps after every layer was reinitialised.
        untrained: The maps of the untrained model; ``None`` if its weights were not given.
        other_class: The maps of another class of the same image; ``None`` if there is one logit.
        other_image: The maps of another image, which is the similarity of maps that have nothing to
            do with each other; ``None`` if there is one image.
    """

    rule: str
    last_layer: float
    all_layers: float
    untrained: float | None
    other_class: float | None
    other_image: float | None

    def __str__(self) -> str:
        rows = {
            "last layer reinitialised": self.last_layer,
            "all layers reinitialised": self.all_layers,
            "untrained": self.untrained,
            "another class": self.other_class,
            "another image (the floor)": self.other_image,
        }
        lines = [f"{self.rule.replace('_', ' ')}: rank correlation of the maps with those of"]
        lines += [f"  {name:26}{value:6.2f}" for name, value in rows.items() if value is not None]
        return "\n".join(lines)


def health(
    model: nn.Module,
    probe: ProbeBatch,
    *,
    rule: Rule | Method = "guided_backprop",
    untrained: State | None = None,
    forward: Forward | None = None,
) -> Health:
    """Measure how much the maps of ``model`` depend on its weights and on the class.

    The model is left as it was found. Random weights are passed to it for the duration of a call
    and never written into it, and no random stream is advanced.

    Args:
        model: Any module. Layers that have ``reset_parameters`` can be reinitialised.
        probe: The images. The first label of each is explained, or the predicted class if there are
            no labels.
        rule: The rule of the maps: a name or a callable, as :func:`explain` takes them.
        untrained: The ``state_dict`` from before training.
        forward: ``forward(model, images, **extras)`` returns the logits, with the extras of
            ``probe``.

    Raises:
        ValueError: The model has no layer that can be reinitialised.
        SaliencyError: The model cannot be explained.
    """
    called, name = _Called(model, forward), name_rule(rule)
    layers = {name: m for name, m in model.named_modules() if hasattr(m, "reset_parameters")}
    if not layers:
        raise ValueError("`model` has no layer with `reset_parameters` to reinitialise.")
    labels = probe.first_labels()
    column = torch.full((len(probe),), STRONGEST) if labels is None else labels
    explained = _explain_with(called, probe, rule, column, {})
    maps = explained.maps(rule)[:, 0].cpu()

    def compare_with(state: State) -> float:
        other = _explain_with(called, probe, rule, explained.targets, state)
        return _mean(spearman(maps, other.maps(rule)[:, 0].cpu()))

    last = _find_last_layer(called, probe, layers)
    return Health(
        rule=name,
        last_layer=compare_with(_reinitialise({last: layers[last]})),
        all_layers=compare_with(_reinitialise(layers)),
        untrained=None if untrained is None else compare_with(untrained),
        other_class=_compare_with_other_class(called, probe, rule, explained),
        other_image=_mean(spearman(maps, maps.roll(1, dims=0))) if len(maps) > 1 else None,
    )


class _Called(nn.Module):
    """A model with the way it is called, so that ``functional_call`` can swap its weights."""

    def __init__(self, model: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.model, self.call = model, saying_what_failed(forward)

    def forward(self, images: Tensor, **extras: Tensor) -> object:
        return self.call(self.model, images, **extras)


def _find_last_layer(called: _Called, probe: ProbeBatch, layers: Mapping[str, nn.Module]) -> str:
    """Find the last of ``layers`` that runs and contributes to the logits.

    Layers may be defined in any order, and an auxiliary head may run after the logits are computed.

    Returns:
        The name of the layer. It is the last one that is defined if no layer was seen to run,
        because a model may read the weights of its layers without calling them.
    """
    found = list(layers)[-1]

    def forward(model: nn.Module, images: Tensor, **extras: Tensor) -> Tensor:
        nonlocal found
        ran: list[str] = []
        with ExitStack() as stack:
            for name, layer in layers.items():
                layer.requires_grad_(True)  # `count_classes` restores it
                hook = layer.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
                stack.callback(hook.remove)
            output = model(images, **extras)
            logits = find_logits(output, len(images), probe.num_classes)
        found = next((name for name in reversed(ran) if _contributes(layers[name], logits)), found)
        return logits

    count_classes(called, probe.images, forward, extras=probe.extras)
    return found


def _contributes(layer: nn.Module, logits: Tensor) -> bool:
    """Return whether ``logits`` depend on the weights of ``layer``."""
    weights = list(layer.parameters())
    if not weights:
        return False
    found = torch.autograd.grad(logits.sum(), weights, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in found)


def _reinitialise(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Draw new parameters and buffers for ``layers``, in copies of them.

    Returns:
        The new values by their names in the ``state_dict`` of the model.
    """
    state: dict[str, Tensor] = {}
    with random_streams_kept(_SEED), torch.no_grad():
        for name, layer in layers.items():
            fresh = copy.deepcopy(layer)
            fresh.reset_parameters()  # type: ignore[operator]
            prefix = f"{name}." if name else ""
            state |= {prefix + key: value for key, value in fresh.state_dict().items()}
    return state


def _explain_with(
    called: _Called, probe: ProbeBatch, rule: Rule | Method, targets: Tensor, state: State
) -> Attributions:
    """Explain the model as if it had the weights in ``state``, which may be some or none."""
    replaced = {f"model.{name}": value for name, value in state.items()}

    def forward(_: nn.Module, images: Tensor, **extras: Tensor) -> object:
        return functional_call(called, replaced, (images,), extras)

    names, methods = read_rules((rule,), "rule")
    options = PassOptions(forward, classes=probe.num_classes, methods=methods)
    return compute(options, called.model, probe.images, [Request(names, targets)], probe.extras)[0]


def _compare_with_other_class(
    called: _Called, probe: ProbeBatch, rule: Rule | Method, explained: Attributions
) -> float | None:
    """Compare the maps of the explained class with those of the strongest other class."""
    if explained.logits.shape[1] < 2:
        return None
    targets = explained.targets.cpu()
    both = torch.cat([targets, torch.full_like(targets, STRONGEST)], dim=1)
    maps = _explain_with(called, probe, rule, both, {}).maps(rule).cpu()
    return _mean(spearman(maps[:, 0], maps[:, 1]))


def _mean(values: Tensor) -> float:
    return float(values.nanmean())
