"""Gradient rules: what an activation does to the gradient that flows back through it.

With f an activation, f' its derivative and R the gradient that arrives at its output, a rule
passes on

- ``gradient``: f'(x)·R, the plain gradient;
- ``deconvnet``: max(R, 0) (Zeiler & Fergus 2013, https://arxiv.org/abs/1311.2901);
- ``guided_backprop``: max(f'(x), 0)·max(R, 0), which for a ReLU is the mask of the paper,
  1[f>0]·1[R>0]·R (Springenberg et al. 2014, https://arxiv.org/abs/1412.6806).

The paper defines guided backprop for the ReLU only. Applying it to other rectifiers is our
extension, and :class:`Coverage` counts those separately. Gates (sigmoid, tanh, softmax) keep their
own gradient.

**Why the graph and not the modules.** Hooks on modules see only activations that are modules: they
miss ``F.relu(x)`` and ``x.relu_()``, and they cannot tell the uses of a shared module apart. If the
input of a ReLU also feeds a skip connection, they clamp the gradient of that path as well. In the
autograd graph of one forward pass, each application of an activation is a node of its own, whatever
it was called through. A rule is a pair of hooks on that node:

1. The forward pass builds the graph.
2. :class:`Graph` walks it and collects the nodes that lie between the logits and the images. It
   recognises rectifiers by the name of their node and by the constants that the node has saved.
3. :meth:`Graph.following` attaches the hooks of one rule, lets backward passes run, and removes
   the hooks. One graph therefore serves several rules in turn.

The live module is never changed, and the hooks disappear with the graph at the latest.

A graph shows operations, not intentions. A rectifier spelled as ``x * (x > 0)``,
``torch.maximum(x, zero)``, ``torch.where(x > 0, x, 0)`` or a clamp to a tensor minimum cannot be
distinguished from arithmetic. ``docs/rules.md`` lists the derivative of each rectifier and explains
how to :func:`declare` one of your own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_saliency.attribution.heads import Head
from lightning_saliency.attribution.nodes import Gradients, name_node, name_operation

Rule: TypeAlias = Literal["gradient", "guided_backprop", "deconvnet"]
RULES: tuple[Rule, ...] = ("gradient", "guided_backprop", "deconvnet")

# The sign of a rectifier's derivative, which decides how many clamps guided backprop needs.
# "increasing" means that it is never negative, so that one clamp is enough. "activation" means that
# it may have either sign, which takes two clamps. See `_Rectifier.attach`.
Kind: TypeAlias = Literal["activation", "increasing"]


def _increasing(condition: bool) -> Kind:
    return "increasing" if condition else "activation"


# Every rectifier that torch has a node for, by the node's name without "Backward" and its number:
# in-place variants and overloads differ in the number only. To add one, write it here. The function
# reads the constants that the node has saved and returns the kind, or None if the node, with these
# constants, is not a rectifier.
_RECTIFIERS: dict[str, Callable[[Any], Kind | None]] = {
    "Relu": lambda _: "increasing",
    "Threshold": lambda _: "increasing",
    "Hardtanh": lambda node: "increasing" if node._saved_min_val == 0 else None,  # ReLU6 too
    # Only a minimum of 0 without a maximum rectifies. `F.normalize` clamps to an epsilon and
    # `clamp(0, 1)` bounds an image, and both must keep their gradient. The node's number selects
    # the overload that clamps to numbers: the others save tensors, and reading a saved tensor
    # inside a checkpoint would trigger a recomputation.
    "Clamp": lambda node: (
        "increasing"
        if node.name() == "ClampBackward1" and node._saved_min == 0 and node._saved_max is None
        else None
    ),
    "ClampMin": lambda node: (
        "increasing" if node.name() == "ClampMinBackward0" and node._saved_min == 0 else None
    ),
    "LeakyRelu": lambda node: _increasing(node._saved_negative_slope >= 0),
    "PreluKernel": lambda _: "activation",  # The learned slope may be negative.
    "RreluWithNoise": lambda node: _increasing(node._saved_lower + node._saved_upper >= 0),
    "Elu": lambda node: _increasing(node._saved_alpha >= 0),
    "Celu": lambda _: "increasing",
    "Softplus": lambda _: "increasing",
    "Gelu": lambda _: "activation",
    "Silu": lambda _: "activation",
    "Hardswish": lambda _: "activation",
    "Mish": lambda _: "activation",
}
_PAPER = "Relu"  # the only activation for which the papers define their rules


# Nonlinearities that are not rectifiers. They keep their own gradient, and are counted so that
# `coverage` accounts for every nonlinearity. A Hardtanh or a clamp ends up here if `_RECTIFIERS`
# found that it does not rectify.
_GATES = frozenset(
    {"Sigmoid", "Tanh", "Softmax", "LogSoftmax", "Hardsigmoid", "LogSigmoid", "Glu"}
    | {"Hardtanh", "Clamp", "ClampMin", "ClampMax", "Hardshrink", "Softshrink"}
)


# Custom functions and C++ nodes that are known to contain no activation.
_TRANSPARENT = frozenset(
    {
        "AccumulateGrad",
        "CopyBackwards",
        "BackwardHookFunctionBackward",  # a module's full backward hook
        "RegisterPostBackwardFunctionBackward",  # FSDP2
    }
)
_GENERATED = "GeneratedBackwardFor_"  # before the name of an operator of `torch.library`
_TRANSPARENT_PREFIXES = (_GENERATED + "torchvision_",)  # deform_conv2d, roi_align, …

_CUDNN_RNN_RELU = 0  # cuDNN's `mode` for a recurrent layer whose nonlinearity is a ReLU

# Keyed by the autograd.Function subclass; by its name for an operator of `torch.library`, for which
# torch makes such a class.
_declared: dict[type | str, Kind | Literal["linear"]] = {}


def declare(
    function: type[torch.autograd.Function] | CustomOpDef | OpOverload | OpOverloadPacket,
    kind: Kind | Literal["linear"],
) -> None:
    """Declare what a custom function computes, so that rules can treat it correctly.

    The declaration holds for the rest of the process.

    Args:
        function: A subclass of ``torch.autograd.Function``, whose ``apply`` is called; or an
            operator, such as ``torch.library.custom_op`` returns or ``torch.ops.mylib.swish``. An
            activation must be elementwise and take its input as the first argument of ``forward``.
        kind: ``"activation"`` for a rectifier (ReLU, Swish, …); ``"increasing"`` for a rectifier
            whose derivative is never negative, which is slightly cheaper; ``"linear"`` for a
            function that contains no activation and keeps its own gradient.

    Raises:
        TypeError: ``function`` is neither such a class nor such an operator.
        ValueError: ``kind`` is not one of the three.

    Example:
        >>> class Swish(torch.autograd.Function): ...
        >>> declare(Swish, "activation")
    """
    key = _name_operator(function)
    if isinstance(function, type) and issubclass(function, torch.autograd.Function):
        key = function
    if key is None:
        raise TypeError(
            "`function` must be a subclass of torch.autograd.Function or an operator of "
            f"torch.library, got {function!r}. Pass the class itself, not its `apply`."
        )
    kinds = ("activation", "increasing", "linear")
    if kind not in kinds:
        raise ValueError(f"`kind` must be one of {', '.join(kinds)}, got {kind!r}.")
    _declared[key] = kind


def _name_operator(function: Any) -> type | str | None:
    """The name of the class that torch makes for the gradient of an operator, if it is one."""
    if isinstance(function, CustomOpDef):
        function = function._opoverload
    if isinstance(function, OpOverloadPacket):
        function = function.default
    if not isinstance(function, OpOverload):
        return None
    return f"{_GENERATED}{function.namespace}_{function._opname}_{function._overloadname}"


@dataclass(frozen=True, slots=True)
class Coverage:
    """How the activations between the logits and the images were treated.

    Each attribute maps the name of an operation to the number of its nodes.

    Attributes:
        guided: Activations that followed the rule as the papers define it (ReLU).
        extended: Other rectifiers, which followed the extension of the rule.
        left_alone: Nonlinearities that kept their own gradient: gates, softmax, and clamps that do
            not rectify.
        hidden: Operations that may contain activations which the graph does not show.
    """

    guided: Mapping[str, int] = field(default_factory=dict)
    extended: Mapping[str, int] = field(default_factory=dict)
    left_alone: Mapping[str, int] = field(default_factory=dict)
    hidden: Mapping[str, int] = field(default_factory=dict)

    @property
    def followed(self) -> int:
        """Number of activations that followed the rule."""
        return sum(self.guided.values()) + sum(self.extended.values())

    def __str__(self) -> str:
        groups = {
            "guided": self.guided,
            "guided by the extended rule": self.extended,
            "left alone": self.left_alone,
            "hidden": self.hidden,
        }
        parts = [
            f"{title}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items())
            for title, kinds in groups.items()
            if kinds
        ]
        return "; ".join(parts) or "no activations"


class Graph:
    """The activations between ``images`` and ``logits`` in the graph of one forward pass.

    Building it attaches nothing; see :meth:`following`. It holds references to nodes, and so keeps
    the graph alive.

    Args:
        logits: ``(N, num_classes)``, what the model returned.
        images: ``(N, C, H, W)``, a leaf.
        head: The softmax or sigmoid at the end of the model. Its nodes are passed unchanged by
            every rule, and are not counted.

    Attributes:
        connected: Whether the logits depend on the images at all.
        without_gradient: Whether an operation lies between them that has no gradient, such as a
            layer with quantised weights.
        any_layout: Whether no operation can depend on the order of activations in memory. A custom
            one may read raw memory, and ``as_strided`` does so.
        coverage: How the rules treat each activation.
    """

    def __init__(self, logits: Tensor, images: Tensor, head: Head | None = None) -> None:
        nodes = _nodes_between(logits, images)
        self.connected = bool(nodes)
        self.without_gradient = any("NotImplemented" in node.name() for node in nodes)
        self.any_layout = not any(_reads_memory(node) for node in nodes)
        self._head = head
        skipped = set() if head is None else {head.end, *head.passed}
        self._rectifiers: list[_Rectifier] = []
        counts: dict[str, Counter[str]] = {f: Counter() for f in Coverage.__dataclass_fields__}
        for node in nodes:
            group = None if node in skipped else self._admit(node)
            if group:
                counts[group][name_operation(node)] += 1
        self.coverage = Coverage(**counts)

    def _admit(self, node: Any) -> str | None:
        """Keep ``node`` if it is a rectifier.

        Returns:
            The attribute of :class:`Coverage` that counts the node, or ``None`` if the node holds
            no activation.
        """
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return self._admit_custom(node)
        operation = name_operation(node)
        if operation in _RECTIFIERS and (kind := _RECTIFIERS[operation](node)) is not None:
            self._rectifiers.append(_Rectifier(node, kind, in_place=True))
            return "guided" if operation == _PAPER else "extended"
        if operation in _GATES:
            return "left_alone"
        return "hidden" if _is_opaque(node) else None

    def _admit_custom(self, node: Any) -> str | None:
        function = getattr(type(node), "_forward_cls", type(None))
        name = function.__name__
        kind = _declared.get(name if name.startswith(_GENERATED) else function)
        if kind is None:
            return None if _is_transparent(name_node(node)) else "hidden"
        if kind == "linear":
            return None
        # A backward written by a user may return the very tensor that it received, so what it
        # returns must not be written to.
        self._rectifiers.append(_Rectifier(node, kind, in_place=False))
        return "extended"

    @contextmanager
    def following(self, rule: Rule) -> Iterator[None]:
        """Make backward passes through this graph follow ``rule`` within the ``with`` block.

        The hooks are removed at its end, also after an error, so that a later pass through the same
        graph, or a plain ``backward`` of the user's, is not affected.
        """
        handles: list[RemovableHandle] = []
        try:
            if self._head is not None:
                handles.extend(self._head.attach())
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
    in_place: bool  # whether the gradient that the node returns may be overwritten

    def attach(self, rule: Rule) -> Iterator[RemovableHandle]:
        """Hook ``rule`` onto the node; yield one handle per hook, which removes it.

        Autograd computes f'·R, and guided backprop wants max(f', 0)·max(R, 0). A prehook sees R
        before the node runs, a hook sees f'·R after it. Clamping R first makes the sign of the
        product that of f', so that clamping the product removes just the negative derivatives. If
        f' is never negative, the product has the sign of R, and the second clamp is enough.
        """
        if rule == "deconvnet":
            yield self.node.register_hook(_pass_positive)
        elif rule == "guided_backprop":
            if self.kind == "activation":
                yield self.node.register_prehook(_clamp_incoming)
            clamp = _clamp_outgoing_in_place if self.in_place else _clamp_outgoing
            yield self.node.register_hook(clamp)


# The hooks below follow autograd's naming, in which "inputs" and "outputs" are those of the forward
# pass: `outputs` holds the gradients that arrive at a node, `inputs` those that it passes on. The
# first of `inputs` belongs to the activation's argument. The others (a PReLU's weight) are kept.
#
# Only `_clamp_outgoing_in_place` may write in place, which saves one allocation of the size of a
# feature map per activation. It is safe because the gradient that a built-in activation returns is
# freshly allocated, and nobody else holds it yet. An arriving gradient may be shared: if branches
# meet in a sum, each of them receives the same tensor, and writing to it would change the gradient
# of the other branches.


def _clamp_incoming(outputs: Gradients) -> Gradients:
    """Replace R by max(R, 0) before the node runs."""
    return tuple(None if g is None else g.clamp(min=0) for g in outputs)


def _clamp_outgoing(inputs: Gradients, _: Gradients) -> Gradients:
    """Replace the product f'·R, which the node returned, by its positive part."""
    first = inputs[0]
    return (None if first is None else first.clamp(min=0), *inputs[1:])


