"""Errors and warnings about maps that are wrong or may be, each with its remedy.

No map that may be wrong is returned silently. :func:`check_graph` raises if no correct map can come
of a graph; :func:`warn_of_doubts` warns of everything else that makes a finished map doubtful.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from lightning_saliency.attribution.rules import Coverage, Graph, Rule
from lightning_saliency.errors import SaliencyError, SaliencyWarning

# What to do about an operation that may hide activations, by the name of its node.
_REMEDIES = {
    "CheckpointFunction": "pass `use_reentrant=False` to torch.utils.checkpoint",
    "CompiledFunction": "pass the uncompiled module",
    "CopySlices": "apply the activation to a copy of the slice, not in place",
    "DifferentiableGraph": "pass the unscripted module, or trace it",
    "CudnnRnn": "a recurrent ReLU layer of cuDNN; set `torch.backends.cudnn.enabled = False`",
}
_REMEDY = "say what it is with `lightning_saliency.rules.declare(function, …)`"


def _remedies(hidden: Mapping[str, int]) -> str:
    # Nodes that are written in C++ have a namespace, which the table omits.
    return "; ".join(
        f"{kind} ({_REMEDIES.get(kind.rpartition('::')[2], _REMEDY)})" for kind in hidden
    )


def check_graph(graph: Graph, rules: set[Rule]) -> None:
    """Refuse a graph that cannot give a correct map.

    Args:
        graph: The graph of the forward pass.
        rules: The rules that are asked for.

    Raises:
        SaliencyError: The logits do not depend on the images, or the graph hides every activation
            to which ``rules`` could be applied.
    """
    if not graph.connected:
        raise SaliencyError(
            "the logits do not depend on `images`: no gradient flows from one to the other. Does "
            "the model detach or round its input, run under `no_grad`, or return a prediction "
            "instead of logits? Pass `forward=lambda model, images: …` that returns the logits."
        )
    hidden = graph.coverage.hidden
    # A reentrant checkpoint supports `backward` but not `torch.autograd.grad`, so it is an error
    # for the plain gradient too.
    reentrant = "CheckpointFunction" in hidden
    if reentrant or (hidden and not graph.coverage.followed and rules != {"gradient"}):
        raise SaliencyError(
            f"the graph hides the activations of this model behind {_remedies(hidden)}."
        )


def warn_of_doubts(
    model: nn.Module, coverage: Coverage, attributions: Sequence[tuple[str, Tensor]]
) -> None:
    """Warn of everything that makes the maps doubtful.

    The warning filters decide how often a warning is shown; by default, once per message.

    Args:
        model: The model that was explained.
        coverage: How its activations were treated.
        attributions: Pairs of a rule and an attribution by it.
    """
    named = " and ".join(dict.fromkeys(rule for rule, _ in attributions if rule != "gradient"))
    if named and coverage.hidden:
        warn(
            f"{coverage.followed} activation(s) follow {named}, but others may be hidden behind "
            f"{_remedies(coverage.hidden)}. The maps may be wrong."
        )
    elif named and not coverage.followed:
        warn(
            f"no rectifier lies between the images and the logits ({coverage}), so the map by "
            f"{named} is the plain gradient."
        )
    broken = dict.fromkeys(r for r, a in attributions if not bool(torch.isfinite(a).all()))
    if broken:
        warn(
            f"the map by {' and '.join(broken)} contains NaN or infinite values. Has training "
            "diverged? Check the logits and the learning rate."
        )
    if any(_uses_batch_statistics(m) for m in model.modules()):
        warn(
            "a batch norm without running statistics normalises over the batch even in eval mode, "
            "so the map of an image includes its effect on the others. Explain one image at a time."
        )


def _uses_batch_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None


def warn(message: str) -> None:
    """Attribute a warning to the caller of :func:`explain`, which is several calls up the stack."""
    warnings.warn(message, SaliencyWarning, stacklevel=5)
