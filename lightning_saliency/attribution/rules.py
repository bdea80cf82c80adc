"""Gradient rules: how a gradient passes an activation on its way back to the images.

The rules are attached to the nodes of an autograd graph, not to modules: a functional, an in-place
or a reused activation is a node of its own there, and the live module is never touched.

With f the activation, f' its derivative and R the gradient at its output, a rule passes on

- ``gradient``: f'(x)·R, the plain gradient;
- ``deconvnet``: max(R, 0) (Zeiler & Fergus 2013, https://arxiv.org/abs/1311.2901);
- ``guided_backprop``: max(f'(x), 0)·max(R, 0), which for a ReLU is the mask of the paper,
  1[f>0]·1[R>0]·R (Springenberg et al. 2014, https://arxiv.org/abs/1412.6806).

The paper defines guided backprop for the ReLU alone; for the other rectifiers this is an extension,
and :class:`Coverage` counts them apart. Gates (sigmoid, tanh, softmax) keep their own gradient.

A graph shows operations, so an activation spelled as ``x * (x > 0)``, ``torch.maximum(x, zero)``,
``torch.where(x > 0, x, 0)`` or a clamp to a tensor minimum cannot be told from arithmetic.
``docs/rules.md`` has the derivative of each rectifier, and how to :func:`declare` one of your own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

Rule: TypeAlias = Literal["gradient", "guided_backprop", "deconvnet"]
RULES: tuple[Rule, ...] = ("gradient", "guided_backprop", "deconvnet")

Gradients: TypeAlias = tuple[Tensor | None, ...]


# How a rectifier treats gradients: "increasing", its derivative is nowhere negative, so that one
# clamp behind it is the whole rule; "activation", the derivative has both signs. A node that the
# test answers with None does not rectify.
Kind: TypeAlias = Literal["activation", "increasing"]


def _increasing(condition: bool) -> Kind:
    return "increasing" if condition else "activation"


# By the name of the node, less its number: in-place variants differ in that alone.
_RECTIFIERS: dict[str, Callable[[Any], Kind | None]] = {
    "Relu": lambda _: "increasing",
    "Threshold": lambda _: "increasing",
    "Hardtanh": lambda node: "increasing" if node._saved_min_val == 0 else None,  # ReLU6
    # `F.normalize` clamps to an epsilon and `clamp(0, 1)` bounds an image: neither rectifies.
    # The other overloads clamp to tensors: reading those could set off a recomputation.
    "Clamp": lambda node: (
        "increasing"
        if node.name() == "ClampBackward1" and node._saved_min == 0 and node._saved_max is None
        else None
    ),
    "ClampMin": lambda node: (
        "increasing" if node.name() == "ClampMinBackward0" and node._saved_min == 0 else None
    ),
    "LeakyRelu": lambda node: _increasing(node._saved_negative_slope >= 0),
    "PreluKernel": lambda _: "activation",  # its slope is learned, and may be negative
    "RreluWithNoise": lambda node: _increasing(node._saved_lower + node._saved_upper >= 0),
    "Elu": lambda node: _increasing(node._saved_alpha >= 0),
    "Celu": lambda _: "increasing",
    "Softplus": lambda _: "increasing",
    "Gelu": lambda _: "activation",
    "Silu": lambda _: "activation",
    "Hardswish": lambda _: "activation",
    "Mish": lambda _: "activation",
}
_PAPER = "Relu"  # the one activation that the papers define their rules for


# Activations that are no rectifiers; counted, so that a report accounts for every nonlinearity.
_GATES = frozenset(
    {"Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Hardsigmoid", "LogSigmoid", "Glu"}
    | {"Hardtanh", "Clamp", "ClampMin", "ClampMax", "Hardshrink", "Softshrink"}
)


# Nodes of custom functions and of C++ that are known to hold no activation.
_TRANSPARENT = frozenset(
    {
        "AccumulateGrad",
        "CopyBackwards",
        "BackwardHookFunctionBackward",  # a module's full backward hook
        "RegisterPostBackwardFunctionBackward",  # FSDP2
    }
)
_TRANSPARENT_PREFIXES = ("GeneratedBackwardFor_torchvision_",)  # deform_conv2d, roi_align, …

_CUDNN_RNN_RELU = 0  # the `mode` of a recurrent layer whose nonlinearity is a ReLU

_declared: dict[type, Kind | Literal["linear"]] = {}  # by autograd.Function


def declare(function: type[torch.autograd.Function], kind: Kind | Literal["linear"]) -> None:
    """Say what a custom ``autograd.Function`` is, so that rules can be attached to its node.

    Args:
        function: The class on which ``apply`` is called. An activation is elementwise, and its
            input is the first argument of ``forward``.
        kind: ``"activation"`` for a rectifier (ReLU, Swish, …); ``"increasing"`` for one whose
            derivative is nowhere negative, which is a little cheaper; ``"linear"`` for anything
            that holds no activation, and keeps its own gradient.

    Raises:
        TypeError: ``function`` is not a subclass of ``torch.autograd.Function``.
        ValueError: ``kind`` is none of the three.

    Example:
        >>> class Swish(torch.autograd.Function): ...
        >>> declare(Swish, "activation")
    """
    if not (isinstance(function, type) and issubclass(function, torch.autograd.Function)):
        raise TypeError(
            f"`function` must be a subclass of torch.autograd.Function, got {function!r}. "
            "Pass the class itself, not its `apply`."
        )
    kinds = ("activation", "increasing", "linear")
    if kind not in kinds:
        raise ValueError(f"`kind` must be one of {', '.join(kinds)}, got {kind!r}.")
    _declared[function] = kind


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the activations between the logits and the images were treated, counted by kind.

    Attributes:
        guided: Followed the rule that the papers define (ReLU).
        extended: Followed its extension to other rectifiers.
        left_alone: Kept their own gradient: gates, softmax, clamps that do not rectify.
        hidden: Operations that may hold activations which the graph does not show.
    """

    guided: Mapping[str, int] = field(default_factory=dict)
    extended: Mapping[str, int] = field(default_factory=dict)
    left_alone: Mapping[str, int] = field(default_factory=dict)
    hidden: Mapping[str, int] = field(default_factory=dict)

    @property
    def followed(self) -> int:
        """Number of activations that follow the rule."""
        return sum(self.guided.values()) + sum(self.extended.values())

    def __str__(self) -> str:
        groups = {
            "guided": self.guided,
            "guided by the extended rule": self.extended,
            "left alone": self.left_alone,
            "hidden": self.hidden,
        }
        told = [
            f"{title}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            for title, kinds in groups.items()
            if kinds
        ]
        return "; ".join(told) or "no activations"


