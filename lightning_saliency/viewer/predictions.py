"""What a model took each image for, as a page shows it.

The explained classes alone do not say so: with two of ten classes explained, the stronger of the
two need not be the strongest of all. Where a record leaves a doubt, nothing is concluded.
"""

from __future__ import annotations

import numpy as np

from lightning_saliency.record.facts import RunInfo
from lightning_saliency.viewer.tensors import Array, TensorFile

_PREDICTED = "predicted"  # absent from files of version 0.1
_WITH_THE_STRONGEST = ("all", "auto")  # arguments `targets` that explain the strongest class too


def read_predictions(
    file: TensorFile, facts: RunInfo, targets: Array, probabilities: Array
) -> list[int | None]:
    """Read the class with the largest logit of each image.

    Args:
        file: The file of the observation.
        facts: The run of the observation.
        targets: ``(N, K)``, the explained classes.
        probabilities: ``(N, K)``, the probability of each of them.

    Returns:
        N classes, ``None`` for an image of which the record does not say it. With several labels
        per image, the class is the most probable label.

    Raises:
        ValueError: The tensor in the file cannot be that of the observation.
    """
    if _PREDICTED in file.entries:
        predicted = _read_recorded(file, len(targets))
    elif _explains_the_strongest(facts, targets):
        places = np.nan_to_num(probabilities, nan=0.0).argmax(axis=1)
        predicted = np.take_along_axis(targets, places[:, None], axis=1)[:, 0]
    else:
        return [None] * len(targets)
    if facts.one_logit:
        predicted = (probabilities[:, 0] >= 0.5).astype(np.int64)
    elif _could_be_one_logit(facts, targets, predicted):
        return [None] * len(targets)
    # The class of a model whose output is not finite is the first one by chance.
    rows = zip(predicted.tolist(), probabilities, strict=True)
    return [each if np.isfinite(row).all() else None for each, row in rows]


def _read_recorded(file: TensorFile, images: int) -> Array:
    predicted = file.read(_PREDICTED)
    if predicted.shape != (images,) or predicted.dtype != np.int64 or predicted.min() < 0:
        raise ValueError("`predicted` is not one class per image")
    return predicted


def _explains_the_strongest(facts: RunInfo, targets: Array) -> bool:
    """Whether the strongest class of each image is certainly among the explained ones."""
    count = targets.shape[1]
    if count < 2 or not bool((np.sort(targets, axis=1) == np.arange(count)).all()):
        return False
    named = facts.class_names is not None and len(facts.class_names) == count
    return named or facts.settings.get("targets") in _WITH_THE_STRONGEST


def _could_be_one_logit(facts: RunInfo, targets: Array, predicted: Array) -> bool:
    """Whether the model may have a single logit, whose number, 0, is always the predicted one."""
    if facts.one_logit is not None or len(facts.class_names or ()) > 2:
        return False
    return targets.shape[1] == 1 and not targets.any() and not predicted.any()
