"""Gradient rules: what an activation does to the gradient that flows back through it.

With f an activation, f' its derivative and R the gradient that arrives at its output, a rule
passes on

- ``gradient``: f'(x)·R, the plain gradient;
- ``deconvnet``: max(R, 0) (Zeiler & Fergus 2013, https://arxiv.org/abs/1311.2901);
- ``guided_backprop``: max(f'(x), 0)·max(R, 0), which for a ReLU is the mask of the paper,
  1[f>0]·1[R>0]·R (Springenberg et al. 2014, https://arxiv.org/abs/1412.6806).

The paper defines guided backprop for the ReLU only. Applying it to other rectifiers is our
extension. Gates (sigmoid, tanh, softmax) keep their own gradient.

A rule is a pair of hooks on the node of an activation in the autograd graph, see
:mod:`~lightning_saliency.attribution.graph`. ``docs/rules.md`` lists the derivative of each
rectifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from lightning_saliency.attribution.nodes import Gradients

Rule: TypeAlias = Literal["gradient", "guided_backprop", "deconvnet"]
RULES: tuple[Rule, ...] = ("gradient", "guided_backprop", "deconvnet")

# The sign of a rectifier's derivative, which decides how many clamps guided backprop needs.
# "increasing" means that it is never negative, so that one clamp is enough. "activation" means that
# it may have either sign, which takes two clamps. See `Rectifier.attach`.
Kind: TypeAlias = Literal["activation", "increasing"]


@dataclass(frozen=True, slots=True)
class Rectifier:
    """An activation that a rule can be attached to.

    Attributes:
        node: Its node in the graph.
        kind: The sign of its derivative.
        in_place: Whether the gradient that the node returns may be overwritten.
    """

    node: Node
    kind: Kind
    in_place: bool

    def attach(self, rule: str) -> Iterator[RemovableHandle]:
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
