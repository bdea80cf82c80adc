"""The activation that a model's output has been through: a softmax or a sigmoid.

Probabilities are poor to explain: the gradient of a probability near 0 or 1 vanishes, and it mixes
the evidence for a class with that against all others. If the graph shows that the output is a
softmax or a sigmoid, the logits under it are explained, as if the model returned them.

:func:`find_head` walks from the output through operations that only move values about (views,
casts, selections) to the activation. While gradients are computed, hooks make the nodes on this way
pass on what arrives at them, so that a gradient that starts at the output arrives unchanged at the
logits. An activation elsewhere in the network, such as a gate, is never reached by this walk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from lightning_saliency.attribution.nodes import Gradients, name_operation

Activation: TypeAlias = Literal["softmax", "sigmoid"]

# The activation of each node at which the walk ends, and whether it returns the logarithm.
_ENDS: dict[str, tuple[Activation, bool]] = {
    "Softmax": ("softmax", False),
    "LogSoftmax": ("softmax", True),
    "Sigmoid": ("sigmoid", False),
    "LogSigmoid": ("sigmoid", True),
}
# Operations that move values about without changing them. Their gradient leads each value of the
# output back to where it came from.
_MOVES = frozenset(
    {"View", "UnsafeView", "ReshapeAlias", "AsStrided", "Alias", "Squeeze", "Unsqueeze", "Expand"}
    | {"T", "Transpose", "Permute", "Select", "Slice", "Narrow", "Split", "SplitWithSizes"}
    | {"Unbind", "Index", "IndexSelect", "Gather", "Clone", "ToCopy", "CopyBackwards"}
    | {"BackwardHookFunction"}  # a full backward hook of a module
)
# Elementwise guards, whose own gradient is 1 or, at a limit, 0. Under a logarithm, an addition is
# one too: `(probabilities + 1e-8).log()`.
_GUARDS = frozenset({"Clamp", "ClampMin", "ClampMax", "NanToNum"})


@dataclass(frozen=True, slots=True)
class Head:
    """A softmax or sigmoid at the end of a model.

    Attributes:
        activation: Which of the two.
        logarithm: Whether the output is the logarithm of probabilities.
        one_of_several: Whether the output is the probability of one class out of several, such as
            ``softmax(…)[:, 1]``. Its logit is that of the class against all others.
        passed: The nodes whose gradient is replaced by what arrives at them.
        end: The node of the activation.
    """

    activation: Activation
    logarithm: bool
    one_of_several: bool
    passed: tuple[Any, ...]
    end: Any

    def logits(self, output: Tensor) -> Tensor:
        """Compute the logits from the output of the model.

        Args:
            output: ``(N, num_classes)``, detached.

        Returns:
            ``(N, num_classes)``. The logits under a softmax are known up to a number that is added
            to all logits of an image; they are its logarithm. All are finite: where the precision
            of the output ends, so do the logits.
        """
        limits = torch.finfo(output.dtype)
        log = output.double()
        if not self.logarithm:
            log = log.clamp(limits.tiny, 1).log()
        if self.activation == "softmax" and not self.one_of_several:
            return log.to(output.dtype)
        # A probability near 1 differs from it by no less than its precision; a logarithm may be
        # much nearer to 0.
        least = limits.tiny if self.logarithm else limits.eps / 4
        return (log - (-log.expm1()).clamp(min=least).log()).to(output.dtype)

    def attach(self) -> Iterator[RemovableHandle]:
        """Hook the nodes so that gradients pass them unchanged; yield one handle per hook."""
        for node in self.passed:
            yield node.register_hook(_pass_on)
        hook = self._pass_log_odds if self.one_of_several else _pass_on
        yield self.end.register_hook(hook)

    def _pass_log_odds(self, inputs: Gradients, outputs: Gradients) -> Gradients:
        """Replace the gradient of one probability of a softmax by that of its log-odds.

        The log-odds of class j are its logit less the log-sum-exp of the others, so the gradient is
        1 at j and minus the softmax among the others elsewhere.
        """
        seed, first = outputs[0], inputs[0]
        if seed is None or first is None:
            return inputs
        result, axis = self.end._saved_result, _axis(self.end)
        chances = result.exp() if self.end.name().startswith("Log") else result
        # Where the class is certain, all others have underflowed and count alike.
        others = chances.clamp(min=torch.finfo(chances.dtype).tiny) * (seed == 0)
        share = others / others.sum(axis, keepdim=True)
        return ((seed - share * seed.sum(axis, keepdim=True)).to(first.dtype), *inputs[1:])


def _pass_on(inputs: Gradients, outputs: Gradients) -> Gradients:
    """Discard what the node computed, and pass on what arrived."""
    # The argument of an addition that is no constant may be its second.
    return tuple(
        None if new is None or old is None else old.to(new.dtype)
        for new, old in zip(inputs, (outputs[0],) * len(inputs), strict=True)
    )


def find_head(output: Tensor) -> Head | None:
    """Find the softmax or sigmoid at the end of a model; ``None`` if there is none.

    Args:
        output: ``(N, num_classes)``, in the graph of the forward pass.
    """
    passed: list[Any] = []
    logarithms = 0
    node, number = output.grad_fn, output.output_nr
    while node is not None:
        operation = name_operation(node)
        if operation in _ENDS:
            return _build_head(output, node, passed, logarithms)
        if operation in ("Log", "Exp"):
            logarithms += 1 if operation == "Log" else -1
            passed.append(node)
        elif operation in _GUARDS or (operation == "Add" and logarithms == 1):
            passed.append(node)
        elif operation not in _MOVES:
            return None
        step = _step_back(node, number)
        if step is None:
            return None
        node, number = step
    return None


def _step_back(node: Any, number: int) -> tuple[Any, int] | None:
    """The node that computed the argument of ``node``; ``None`` if several did."""
    if name_operation(node) == "BackwardHookFunction":  # Its outputs are its inputs, in order.
        return node.next_functions[number] if number < len(node.next_functions) else None
    before = [edge for edge in node.next_functions if edge[0] is not None]
    return before[0] if len(before) == 1 else None


def _build_head(output: Tensor, end: Any, passed: list[Any], logarithms: int) -> Head | None:
    activation, logarithm = _ENDS[name_operation(end)]
    logarithms += logarithm
    if logarithms not in (0, 1):
        return None  # the logarithm of a logarithm, or the exponential of a probability
    logarithm = logarithms == 1
    several = False
    if activation == "softmax":
        if output.shape[1] == 1:
            several = end._saved_result.shape[_axis(end)] > 1
            if not several:
                return None  # The softmax of a single logit is 1, whatever the logit.
        elif not _runs_over_classes(output.detach(), end, logarithm=logarithm):
            return None
    return Head(activation, logarithm, several, tuple(passed), end)


def _runs_over_classes(output: Tensor, end: Any, *, logarithm: bool) -> bool:
    """Whether a softmax runs over the classes, and not over the images or positions."""
    sums = (output.double().exp() if logarithm else output.double()).sum(dim=1)
    # A selection of the classes does not add up to 1, but there the axis is the usual one.
    return bool(((sums - 1).abs() < 0.02).all()) or _axis(end) in (1, -1)


def _axis(end: Any) -> int:
    """The axis of a softmax; torch shows a negative one as a huge number."""
    axis = int(end._saved_dim)
    return axis - 2**64 if axis >= 2**63 else axis


def is_multi_label(activation: Activation | None, logits: Tensor, labelled: bool) -> bool:
    """Return whether each logit has a probability of its own.

    Args:
        activation: The activation that the output of the model ends in.
        logits: ``(N, num_classes)``. A single logit tells nothing about the labels.
        labelled: Whether the labels say so, which counts if the output shows nothing.
    """
    if activation is None or logits.shape[1] == 1:
        return labelled
    return activation == "sigmoid"


def looks_like_probabilities(logits: Tensor) -> bool:
    """Whether the rows of an output lie in [0, 1] and add up to 1, which logits do not do.

    Args:
        logits: ``(N, num_classes)``. One image or one class alone is no evidence.
    """
    if min(logits.shape) < 2 or not bool(((logits >= 0) & (logits <= 1)).all()):
        return False
    tolerance = 8 * torch.finfo(logits.dtype).eps
    return bool(((logits.double().sum(dim=1) - 1).abs() < tolerance).all())


def looks_like_embeddings(logits: Tensor) -> bool:
    """Whether the rows of an output all have length 1, as those of an embedding do.

    Args:
        logits: ``(N, num_classes)``. One image or few classes are no evidence.
    """
    if len(logits) < 2 or logits.shape[1] < 3:
        return False
    tolerance = 8 * torch.finfo(logits.dtype).eps
    return bool(((logits.double().norm(dim=1) - 1).abs() < tolerance).all())
