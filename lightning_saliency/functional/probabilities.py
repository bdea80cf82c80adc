"""From logits to probabilities, for models with one label or several labels per image."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Turn logits into probabilities: a softmax, or a sigmoid for multi-label or one-logit models.

    Args:
        logits: ``(N, num_classes)``.
        multi_label: Whether an image may have several classes.

    Returns:
        ``(N, num_classes)`` in [0, 1]. A single logit becomes the probability of class 1.

    Example:
        >>> probabilities(torch.tensor([[0.0, 0.0]]), multi_label=False)
        tensor([[0.5000, 0.5000]])
    """
    if multi_label or logits.shape[1] == 1:
        return logits.sigmoid()
    return logits.softmax(dim=1)


def gather_probabilities(logits: Tensor, classes: Tensor, *, multi_label: bool) -> Tensor:
    """Gather the probability of one class per image.

    Args:
        logits: ``(N, num_classes)``. A single logit distinguishes class 1 from class 0.
        classes: ``(N,)`` int64.
        multi_label: Whether an image may have several classes.

    Returns:
        ``(N,)`` in [0, 1], on the device of ``logits``.

    Example:
        >>> logits, classes = torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0])
        >>> gather_probabilities(logits, classes, multi_label=False)
        tensor([0.8808, 0.1192])
    """
    every = probabilities(logits, multi_label=multi_label)
    classes = classes.to(logits.device)
    if logits.shape[1] > 1 or multi_label:
        return every.gather(1, classes[:, None])[:, 0]
    # A single logit gives the probability of class 1; class 0 has the rest.
    return torch.where(classes > 0, every[:, 0], 1 - every[:, 0])
