"""The autograd graph of one forward pass, and the rules attached to its activations.

**Why the graph and not the modules.** Hooks on modules see only activations that are modules: they
miss ``F.relu(x)`` and ``x.relu_()``, and they cannot tell the uses of a shared module apart. If the
input of a ReLU also feeds a skip connection, they clamp the gradient of that path as well. In the
autograd graph of one forward pass, each application of an activation is a node of its own, whatever
it was called through.

1. The forward pass builds the graph.
2. :class:`Graph` walks it and collects the nodes that lie between the logits and the images. It
   recognises rectifiers by the name of their node and by the constants that the node has saved.
3. :meth:`Graph.following` attaches the hooks of one rule, lets backward passes run, and removes
   the hooks. One graph therefore serves several rules in turn.

The live module is never changed, and the hooks disappear with the graph at the latest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_saliency.attribution.activations import recognise
from lightning_saliency.attribution.batch_norm import SingleBatchNorms
from lightning_saliency.attribution.heads import Head
from lightning_saliency.attribution.nodes import name_node, name_operation
from lightning_saliency.attribution.rules import Rectifier


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
        self._head, self._norms = head, SingleBatchNorms(nodes)
        skipped = set() if head is None else {head.end, *head.passed}
        self._rectifiers: list[Rectifier] = []
        counts: dict[str, Counter[str]] = {f: Counter() for f in Coverage.__dataclass_fields__}
        for node in nodes:
            group, rectifier = (None, None) if node in skipped else recognise(node)
            if rectifier is not None:
                self._rectifiers.append(rectifier)
            if group is not None:
                counts[group][name_operation(node)] += 1
        self.coverage = Coverage(**counts)

    @contextmanager
    def following(self, rule: str) -> Iterator[None]:
        """Make backward passes through this graph follow ``rule`` within the ``with`` block.

        The hooks are removed at its end, also after an error, so that a later pass through the same
        graph, or a plain ``backward`` of the user's, is not affected.
        """
        handles: list[RemovableHandle] = []
        try:
            if self._head is not None:
                handles.extend(self._head.attach())
            handles.extend(self._norms.attach())
            for rectifier in self._rectifiers:
                handles.extend(rectifier.attach(rule))
            yield
        finally:
            for handle in handles:
                handle.remove()


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


def _reads_memory(node: Any) -> bool:
    """Whether the result of an operation may depend on where the elements of its input lie."""
    name = name_node(node)
    if name_operation(node) == "AsStrided":
        # Torch's own pooling to a single position does so too, to name the layout of the result.
        return list(node._saved_size[2:]) != [1, 1] or node._saved_stride[1] != 1
    return isinstance(node, torch.autograd.function.BackwardCFunction) or "::" in name
