"""Which classes of a probe to explain, from the words that users say it in."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_saliency.classes import STRONGEST
from lightning_saliency.probe import ProbeBatch

_ALL_UP_TO = 10  # classes that "auto" shows completely
_OTHERS = 4  # strongest others that "auto" shows beside the label, where there are more


def choose_targets(
    wanted: str | Sequence[int] | Sequence[str], probe: ProbeBatch, num_classes: int
) -> Tensor | None:
    """Classes ``(N, K)`` for :func:`explain`, ``None`` for all.

    Args:
        wanted: ``"auto"``, all classes up to ten, else the label and the four strongest others;
            ``"all"``; ``"label"``; ``"predicted"``; ``"top3"`` or any number; or a list of
            indices or class names.
        probe: The images, whose labels and class names are used.
        num_classes: How many logits the model has.

    Raises:
        ValueError: An unknown word or class name, a class out of range, ``"label"`` without labels.
        TypeError: A list of anything else.
    """
    if isinstance(wanted, str):
        return _by_word(wanted, probe, num_classes)
    classes = [_index(item, probe) for item in wanted]
    if not classes:
        raise ValueError("`targets` must name a class at least, got an empty list.")
    for index in classes:
        if not 0 <= index < num_classes:
            raise ValueError(
                f"`targets` must be classes from 0 to {num_classes - 1}, as the model has "
                f"{num_classes} logit(s), got {index}."
            )
    return torch.tensor(classes).expand(len(probe), -1).contiguous()


def check_words(wanted: str | Sequence[int] | Sequence[str]) -> None:
    """Refuse what no probe and no model could make sense of.

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
        raise ValueError("`targets` must name a class at least, got an empty list.")


def _by_word(word: str, probe: ProbeBatch, num_classes: int) -> Tensor | None:
    check_words(word)
    if word == "all" or num_classes == 1 or (word == "auto" and num_classes <= _ALL_UP_TO):
        return None
    labels = _labels(probe)
    if word == "label":
        if labels is None:
            raise ValueError("`targets='label'` needs labels: pass `ProbeBatch(images, labels)`.")
        return labels
    if word == "auto":
        if labels is None:
            return _strongest(probe, _OTHERS + 1)
        left = max(0, num_classes - labels.shape[1])  # by the image with the most labels
        return torch.cat([labels, _strongest(probe, min(_OTHERS, left))], dim=1)
    count = 1 if word == "predicted" else int(word.removeprefix("top"))
    return _strongest(probe, min(count, num_classes))


def _strongest(probe: ProbeBatch, count: int) -> Tensor:
    return torch.full((len(probe), count), STRONGEST)


def _labels(probe: ProbeBatch) -> Tensor | None:
    """``(N, K)``; with several labels an image, rows that have fewer go on with the strongest."""
    if probe.labels is None:
        return None
    if not probe.multi_label:
        return probe.labels[:, None]
    classes = [sorted(probe.true_classes(image)) for image in range(len(probe))]
    longest = max(1, *map(len, classes))
    return torch.tensor([row + [STRONGEST] * (longest - len(row)) for row in classes])


def _index(item: int | str, probe: ProbeBatch) -> int:
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    if not isinstance(item, str):
        raise TypeError(f"`targets` must be a list of indices or class names, got {item!r}.")
    names = list(probe.class_names or ())
    if item in names:
        return names.index(item)
    raise ValueError(
        f"`targets` names the class {item!r}, which the probe's `class_names` do not hold: "
        f"{', '.join(names[:12]) or 'none were given'}."
    )
