"""Explain a batch of images: which pixels raise which logit, and by how much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from lightning_saliency.attribution.logits import Forward, call_plainly
from lightning_saliency.attribution.passes import Attributions, PassOptions, Request, compute
from lightning_saliency.attribution.rules import Rule
from lightning_saliency.attribution.targets import Targets

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lightning_saliency.probe.batch import ProbeBatch


@dataclass(frozen=True, slots=True)
class Explanation(Attributions):
    """The result of :func:`explain`: attributions that can draw themselves.

    ``explanation["guided_backprop"]`` is the attribution by one rule.

    Attributes:
        attributions: For each rule, ``(N, K, C, H, W)``, signed, in logits per input unit.
        targets: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``, the model's output for the images.
        coverage: How the activations between the images and the logits were treated.
    """

    def plot(self, probe: ProbeBatch | Tensor, **options: Any) -> Figure:
        """Draw four panels per row: the image, its attribution in colour, its map and an overlay.

        Args:
            probe: The images that were explained.
            **options: ``rule``, ``image``, ``targets`` and others; see :func:`figure.plot`, which
                also lists the errors.
        """
        # Import Matplotlib only when something is drawn, because that takes long.
        from lightning_saliency.draw.figure import plot

        return plot(self.attributions, self.targets, self.logits, probe, **options)


def explain(
    model: nn.Module,
    images: Tensor,
    targets: Targets = "all",
    *,
    rules: Sequence[Rule] = ("guided_backprop",),
    forward: Forward | None = None,
    chunk_size: int | None = None,
) -> Explanation:
    """Attribute the logits of ``model`` to the pixels of ``images``.

    The model runs in eval mode and is left as it was found, also after an error: modes, buffers,
    gradients, attributes and random streams are restored. It may be in training mode or compiled
    (it runs eagerly here), and ``explain`` may be called under ``no_grad`` or ``inference_mode``.

    Args:
        model: Any module. Its logits are the output itself, the first item of a tuple, the entry
            ``"logits"`` of a dict or the attribute ``.logits`` of an object.
        images: ``(N, C, H, W)``, floating point, normalised as the model expects them. They are
            moved to the model's device.
        targets: The classes to explain: ``"all"``; ``"predicted"``; one class for all images; or
            an int64 tensor ``(N,)`` or ``(N, K)``, in which -1 stands for the strongest class that
            its row does not name. The only target of a model with one logit is 0.
        rules: Any of ``"guided_backprop"``, ``"gradient"`` and ``"deconvnet"``; see :mod:`rules`.
        forward: ``forward(model, images)`` returns the logits, for a model that takes other
            arguments or returns something else. By default, ``model(images)`` is called.
        chunk_size: The number of images in one forward pass; all of them by default. If memory runs
            out, it is halved with a warning.

    Returns:
        The attributions, targets and logits, on the model's device. Attributions have the precision
        of the images, but at least float32.

    Raises:
        TypeError: ``model`` is not a module, the images are not a floating-point tensor, or the
            targets are not integers.
        ValueError: A shape is wrong, a class is out of range, or a rule is unknown.
        SaliencyError: The logits were not found or do not depend on the images, the graph hides
            the activations that a rule needs, or memory ran out for a single image.

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
    if isinstance(rules, str):
        raise ValueError(f"`rules` must be a tuple such as ('gradient',), got {rules!r}.")
    options = PassOptions(forward or call_plainly, chunk_size)
    (found,) = compute(options, model, images, [Request(tuple(rules), targets)])
    return Explanation(found.attributions, found.targets, found.logits, found.coverage)