def _clamp_outgoing_in_place(inputs: Gradients, _: Gradients) -> None:
    """Do as :func:`_clamp_outgoing` does, without allocating; built-in activations only."""
    if inputs[0] is not None:
        inputs[0].clamp_(min=0)


def _pass_positive(inputs: Gradients, outputs: Gradients) -> Gradients:
    """Discard what the node computed and pass on max(R, 0), whatever f' is."""
    incoming = outputs[0]
    return (None if incoming is None else incoming.clamp(min=0), *inputs[1:])


def _nodes_between(logits: Tensor, images: Tensor) -> list[Node]:
    """Find the nodes through which a gradient of ``logits`` reaches the leaf ``images``.

    A node qualifies if it can be reached both from the logits and, against the direction of the
    gradient, from the images. Branches that end in parameters only do not, so that an activation of
    a weight is neither counted nor changed.

    Returns:
        The nodes in no particular order; none if the logits do not depend on the images.
    """
    if logits.grad_fn is None:
        return []
    # Walk from the logits to the leaves. Nodes know only where their gradient goes, so remember
    # where it came from, for the way back.
    users: dict[Node, list[Node]] = {logits.grad_fn: []}
    pending, leaf = [logits.grad_fn], None
    while pending:
        node = pending.pop()
        if getattr(node, "variable", None) is images:  # Only nodes of leaves have a variable.
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
    """Collect ``start`` and every node that can be reached from it along ``edges``."""
    seen, pending = {start}, [start]
    while pending:
        for node in edges[pending.pop()]:
            if node not in seen:
                seen.add(node)
                pending.append(node)
    return list(seen)


def _is_transparent(name: str) -> bool:
    return name in _TRANSPARENT or name.startswith(_TRANSPARENT_PREFIXES)


def _reads_memory(node: Any) -> bool:
    """Whether the result of an operation may depend on where the elements of its input lie."""
    name = name_node(node)
    if name_operation(node) == "AsStrided":
        # Torch's own pooling to a single position does so too, to name the layout of the result.
        return list(node._saved_size[2:]) != [1, 1] or node._saved_stride[1] != 1
    return isinstance(node, torch.autograd.function.BackwardCFunction) or "::" in name


def _is_opaque(node: Any) -> bool:
    """Whether a built-in node may contain activations: it is fused, or a C++ function."""
    name = name_node(node)
    if name == "CopySlices":
        # This is an in-place operation on a view. The graph does not show which operation it was,
        # but it does show how many operands it had: an activation has one, while arithmetic and
        # copying another tensor into the view have two.
        return len(node.next_functions) == 1
    if name.startswith("CudnnRnn"):
        return bool(getattr(node, "_saved_mode", None) == _CUDNN_RNN_RELU)
    # A namespace marks C++ code that autograd did not generate, such as TorchScript's fused graphs.
    return "::" in name and not _is_transparent(name)