class Graph:
    """The activations on the way from ``logits`` back to ``images``.

    Attributes:
        connected: Whether the logits depend on the images at all.
        coverage: What the rules will do with each activation.
    """

    def __init__(self, logits: Tensor, images: Tensor) -> None:
        nodes = _nodes_between(logits, images)
        self.connected = bool(nodes)
        self._rectifiers: list[_Rectifier] = []
        counts: dict[str, Counter[str]] = {f: Counter() for f in Coverage.__dataclass_fields__}
        for node in nodes:
            group = self._admit(node)
            if group:
                counts[group][_operation(node)] += 1
        self.coverage = Coverage(**counts)

    def _admit(self, node: Any) -> str | None:
        """Keep ``node`` if it rectifies; return the group that it is counted in."""
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return self._admit_custom(node)
        operation = _operation(node)
        if operation in _RECTIFIERS and (kind := _RECTIFIERS[operation](node)) is not None:
            self._rectifiers.append(_Rectifier(node, kind, in_place=True))
            return "guided" if operation == _PAPER else "extended"
        if operation in _GATES:
            return "left_alone"
        return "hidden" if _is_opaque(node) else None

    def _admit_custom(self, node: Any) -> str | None:
        kind = _declared.get(getattr(type(node), "_forward_cls", type(None)))
        if kind is None:
            return None if _is_transparent(_name(node)) else "hidden"
        if kind == "linear":
            return None
        # A backward written by a user may return its argument itself: never in place there.
        self._rectifiers.append(_Rectifier(node, kind, in_place=False))
        return "extended"

    @contextmanager
    def following(self, rule: Rule) -> Iterator[None]:
        """Make backward passes through this graph follow ``rule`` inside the ``with`` block."""
        handles: list[RemovableHandle] = []
        try:
            for rectifier in self._rectifiers:
                handles.extend(rectifier.attach(rule))
            yield
        finally:
            for handle in handles:
                handle.remove()


