"""From logits to probabilities, for one label per image or for several."""

from __future__ import annotations

import torch
from torch import Tensor


def probabilities(logits: Tensor, *, multi_label: bool) -> Tensor:
    """Softmax over the classes; a sigmoid each for several labels an image, or for one logit.

    Example:
        >>> probabilities(torch.tensor([[0.0, 0.0]]), multi_label=False)
        tensor([[0.5000, 0.5000]])
    """
    if multi_label or logits.shape[1] == 1:
        return logits.sigmoid()
    return logits.softmax(dim=1)


def probabilities_of(logits: Tensor, classes: Tensor, *, multi_label: bool) -> Tensor:
    """The probability of one class an image.

    Args:
        logits: ``(N, num_classes)``. A single one stands for class 1, against class 0.
        classes: ``(N,)`` int64.
        multi_label: Whether an image may have several classes.

    Returns:
        ``(N,)``.

    Example:
        >>> probabilities_of(torch.tensor([[2.0], [2.0]]), torch.tensor([1, 0]), multi_label=False)
        tensor([0.8808, 0.1192])
    """
    known = probabilities(logits, multi_label=multi_label)
    classes = classes.to(logits.device)
    if logits.shape[1] > 1 or multi_label:
        return known.gather(1, classes[:, None])[:, 0]
    return torch.where(classes > 0, known[:, 0], 1 - known[:, 0])
