"""Explain a batch of images: which pixels raise which logit, and by how much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from lightning_saliency.attribution.failures import saying_what_failed
from lightning_saliency.attribution.inputs import as_images
from lightning_saliency.attribution.logits import Forward
from lightning_saliency.attribution.methods import Method, name_rule, read_rules
from lightning_saliency.attribution.passes import Attributions, PassOptions, Request, compute
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.targets import Targets
from lightning_saliency.errors import SaliencyError
from lightning_saliency.functional.text import outline
from lightning_saliency.isolation.tensors import named_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_saliency.probe.batch import ProbeBatch


@dataclass(frozen=True, slots=True, repr=False)
class Explanation(Attributions):
    """The result of :func:`explain`: attributions that can draw themselves.

    ``explanation["guided_backprop"]`` is the attribution by one rule.

    Attributes:
        attributions: For each rule, by name, ``(N, K, C, H, W)``, signed; those of the gradient
            rules in logits per input unit. C is 1 if a method of another library returns one
            channel.
        targets: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``, the model's output for the images, or the logits under the
            softmax or sigmoid that it ends in.
        coverage: How the activations between the images and the logits were treated.
        activation: That ``"softmax"`` or ``"sigmoid"``; ``None`` if the model returns logits.
    """

    def __repr__(self) -> str:
        return outline(self)

    def plot(self, probe: ProbeBatch | Tensor, **options: Any) -> Figure:
        """Draw four panels per row: the image, its attribution in colour, its map and an overlay.

        Args:
            probe: The images that were explained.
            **options: ``rule``, ``image``, ``targets`` and others; see :func:`figure.plot`, which
                also lists the errors.
        """
        # Import Matplotlib only when something is drawn, because that takes long.
        from lightning_saliency.draw.figure import plot

        rule = options.get("rule")
        if rule is not None:
            several = isinstance(rule, list | tuple)
            options["rule"] = tuple(map(name_rule, rule)) if several else name_rule(rule)
        if self.activation is not None:
            options.setdefault("multi_label", self.activation == "sigmoid")
        return plot(self.attributions, self.targets, self.logits, probe, **options)

    def _repr_png_(self) -> bytes:
        """A small picture of some of the maps, which notebooks show."""
        from lightning_saliency.draw.preview import preview

        return preview(self.attributions, self.targets, self.logits)


def explain(
    model: nn.Module,
    images: Tensor | np.ndarray[Any, Any],
    targets: Targets = "all",
    *,
    rules: Sequence[Rule | Method] = ("guided_backprop",),
    forward: Forward | None = None,
    chunk_size: int | None = None,
    extras: Mapping[str, Tensor] | None = None,
) -> Explanation:
    """Attribute the logits of ``model`` to the pixels of ``images``.

    The model runs in eval mode and is left as it was found, also after an error: modes, buffers,
    gradients, attributes and random streams are restored. It may be in training mode or compiled
    (it runs eagerly here), and ``explain`` may be called under ``no_grad`` or ``inference_mode``.

    Args:
        model: Any module. Its logits are the output itself, an item of a tuple, the entry
            ``"logits"`` of a dict or the attribute ``.logits`` of an object. If the output is a
            softmax or sigmoid, the logits under it are explained.
        images: ``(N, C, H, W)``, floating point, normalised as the model expects them; a tensor or
            a numpy array. They are moved to the model's device and cast to its precision.
        targets: The classes to explain: ``"all"``, which takes a backward pass per class and rule,
            1,000 of them for ImageNet; ``"predicted"``; one class for all images; or integers
            ``(N,)`` or ``(N, K)``, a tensor, array or list, in which -1 stands for the strongest
            class that its row does not name. The only target of a model with one logit is 0.
        rules: Any of ``"guided_backprop"``, ``"gradient"`` and ``"deconvnet"``, see :mod:`rules`,
            and callables ``(model, images, targets) -> attributions``, see :mod:`methods` and
            :mod:`lightning_saliency.captum`, which go by their names.
        forward: ``forward(model, images, **extras)`` returns the logits, for a model that takes
            other arguments or returns something else. By default, ``model(images, **extras)`` is
            called.
        chunk_size: The number of images in one forward pass; all of them by default. If memory runs
            out, it is halved with a warning.
        extras: Further inputs of the model, such as metadata: for each name, a tensor with one row
            per image. They are passed as keyword arguments, by rows like the images.

    Returns:
        The attributions, targets and logits, on the model's device. Attributions have the precision
        of the model, but at least float32.

    Raises:
        TypeError: ``model`` is not a module, the images are not a floating-point tensor, or the
            targets are not integers.
        ValueError: A shape is wrong, a class is out of range, or a rule is unknown or has no name.
        SaliencyError: The logits were not found or do not depend on the images, the graph hides
            the activations that a rule needs, a callable failed or returned something other than
            attributions, the model has lazy layers without weights, or memory ran out for a single
            image.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False), nn.ReLU())
        >>> _ = nn.init.ones_(model[1].weight)
        >>> explanation = explain(model, torch.ones(1, 1, 2, 2), targets=1)
        >>> explanation["guided_backprop"].shape
        torch.Size([1, 1, 1, 2, 2])
        >>> print(explanation.coverage)
        guided: 1 Relu
    """
    if isinstance(rules, str) or callable(rules):
        raise ValueError(f"`rules` must be a tuple such as ('gradient',), got {rules!r}.")
    called = _refuse_new_weights(saying_what_failed(forward, of_probe=False))
    names, methods = read_rules(rules)
    options = PassOptions(called, chunk_size, methods=methods)
    tensor: Any = as_images(images, model) if isinstance(model, nn.Module) else images
    (found,) = compute(options, model, tensor, [Request(names, targets)], extras)
    return Explanation(
        found.attributions, found.targets, found.logits, found.coverage, found.activation
    )


def _refuse_new_weights(forward: Forward) -> Forward:
    """Refuse a model whose weights are made by its first forward pass, and which has had none."""

    def checked(model: nn.Module, images: Tensor, **extras: Tensor) -> Any:
        before = named_weights(model)
        output = forward(model, images, **extras)
        made = sorted(named_weights(model) - before)
        if made:
            # They are random, and are undone with everything else that the pass has changed.
            raise SaliencyError(
                f"{type(model).__name__} makes weights in its first forward pass ({made[0]}, …), "
                "so there is nothing to explain yet. Run one batch through it first: "
                "`model(images)`."
            )
        return output

    return checked
