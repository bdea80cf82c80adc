"""Which classes of a model are explained: from what was asked for to a tensor of classes."""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor

Targets: TypeAlias = Literal["all", "predicted"] | int | Tensor

STRONGEST = -1  # in a tensor of targets: the strongest class that its row does not name
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def as_columns(targets: Targets, images: Tensor) -> Tensor | None:
    """``targets`` as ``(N, K)`` int64 on the device of ``images``; ``None`` for all classes.

    Raises:
        TypeError: Neither a word, nor an integer, nor a tensor of integers.
        ValueError: An unknown word, a negative class, a shape that does not fit the images.
    """
    if isinstance(targets, str):
        if targets == "all":
            return None
        if targets != "predicted":
            raise ValueError(
                f"`targets` must be 'all', 'predicted', a class or a tensor, got {targets!r}. "
                "Class names of ImageNet become indices with `class_index`."
            )
        targets = torch.full((len(images), 1), STRONGEST)
    elif isinstance(targets, int) and not isinstance(targets, bool):
        if targets < 0:
            raise ValueError(
                f"`targets` must be a class from 0 on, got {targets}. 'predicted' is the strongest."
            )
        targets = torch.full((len(images), 1), targets)
    if not isinstance(targets, Tensor) or targets.dtype not in _INTEGERS:
        kind = targets.dtype if isinstance(targets, Tensor) else type(targets).__name__
        raise TypeError(
            f"`targets` must be a str, an int or an int64 tensor, got {kind}. Pass several classes "
            "as `torch.tensor([[0, 3]]).expand(len(images), -1)`."
        )
    columns = targets.unsqueeze(1) if targets.ndim == 1 else targets
    if columns.ndim != 2 or len(columns) != len(images) or columns.shape[1] == 0:
        raise ValueError(
            f"`targets` must have shape ({len(images)},) or ({len(images)}, K), a row an image, "
            f"got {tuple(targets.shape)}."
        )
    if int(columns.min()) < STRONGEST:
        raise ValueError(
            f"`targets` must be classes from 0 on, or -1 for the strongest, "
            f"got {_shortly(columns)}."
        )
    return columns.to(images.device, torch.int64)


def resolve_targets(targets: Tensor | None, logits: Tensor) -> Tensor:
    """Classes ``(N, K)`` from what was asked for; ``None`` asks for all.

    -1 is replaced by the strongest class that its row neither names nor was given already.
    """
    count, num_classes = logits.shape
    if targets is None:
        return torch.arange(num_classes, device=logits.device).expand(count, -1).contiguous()
    if targets.shape[1] > num_classes or int(targets.max()) >= num_classes:
        raise ValueError(
            f"`targets` must be classes from 0 to {num_classes - 1}, at most {num_classes} an "
            f"image, as the model has {num_classes} logit(s); got {_shortly(targets)}."
        )
    classes = targets.to(logits.device, copy=True)
    # NaN would compare as the largest of all; it, and -inf, become the lowest of finite numbers.
    strength = logits.nan_to_num(nan=torch.finfo(logits.dtype).min)
    for column in range(classes.shape[1]):
        free = classes[:, column] == STRONGEST
        named = classes.masked_fill(classes == STRONGEST, num_classes)
        taken = logits.new_zeros(count, num_classes + 1, dtype=torch.bool).scatter_(1, named, True)
        strongest = strength.masked_fill(taken[:, :-1], -torch.inf).argmax(dim=1)
        classes[:, column] = torch.where(free, strongest, classes[:, column])
    return classes


def _shortly(targets: Tensor) -> str:
    text = ", ".join(str(int(t)) for t in targets.flatten()[:8])
    return text + (", …" if targets.numel() > 8 else "")
