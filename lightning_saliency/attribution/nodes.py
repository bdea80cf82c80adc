"""Reading the nodes of an autograd graph."""

from __future__ import annotations

from typing import Any, TypeAlias

from torch import Tensor

Gradients: TypeAlias = tuple[Tensor | None, ...]


def name_node(node: Any) -> str:
    """Name a node, without the namespace that some versions of torch give its own C++ nodes."""
    return str(node.name()).removeprefix("torch::autograd::")


def name_operation(node: Any) -> str:
    """Turn ``"ReluBackward0"`` into ``"Relu"``; keep a name that does not have this form."""
    name = name_node(node)
    return name.rstrip("0123456789").removesuffix("Backward") or name


def depends_on(result: Tensor, argument: Tensor) -> bool:
    """Return whether the graph shows that ``result`` was computed from ``argument``."""
    wanted = argument.grad_fn
    if wanted is None or result.grad_fn is None or wanted is result.grad_fn:
        return False
    seen, pending = {result.grad_fn}, [result.grad_fn]
    while pending:
        for before, _ in pending.pop().next_functions:
            if before is not None and before not in seen:
                seen.add(before)
                pending.append(before)
    return wanted in seen
