"""Which classes are explained: from the user's words to a tensor of class indices.

:func:`choose_targets` reads the ``targets`` of the callback, and :func:`as_columns` those of
:func:`explain`. Both write -1 for a class that depends on the logits, as ``"predicted"`` does.
:func:`resolve_targets` replaces each -1 once the logits are known.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_saliency.functional.arguments import is_integer, plain_text

Targets: TypeAlias = (
    Literal["all", "predicted"] | int | Tensor | Sequence[Any] | np.ndarray[Any, Any]
)
Words: TypeAlias = str | Sequence[int] | Sequence[str]  # what the callback takes as `targets`

STRONGEST = -1  # in a tensor of targets: the strongest class that its row does not name
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_ALL_UP_TO = 10  # "auto" shows all classes if there are at most this many
_OTHERS = 4  # the number of other classes that "auto" shows next to the label if there are more
_AUTO = 12  # the most classes that "auto" shows of an image with many labels, others included


def choose_targets(
    wanted: Words,
    num_classes: int,
    labels: Sequence[Sequence[int]],
    class_names: Sequence[str] = (),
) -> Tensor | None:
    """Choose the classes to explain from what the user asked for.

    Args:
        wanted: ``"auto"``, which means all classes if there are at most ten, and otherwise the
            label and the four strongest others, of many labels as many as make twelve classes;
            ``"all"``; ``"label"``; ``"predicted"``; ``"top3"`` or any other number; or a list of
            class indices or names.
        num_classes: The number of logits of the model.
        labels: The true classes of each image; all empty if the images have no labels.
        class_names: The name of each class.

    Returns:
        ``(N, K)`` int64, in which -1 stands for the strongest class that its row does not name;
        ``None`` for all classes.

    Raises:
        ValueError: The word or class name is unknown, a class is out of range, or ``"label"`` was
            asked for without labels.
        TypeError: ``wanted`` is neither a word nor a list, or an item of it is neither an index
            nor a name.

    Example:
        >>> choose_targets("auto", 1000, [[207], [340]])
        tensor([[207,  -1,  -1,  -1,  -1],
                [340,  -1,  -1,  -1,  -1]])
    """
    wanted = read_words(wanted)
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


def read_words(wanted: Any) -> str | list[int] | list[str]:
    """Refuse ``wanted`` if it makes no sense for any probe and any model.

    Args:
        wanted: A word, or a list of class indices or names, also of numpy's types.

    Returns:
        The same with python's own types, which records and checkpoints can keep.

    Raises:
        TypeError: It is neither a word nor a list, or an item is neither an index nor a name.
        ValueError: It is an unknown word or an empty list.
    """
    known = ("auto", "all", "label", "predicted")
    wanted = _without_numpy(wanted)
    if not isinstance(wanted, str | Sequence):
        raise TypeError(
            f"`targets` must be one of {', '.join(known)}, 'top3' (or any number), or a list of "
            f"classes, got {wanted!r}. For one class, pass [3]."
        )
    if isinstance(wanted, str) and wanted not in known and not re.fullmatch(r"top[1-9]\d*", wanted):
        raise ValueError(
            f"`targets` must be one of {', '.join(known)}, 'top3' (or any number), or a list of "
            f"classes, got {wanted!r}. For one class, pass [{wanted!r}]."
        )
    if len(wanted) == 0:
        raise ValueError("`targets` must name at least one class, got an empty list.")
    if isinstance(wanted, str):
        return plain_text(wanted)
    for item in wanted:
        if not is_integer(item) and not isinstance(item, str):
            raise TypeError(f"`targets` must be a list of indices or class names, got {item!r}.")
    return [plain_text(item) if isinstance(item, str) else item for item in wanted]


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
        most = max(map(len, labels))
        others = min(_OTHERS, max(0, num_classes - most))
        known = _padded([row[: _AUTO - others] for row in labels])
        return torch.cat([known, _strongest(len(labels), others)], dim=1)
    count = 1 if word == "predicted" else int(word.removeprefix("top"))
    return _strongest(len(labels), min(count, num_classes))


def _strongest(images: int, count: int) -> Tensor:
    return torch.full((images, count), STRONGEST)


def _padded(labels: Sequence[Sequence[int]]) -> Tensor:
    """Make labels a rectangle ``(N, K)``; shorter rows continue with their strongest classes."""
    longest = max(1, *map(len, labels))
    return torch.tensor([[*row, *[STRONGEST] * (longest - len(row))] for row in labels])


def _index(item: int | str, class_names: Sequence[str]) -> int:
    """Find the index of one item of a list of classes."""
    if not isinstance(item, str):
        return item
    if item in class_names:
        return list(class_names).index(item)
    if not class_names:
        raise ValueError(
            f"`targets` names the class {item!r}, but the probe has no `class_names`. Pass "
            '`ProbeBatch(…, class_names=["cat", "dog"])`, in the order of the logits, or name '
            "classes by their indices: `targets=[0, 1]`."
        )
    raise ValueError(
        f"`targets` names the class {item!r}, which is not among the probe's `class_names`: "
        f"{', '.join(class_names[:12])}."
    )


def as_columns(targets: Targets, images: Tensor) -> Tensor | None:
    """Turn ``targets`` into one row of classes per image.

    Args:
        targets: ``"all"``, ``"predicted"``, one class for all images, or integers ``(N,)`` or
            ``(N, K)`` in a tensor, array or list, in which -1 stands for the strongest class that
            its row does not name.
        images: ``(N, C, H, W)``.

    Returns:
        ``(N, K)`` int64 on the device of ``images``; ``None`` for all classes.

    Raises:
        TypeError: ``targets`` is neither a word, an integer, nor a tensor of integers.
        ValueError: The word is unknown, a class is negative, or the shape does not fit the images.
    """
    if isinstance(targets, str):
        if targets == "all":
            return None
        if targets != "predicted":
            raise ValueError(
                f"`targets` must be 'all', 'predicted', a class or a tensor, got {targets!r}. "
                "`class_index` finds the index of an ImageNet class by its name."
            )
        targets = torch.full((len(images), 1), STRONGEST)
    targets = _without_numpy(targets)
    if isinstance(targets, Tensor) and targets.ndim == 0 and targets.dtype in _INTEGERS:
        targets = int(targets)
    if is_integer(targets):
        if targets < 0:
            raise ValueError(
                f"`targets` must be a class of at least 0, got {targets}. Use 'predicted' for the "
                "strongest class."
            )
        targets = torch.full((len(images), 1), targets)
    if isinstance(targets, list | tuple):
        targets = _as_tensor(targets)
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
            f"`targets` must be classes of at least 0, or -1 for the strongest class, "
            f"got {_shortly(columns)}."
        )
    return columns.to(images.device, torch.int64)


def _without_numpy(targets: Any) -> Any:
    """Turn numbers, strings and arrays of numpy into python's; leave everything else as it is."""
    if isinstance(targets, np.ndarray | np.generic):
        return targets.tolist()
    if isinstance(targets, list | tuple):
        return [_without_numpy(item) for item in targets]
    return targets


