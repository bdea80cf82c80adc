"""Errors and warnings about maps that are wrong or may be, each with its remedy.

No map that may be wrong is returned silently. :func:`check_graph` raises if no correct map can come
of a graph; :func:`warn_of_doubts` warns of everything else that makes a finished map doubtful.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from weakref import WeakSet

from torch import Tensor, nn

from lightning_saliency.attribution.graph import Coverage, Graph
from lightning_saliency.attribution.heads import (
    Activation,
    looks_like_embeddings,
    looks_like_probabilities,
)
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
_OPERATOR = (
    "say what it is with `lightning_saliency.rules.declare(op, …)`, in which `op` is what "
    "`torch.library.custom_op` returned, or `torch.ops.<namespace>.<name>`"
)


def _remedies(hidden: Mapping[str, int]) -> str:
    return "; ".join(f"{kind} ({_find_remedy(kind)})" for kind in hidden)


def _find_remedy(kind: str) -> str:
    if kind.startswith("GeneratedBackwardFor_"):
        return _OPERATOR
    # Nodes that are written in C++ have a namespace, which the table omits.
    return _REMEDIES.get(kind.rpartition("::")[2], _REMEDY)


def check_graph(graph: Graph, rules: set[str]) -> None:
    """Refuse a graph that cannot give a correct map.

    Args:
        graph: The graph of the forward pass.
        rules: The rules that are asked for.

    Raises:
        SaliencyError: The logits do not depend on the images, or the graph hides every activation
            to which ``rules`` could be applied, or an operation in it has no gradient.
    """
    if not graph.connected:
        raise SaliencyError(
            "the logits do not depend on `images`: no gradient flows from one to the other. Does "
            "the model detach or round its input, run under `no_grad`, or return a prediction "
            "instead of logits? Pass `forward=lambda model, images: …` that returns the logits."
        )
    if graph.without_gradient:
        raise SaliencyError(
            "an operation between `images` and the logits has no gradient, as in a model with "
            "quantised layers. Explain the floating-point model that it was made of."
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
    model: nn.Module,
    coverage: Coverage,
    finite: Sequence[tuple[str, Tensor]],
    warned: set[str] | None = None,
    methods: Collection[str] = (),
) -> None:
    """Warn of everything that makes the maps doubtful.

    Args:
        model: The model that was explained.
        coverage: How its activations were treated.
        finite: Pairs of a rule and a bool tensor ``()``: whether the attributions by it are finite.
        warned: What was warned of already and is not repeated; what is warned of now is added. If
            it is ``None``, the warning filters decide: by default, once per message.
        methods: The rules that are not attached to the graph, which hides nothing from them.
    """
    for doubt in _find_doubts(model, coverage, finite, methods):
        if warned is None or doubt not in warned:
            warn(doubt)
        if warned is not None:
            warned.add(doubt)


def _find_doubts(
    model: nn.Module,
    coverage: Coverage,
    finite: Sequence[tuple[str, Tensor]],
    methods: Collection[str],
) -> Iterator[str]:
    guided = (rule for rule, _ in finite if rule != "gradient" and rule not in methods)
    named = " and ".join(dict.fromkeys(guided))
    if named and coverage.hidden:
        yield (
            f"{coverage.followed} activation(s) follow {named}, but others may be hidden behind "
            f"{_remedies(coverage.hidden)}. The maps may be wrong."
        )
    elif named and not coverage.followed:
        yield (
            f"no rectifier lies between the images and the logits ({coverage}), so the map by "
            f"{named} is the plain gradient."
        )
    broken = dict.fromkeys(rule for rule, all_finite in finite if not bool(all_finite))
    if broken:
        yield (
            f"the map by {' and '.join(broken)} contains NaN or infinite values. Has training "
            "diverged? Check the logits and the learning rate."
        )
    if mixes_images(model):
        yield (
            "a batch norm without running statistics normalises over the batch even in eval mode, "
            "so the map of an image includes its effect on the others. Explain one image at a time."
        )


def check_classes(logits: int, labels: Tensor | None, class_names: Sequence[str]) -> None:
    """Warn if a model's logits do not seem to be those of the classes that a probe knows.

    Args:
        logits: The number of logits of the model.
        labels: ``(N,)`` int64, or ``(N, num_classes)`` if an image may have several.
        class_names: The name of each class, if known.
    """
    several = labels is not None and labels.ndim == 2
    highest = -1 if labels is None else labels.shape[1] - 1 if several else int(labels.max())
    if logits == 1 and not several:
        if highest > 1:
            warn(
                f"the model has one logit, which stands for class 1 against class 0, but the "
                f"labels go up to {highest}. If it is a regression, the maps show what raises its "
                "output, and the probabilities mean nothing. If it is a classifier, pass "
                "`forward=lambda model, images: …` that returns a logit for each class."
            )
    elif class_names and len(class_names) != logits:
        warn(
            f"the model has {logits} logits, but the probe names {len(class_names)} classes. If "
            "the model returns features or an embedding, pass `forward=lambda model, images: …` "
            "that returns one logit per class; if not, name each class in `class_names`."
        )


_noted: WeakSet[nn.Module] = WeakSet()  # the models whose output was commented on


def note_output(model: nn.Module, logits: Tensor, activation: Activation | None) -> None:
    """Say, once per model, if its output is or seems to be something other than logits.

    Args:
        model: The model that was explained.
        logits: ``(N, num_classes)``, what was explained.
        activation: The activation that the output ends in, if the graph shows one.
    """
    if model in _noted:
        return
    name, remedy = type(model).__name__, "`forward=lambda model, images: …` that returns"
    if activation is not None:
        note = (
            f"{name} returns the {activation} of its logits: the maps explain the logits, because "
            "the gradient of a probability vanishes as the model grows sure."
        )
    elif looks_like_probabilities(logits):
        note = (
            f"{name} seems to return probabilities: they add up to 1 for each image. Their "
            f"gradient vanishes as the model grows sure. Pass {remedy} the logits."
        )
    elif looks_like_embeddings(logits):
        note = (
            f"{name} seems to return embeddings: their length is 1 for each image, so that their "
            f"{logits.shape[1]} numbers are not the logits of classes. Pass {remedy} the logits, "
            "or the similarity to embeddings of your choice."
        )
    else:
        return
    _noted.add(model)
    warn(note)


def mixes_images(model: nn.Module) -> bool:
    """Whether a batch norm in ``model`` normalises over the batch even in eval mode."""
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return any(norm.running_mean is None for norm in norms)


def warn(message: str) -> None:
    """Attribute a warning to the caller of :func:`explain`, which is several calls up the stack."""
    warnings.warn(message, SaliencyWarning, stacklevel=5)