@dataclass(frozen=True, slots=True)
class _Rectifier:
    node: Node
    kind: Kind
    in_place: bool  # whether the gradient that its backward returns is its own to write to

    def attach(self, rule: Rule) -> Iterator[RemovableHandle]:
        if rule == "deconvnet":
            yield self.node.register_hook(_pass_positive)
        elif rule == "guided_backprop":
            if self.kind == "activation":
                yield self.node.register_prehook(_clamp_incoming)
            clamp = _clamp_outgoing_in_place if self.in_place else _clamp_outgoing
            yield self.node.register_hook(clamp)


# max(f', 0)·max(R, 0) from what autograd computes, f'·R: with R >= 0 going in, the sign of what
# comes out is the sign of f'. Where f' >= 0, clamping what comes out is enough. Only that one may
# write in place: what goes into a node may be shared with other branches, what a built-in
# activation's backward returns is its own.


def _clamp_incoming(outputs: Gradients) -> Gradients:
    return tuple(None if g is None else g.clamp(min=0) for g in outputs)


def _clamp_outgoing(inputs: Gradients, _: Gradients) -> Gradients:
    first = inputs[0]
    return (None if first is None else first.clamp(min=0), *inputs[1:])


def _clamp_outgoing_in_place(inputs: Gradients, _: Gradients) -> None:
    if inputs[0] is not None:
        inputs[0].clamp_(min=0)


def _pass_positive(inputs: Gradients, outputs: Gradients) -> Gradients:
    incoming = outputs[0]
    return (None if incoming is None else incoming.clamp(min=0), *inputs[1:])


def _nodes_between(logits: Tensor, images: Tensor) -> list[Node]:
    """The graph's nodes from which a gradient of ``logits`` reaches the leaf ``images``."""
    if logits.grad_fn is None:
        return []
    users: dict[Node, list[Node]] = {logits.grad_fn: []}
    pending, leaf = [logits.grad_fn], None
    while pending:
        node = pending.pop()
        if getattr(node, "variable", None) is images:
            leaf = node
        for child, _ in node.next_functions:
            if child is None:
                continue
            if child not in users:
                users[child] = []
                pending.append(child)
            users[child].append(node)
    return [] if leaf is None else _reachable(leaf, users)


def _reachable(start: Node, edges: Mapping[Node, list[Node]]) -> list[Node]:
    seen, pending = {start}, [start]
    while pending:
        for node in edges[pending.pop()]:
            if node not in seen:
                seen.add(node)
                pending.append(node)
    return list(seen)


def _name(node: Node) -> str:
    """The name of a node; torch's own of C++ stand in a namespace, in some versions and not all."""
    return node.name().removeprefix("torch::autograd::")


def _operation(node: Node) -> str:
    """``"Relu"`` of ``"ReluBackward0"``; the whole name where it is not of that form."""
    name = _name(node)
    return name.rstrip("0123456789").removesuffix("Backward") or name


def _is_transparent(name: str) -> bool:
    return name in _TRANSPARENT or name.startswith(_TRANSPARENT_PREFIXES)


def _is_opaque(node: Any) -> bool:
    """Whether a built-in node may hold activations: an operation fused or written in C++."""
    name = _name(node)
    if name == "CopySlices":
        # An in-place operation on a view. What was written is not shown, but how many tensors it
        # was made of is: an activation has one, a copy of another tensor into the view has two.
        return len(node.next_functions) == 1
    if name.startswith("CudnnRnn"):
        return bool(getattr(node, "_saved_mode", None) == _CUDNN_RNN_RELU)
    return "::" in name and not _is_transparent(name)
