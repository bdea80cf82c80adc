"""How much maps depend on the model, told before anybody trusts them; reported, never gated.

A map that hardly changes when the weights are drawn anew shows the image, not the model (Adebayo et
al. 2018, Sanity Checks for Saliency Maps, https://arxiv.org/abs/1810.03292).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_saliency.attribution.logits import Forward, count_classes, find_logits
from lightning_saliency.attribution.passes import Attributions, PassOptions, Request, compute
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.targets import STRONGEST
from lightning_saliency.functional.measures import spearman
from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.probe.batch import ProbeBatch

_SEED = 181003292  # of the weights drawn anew: not one that anybody trains with

State = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Health:
    """Rank correlations of the maps of a model with others, in [-1, 1]; means over the images.

    Attributes:
        rule: Of the maps.
        last_layer: With those after the last layer on the way to the logits was drawn anew.
        all_layers: With those after every layer was drawn anew.
        untrained: With those of the untrained model, where its weights were given.
        other_class: With those of another class of the same image.
        other_image: With those of another image: what two maps have in common that have nothing to
            do with each other.
    """

    rule: str
    last_layer: float
    all_layers: float
    untrained: float | None
    other_class: float | None
    other_image: float | None

    def __str__(self) -> str:
        told = {
            "last layer drawn anew": self.last_layer,
            "all layers drawn anew": self.all_layers,
            "untrained": self.untrained,
            "another class": self.other_class,
            "another image (the floor)": self.other_image,
        }
        lines = [f"{self.rule.replace('_', ' ')}: rank correlation of the maps with those of"]
        lines += [f"  {name:26}{value:6.2f}" for name, value in told.items() if value is not None]
        return "\n".join(lines)


def health(
    model: nn.Module,
    probe: ProbeBatch,
    *,
    rule: Rule = "guided_backprop",
    untrained: State | None = None,
    forward: Forward | None = None,
) -> Health:
    """Measure how much the maps of ``model`` depend on its weights and on the class.

    The model is left as it was found: weights drawn anew are passed to it, never written into it,
    and no random stream moves.

    Args:
        model: Any module; layers with ``reset_parameters`` can be drawn anew.
        probe: The images; the label of each is explained, or the class that is predicted.
        rule: Of the maps.
        untrained: The ``state_dict`` from before training.
        forward: ``forward(model, images)`` returns the logits.

    Raises:
        ValueError: The model has no layer that can be drawn anew.
        SaliencyError: It cannot be explained.
    """
    called = _Called(model, forward)
    layers = _layers(model)
    if not layers:
        raise ValueError("`model` has no layer with `reset_parameters` that could be drawn anew.")
    labels = probe.first_labels()
    column = torch.full((len(probe),), STRONGEST) if labels is None else labels
    explained = _explained(called, probe, rule, column, {})
    maps = explained.maps(rule)[:, 0].cpu()

    def beside(state: State) -> float:
        drawn = _explained(called, probe, rule, explained.targets, state)
        return _mean(spearman(maps, drawn.maps(rule)[:, 0].cpu()))

    last = _last_to_run(called, probe, layers)
    return Health(
        rule=rule,
        last_layer=beside(_drawn_anew({last: layers[last]})),
        all_layers=beside(_drawn_anew(layers)),
        untrained=None if untrained is None else beside(untrained),
        other_class=_beside_other_class(called, probe, rule, explained),
        other_image=_mean(spearman(maps, maps.roll(1, dims=0))) if len(maps) > 1 else None,
    )


class _Called(nn.Module):
    """A model with the way it is called, so that both can be given other weights."""

    def __init__(self, model: nn.Module, forward: Forward | None) -> None:
        super().__init__()
        self.model, self.way = model, forward

    def forward(self, images: Tensor) -> object:
        return self.model(images) if self.way is None else self.way(self.model, images)


def _layers(model: nn.Module) -> dict[str, nn.Module]:
    return {name: m for name, m in model.named_modules() if hasattr(m, "reset_parameters")}


def _last_to_run(called: _Called, probe: ProbeBatch, layers: Mapping[str, nn.Module]) -> str:
    """The last of ``layers`` that runs, for an image, on the way to its logits.

    The last that is defined where none is seen to run: a model may read the weights of its layers
    without calling them.
    """
    found = list(layers)[-1]

    def forward(model: nn.Module, images: Tensor) -> Tensor:
        nonlocal found
        ran: list[str] = []
        with ExitStack() as stack:
            for name, layer in layers.items():
                layer.requires_grad_(True)  # `count_classes` gives back what it was
                hook = layer.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
                stack.callback(hook.remove)
            logits = find_logits(model(images), len(images))
        found = next((name for name in reversed(ran) if _decides(layers[name], logits)), found)
        return logits

    count_classes(called, probe.images, forward)
    return found


def _decides(layer: nn.Module, logits: Tensor) -> bool:
    """Whether ``logits`` depend on the weights of ``layer``."""
    weights = list(layer.parameters())
    if not weights:
        return False
    found = torch.autograd.grad(logits.sum(), weights, retain_graph=True, allow_unused=True)
    return any(gradient is not None for gradient in found)


def _drawn_anew(layers: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Parameters and buffers of ``layers`` as their constructors would have drawn them."""
    state: dict[str, Tensor] = {}
    with random_streams_kept(_SEED), torch.no_grad():
        for name, layer in layers.items():
            fresh = copy.deepcopy(layer)
            fresh.reset_parameters()  # type: ignore[operator]
            prefix = f"{name}." if name else ""
            state |= {prefix + key: value for key, value in fresh.state_dict().items()}
    return state


def _explained(
    called: _Called, probe: ProbeBatch, rule: Rule, targets: Tensor, state: State
) -> Attributions:
    """The explanation of ``called`` as if it had the weights in ``state``."""
    replaced = {f"model.{name}": value for name, value in state.items()}

    def forward(model: nn.Module, images: Tensor) -> object:
        return functional_call(model, replaced, (images,))

    return compute(PassOptions(forward), called, probe.images, [Request((rule,), targets)])[0]


def _beside_other_class(
    called: _Called, probe: ProbeBatch, rule: Rule, explained: Attributions
) -> float | None:
    """How alike the maps of the explained class and of the strongest other one are."""
    if explained.logits.shape[1] < 2:
        return None
    targets = explained.targets.cpu()
    both = torch.cat([targets, torch.full_like(targets, STRONGEST)], dim=1)
    maps = _explained(called, probe, rule, both, {}).maps(rule).cpu()
    return _mean(spearman(maps[:, 0], maps[:, 1]))


def _mean(values: Tensor) -> float:
    return float(values.nanmean())
