"""Which classes are explained: from the user's words to a tensor of class indices.

:func:`choose_targets` reads the ``targets`` of the callback, :func:`as_columns` those of
:func:`explain`, and :func:`resolve_targets` fills in the strongest classes once logits are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lightning_saliency.functional.arguments import is_integer

Targets: TypeAlias = Literal["all", "predicted"] | int | Tensor
Words: TypeAlias = str | Sequence[int] | Sequence[str]  # what the callback takes as `targets`

STRONGEST = -1  # in a tensor of targets: the strongest class that its row does not name
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_ALL_UP_TO = 10  # classes that "auto" shows completely
_OTHERS = 4  # strongest others that "auto" shows next to the label, if there are more


def choose_targets(
    wanted: Words,
    num_classes: int,
    labels: Sequence[Sequence[int]],
    class_names: Sequence[str] = (),
) -> Tensor | None:
    """Choose classes ``(N, K)`` for :func:`explain`; ``None`` for all.

    Args:
        wanted: ``"auto"``, all classes up to ten, else the label and the four strongest others;
            ``"all"``; ``"label"``; ``"predicted"``; ``"top3"`` or any number; or a list of
            indices or class names.
        num_classes: How many logits the model has.
        labels: The true classes of each image; all empty if the images have no labels.
        class_names: The name of each class.

    Raises:
        ValueError: An unknown word or class name, a class out of range, ``"label"`` without labels.
        TypeError: A list of anything else.

    Example:
        >>> choose_targets("auto", 1000, [[207], [340]])
        tensor([[207,  -1,  -1,  -1,  -1],
                [340,  -1,  -1,  -1,  -1]])
    """
    check_words(wanted)
    if isinstance(wanted, str):
        return _by_word(wanted, num_classes, labels)
    classes = [_index(item, class_names) for item in wanted]
    for index in classes:
        if not 0 <= index < num_classes:
            raise ValueError(
                f"`targets` must be classes from 0 to {num_classes - 1}, as the model has "
                f"{num_classes} logit(s), got {index}."
            )
    return torch.tensor(classes).expand(len(labels), -1).contiguous()


def check_words(wanted: Words) -> None:
    """Refuse what makes sense for no probe and no model.

    Raises:
        TypeError: Neither a word nor a list.
        ValueError: An unknown word, or an empty list.
    """
    known = ("auto", "all", "label", "predicted")
    if not isinstance(wanted, str | Sequence):
        raise TypeError(
            f"`targets` must be one of {', '.join(known)}, 'top3' (or any number), or a list of "
            f"classes, got {wanted!r}. One class is a list too: [3]."
        )
    if isinstance(wanted, str) and wanted not in known and not re.fullmatch(r"top[1-9]\d*", wanted):
        raise ValueError(
            f"`targets` must be one of {', '.join(known)}, 'top3' (or any number), or a list of "
            f"classes, got {wanted!r}. One class is a list too: [{wanted!r}]."
        )
    if len(wanted) == 0:
        raise ValueError("`targets` must name at least one class, got an empty list.")


def _by_word(word: str, num_classes: int, labels: Sequence[Sequence[int]]) -> Tensor | None:
    if word == "all" or num_classes == 1 or (word == "auto" and num_classes <= _ALL_UP_TO):
        return None
    labelled = any(labels)
    if word == "label":
        if not labelled:
            raise ValueError("`targets='label'` needs labels: pass `ProbeBatch(images, labels)`.")
        return _padded(labels)
    if word == "auto":
        if not labelled:
            return _strongest(len(labels), _OTHERS + 1)
        known = _padded(labels)
        room = max(0, num_classes - known.shape[1])  # left by the image with the most labels
        return torch.cat([known, _strongest(len(labels), min(_OTHERS, room))], dim=1)
    count = 1 if word == "predicted" else int(word.removeprefix("top"))
    return _strongest(len(labels), min(count, num_classes))


def _strongest(images: int, count: int) -> Tensor:
    return torch.full((images, count), STRONGEST)


def _padded(labels: Sequence[Sequence[int]]) -> Tensor:
    """``(N, K)``; rows of images that have fewer labels go on with their strongest classes."""
    longest = max(1, *map(len, labels))
    return torch.tensor([[*row, *[STRONGEST] * (longest - len(row))] for row in labels])


def _index(item: int | str, class_names: Sequence[str]) -> int:
    if is_integer(item):
        return item
    if not isinstance(item, str):
        raise TypeError(f"`targets` must be a list of indices or class names, got {item!r}.")
    if item in class_names:
        return list(class_names).index(item)
    raise ValueError(
        f"`targets` names the class {item!r}, which is not among the probe's `class_names`: "
        f"{', '.join(class_names[:12]) or 'none were given'}."
    )


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
    elif is_integer(targets):
        if targets < 0:
            raise ValueError(
                f"`targets` must be a class of at least 0, got {targets}. Use 'predicted' for the "
                "strongest class."
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
            f"`targets` must have shape ({len(images)},) or ({len(images)}, K), one row per image, "
            f"got {tuple(targets.shape)}."
        )
    if int(columns.min()) < STRONGEST:
        raise ValueError(
            f"`targets` must be classes of at least 0, or -1 for the strongest, "
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
            f"`targets` must be classes from 0 to {num_classes - 1}, at most {num_classes} per "
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
