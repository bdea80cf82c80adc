"""What is doubtful of a map is said, with the remedy: never a wrong map in silence."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.rules import Coverage, Graph, Rule
from lightning_saliency.errors import SaliencyError, SaliencyWarning

_REMEDIES = {
    "CheckpointFunction": "pass `use_reentrant=False` to torch.utils.checkpoint",
    "CompiledFunction": "pass the module that was not compiled",
    "CopySlices": "apply the activation to a copy of the slice, not in place",
    "DifferentiableGraph": "pass the module that was not scripted, or trace it",
    "CudnnRnn": "a recurrent ReLU layer of cuDNN; `torch.backends.cudnn.enabled = False` shows it",
}
_REMEDY = "say what it is with `lightning_saliency.rules.declare(function, …)`"


def _remedies(hidden: Mapping[str, int]) -> str:
    # Those of C++ stand in a namespace.
    told = [f"{kind} ({_REMEDIES.get(kind.rpartition('::')[2], _REMEDY)})" for kind in hidden]
    return "; ".join(told)


def check_graph(graph: Graph, rules: set[Rule]) -> None:
    """Refuse a graph from which no right map can come.

    Raises:
        SaliencyError: The logits do not depend on the images, or everything that ``rules`` could
            hold on to is hidden.
    """
    if not graph.connected:
        raise SaliencyError(
            "the logits do not depend on `images`: no gradient leads from one to the other. Does "
            "the model detach or round its input, compute under `no_grad`, or return a prediction "
            "in place of logits? Pass `forward=lambda model, images: …` that returns the logits."
        )
    hidden = graph.coverage.hidden
    # A reentrant checkpoint refuses gradients with respect to an input, whatever the rule.
    stuck = "CheckpointFunction" in hidden
    if stuck or (hidden and not graph.coverage.followed and rules != {"gradient"}):
        raise SaliencyError(
            f"the graph hides the activations of this model behind {_remedies(hidden)}."
        )


def warn_of_doubts(
    model: nn.Module, coverage: Coverage, attributions: Sequence[tuple[str, Tensor]]
) -> None:
    """Say what is doubtful of the maps; the default filter of warnings says each thing once."""
    named = " and ".join(dict.fromkeys(rule for rule, _ in attributions if rule != "gradient"))
    if named and coverage.hidden:
        warn(
            f"{coverage.followed} activation(s) follow {named}, but others may be hidden behind "
            f"{_remedies(coverage.hidden)}. The maps may be wrong."
        )
    elif named and not coverage.followed:
        warn(
            f"no rectifier on the way from the logits to the images ({coverage}): the map by "
            f"{named} is the plain gradient."
        )
    broken = dict.fromkeys(r for r, a in attributions if not bool(torch.isfinite(a).all()))
    if broken:
        warn(
            f"the map by {' and '.join(broken)} holds NaN or infinite values: has the training "
            "diverged? Look at the logits and the learning rate."
        )
    if any(_uses_batch_statistics(m) for m in model.modules()):
        warn(
            "a batch norm without running statistics normalises over the batch also in eval mode: "
            "the map of an image holds what it did to the others. Explain one image at a time."
        )


def _uses_batch_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None


def warn(message: str) -> None:
    """Warn where :func:`explain` was called, some calls above."""
    warnings.warn(message, SaliencyWarning, stacklevel=5)
