"""Which nodes of an autograd graph are activations, and of which kind.

A graph shows operations, not intentions. A rectifier spelled as ``x * (x > 0)``,
``torch.maximum(x, zero)``, ``torch.where(x > 0, x, 0)`` or a clamp to a tensor minimum cannot be
distinguished from arithmetic. ``docs/rules.md`` explains how to :func:`declare` one of your own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import torch
from torch._library.custom_ops import CustomOpDef
from torch._ops import OpOverload, OpOverloadPacket

from lightning_saliency.attribution.nodes import name_node, name_operation
from lightning_saliency.attribution.rules import Kind, Rectifier

Group: TypeAlias = Literal["guided", "extended", "left_alone", "hidden"]


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


def recognise(node: Any) -> tuple[Group | None, Rectifier | None]:
    """Recognise the activation at a node.

    Returns:
        The attribute of :class:`~lightning_saliency.attribution.graph.Coverage` that counts the
        node, or ``None`` if it holds no activation; and the rectifier, if it is one.
    """
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return _recognise_custom(node)
    operation = name_operation(node)
    if operation in _RECTIFIERS and (kind := _RECTIFIERS[operation](node)) is not None:
        return "guided" if operation == _PAPER else "extended", Rectifier(node, kind, in_place=True)
    if operation in _GATES:
        return "left_alone", None
    return "hidden" if _is_opaque(node) else None, None


def _recognise_custom(node: Any) -> tuple[Group | None, Rectifier | None]:
    function = getattr(type(node), "_forward_cls", type(None))
    name = function.__name__
    kind = _declared.get(name if name.startswith(_GENERATED) else function)
    if kind is None:
        return None if _is_transparent(name_node(node)) else "hidden", None
    if kind == "linear":
        return None, None
    # A backward written by a user may return the very tensor that it received, so what it returns
    # must not be written to.
    return "extended", Rectifier(node, kind, in_place=False)


def _is_transparent(name: str) -> bool:
    return name in _TRANSPARENT or name.startswith(_TRANSPARENT_PREFIXES)


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
