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
    """What :func:`explain` returns: attributions that can be drawn.

    ``explanation["guided_backprop"]`` is the attribution by one rule.

    Attributes:
        attributions: By rule, ``(N, K, C, H, W)``, signed, in logits per input unit.
        targets: ``(N, K)`` int64, the class that each attribution explains.
        logits: ``(N, num_classes)``, the model's output for the images.
        coverage: How the activations on the way from the logits to the images were treated.
    """

    def plot(self, probe: ProbeBatch | Tensor, **options: Any) -> Figure:
        """Draw four panels per row: the image, its gradient by channel, the maximum, an overlay.

        Args:
            probe: The images that were explained.
            **options: ``rule``, ``image``, ``targets``, …; see :func:`figure.plot`, which also
                lists the errors.
        """
        # Matplotlib is imported only by those who draw.
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

    The model computes in eval mode and is left as it was found, also after an error: modes,
    buffers, gradients, attributes and random streams. It may be compiled (it runs eagerly here),
    in training, and called under ``no_grad`` or ``inference_mode``.

    Args:
        model: Any module. Its logits are the output itself, the first item of a tuple, the entry
            ``"logits"`` of a dict or the attribute ``.logits`` of an object.
        images: ``(N, C, H, W)``, floating point, as the model expects them. Moved to the model's
            device.
        targets: The classes to explain: ``"all"``; ``"predicted"``; one class for all images; or
            an int64 tensor ``(N,)`` or ``(N, K)``, in which -1 stands for the strongest class that
            its row does not name. A model of one logit has the one target 0.
        rules: Any of ``"guided_backprop"``, ``"gradient"`` and ``"deconvnet"``; see :mod:`rules`.
        forward: ``forward(model, images)`` returns the logits, for a model that is not called
            plainly.
        chunk_size: Images in one forward pass; all by default. Halved by itself, with a warning,
            when memory runs out.

    Returns:
        Attributions in the precision of the images, float32 for those of lower precision, on the
        model's device.

    Raises:
        TypeError: Images that are not floating point, targets that are not integers.
        ValueError: A wrong shape, a class out of range, an unknown rule.
        SaliencyError: Logits that do not depend on the images, or a rule that has nothing to hold
            on to because the graph hides the activations.

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
