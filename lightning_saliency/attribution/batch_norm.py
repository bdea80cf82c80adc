"""Right gradients of batch norm for a single image, which torch computes wrongly at times.

On a CPU, torch chooses by the memory formats of the input and of the incoming gradient how to run
through them. With a single image, the stride of the batch may be anything: an activation made of
tokens, ``tokens.transpose(1, 2).view(1, C, H, W)``, has its channels last in memory, but torch does
not recognise that by its strides. It then reads one of the two in the order of the other, and the
gradient is scrambled, in eval mode too (torch 2.14, with two or three dimensions of space).

If both are in one of the usual formats, with the usual stride of the batch, the gradient is right.
It is also right whenever there are gaps between the elements of the incoming gradient, which takes
longer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_saliency.attribution.nodes import Gradients, name_operation

_BATCH_NORM = "NativeBatchNorm"

# The results of these operations are in one of the usual formats, whatever their input is in.
_USUAL = frozenset(
    {"Convolution", "Cat", "MaxPool2DWithIndices", "AvgPool2D", "AdaptiveAvgPool2D", _BATCH_NORM}
)
# The results of these have the strides of their input. Nodes that are in neither set may have any.
_ELEMENTWISE = frozenset(
    {"Add", "Sub", "Mul", "Div", "Relu", "Hardtanh", "LeakyRelu", "Elu", "Gelu", "Silu"}
    | {"Hardswish", "Sigmoid", "Mish"}
)


class SingleBatchNorms:
    """The batch norms of a graph.

    Args:
        nodes: Those of the graph.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._norms = [node for node in nodes if name_operation(node) == _BATCH_NORM]
        self._usual: set[Node] = set()  # nodes whose results are known to be in a usual format

    def attach(self) -> Iterator[RemovableHandle]:
        """Make gradients of single images right; yield a handle per hook, which removes it."""
        for node in self._norms:
            usual = self._is_usual(node.next_functions[0][0])
            yield node.register_prehook(_use_usual_format if usual else _use_no_format)

    def _is_usual(self, node: Any) -> bool:
        """Whether the result of ``node`` is in a usual format for sure."""
        seen, pending = {node}, [node]
        while pending:
            node = pending.pop()
            name = name_operation(node) if node is not None else ""
            if node in self._usual or name in _USUAL:
                continue
            if name not in _ELEMENTWISE:
                return False
            for child, _ in node.next_functions:
                if child is not None and child not in seen:
                    seen.add(child)
                    pending.append(child)
        self._usual |= seen
        return True


def _use_usual_format(outputs: Gradients) -> Gradients | None:
    """Copy a gradient whose strides are not those of a usual format."""
    gradient = outputs[0]
    if gradient is None or not _is_single(gradient) or gradient.stride(0) == gradient.numel():
        return None
    return (torch.empty_like(gradient, memory_format=torch.contiguous_format).copy_(gradient),)


def _use_no_format(outputs: Gradients) -> Gradients | None:
    """Copy a gradient so that there is a gap between its elements."""
    gradient = outputs[0]
    if gradient is None or not _is_single(gradient):
        return None
    return (torch.stack((gradient, gradient), dim=-1)[..., 0],)


def _is_single(gradient: Tensor) -> bool:
    return gradient.shape[0] == 1 and gradient.dim() > 3 and gradient.device.type == "cpu"