def _as_tensor(rows: list[Any] | tuple[Any, ...]) -> Any:
    """Turn lists of integers into a tensor; return what is not rectangular, or no number, as is."""
    try:
        found = torch.as_tensor(rows)
    except (TypeError, ValueError):
        return rows
    return found if found.numel() else found.long()  # torch takes an empty list for floats


def resolve_targets(targets: Tensor | None, logits: Tensor) -> Tensor:
    """Replace each -1 by the strongest class that its row does not contain yet.

    Args:
        targets: ``(N, K)`` int64, as :func:`as_columns` returns them; ``None`` for all classes.
        logits: ``(N, num_classes)``. NaN counts as the weakest.

    Returns:
        ``(N, K)`` int64 classes on the device of ``logits``, distinct wherever -1 was replaced.

    Raises:
        ValueError: A class is out of range, or a row asks for more classes than there are.
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
    # `argmax` takes NaN for the largest value, so it becomes the lowest finite number, as does
    # -inf: only classes that are already taken may be at -inf below.
    strength = logits.nan_to_num(nan=torch.finfo(logits.dtype).min)
    for column in range(classes.shape[1]):
        free = classes[:, column] == STRONGEST
        # A -1 that is still to be replaced marks an extra column, which is cut off again.
        named = classes.masked_fill(classes == STRONGEST, num_classes)
        taken = logits.new_zeros(count, num_classes + 1, dtype=torch.bool).scatter_(1, named, True)
        strongest = strength.masked_fill(taken[:, :-1], -torch.inf).argmax(dim=1)
        classes[:, column] = torch.where(free, strongest, classes[:, column])
    return classes


def _shortly(targets: Tensor) -> str:
    """Write the first eight targets for an error message."""
    text = ", ".join(str(int(t)) for t in targets.flatten()[:8])
    return text + (", …" if targets.numel() > 8 else "")
