"""What a dataset says about its items: their labels, the names of classes, the normalisation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from lightning_saliency.probe.items import LABEL_KEYS
from lightning_saliency.probe.transforms import find_normalisation


def list_classes(dataset: Any) -> list[int] | None:
    """List the class of every item, if a dataset lists classes as its targets.

    Returns:
        One class per item of the dataset, which may be a ``Subset``; ``None`` if it lists none.
    """
    if isinstance(dataset, Subset):
        classes = list_classes(dataset.dataset)
        return None if classes is None else [classes[i] for i in dataset.indices]
    read = (_as_integers(targets) for targets in _find_targets(dataset))
    return next((classes for classes in read if classes is not None), None)


def list_targets(dataset: Any, items: Sequence[int]) -> list[Any] | None:
    """List the targets of some items of a dataset, in whatever form it keeps them.

    Returns:
        One target per item; ``None`` if the dataset, which may be a ``Subset``, lists none.
    """
    if isinstance(dataset, Subset):
        return list_targets(dataset.dataset, [int(dataset.indices[i]) for i in items])
    for targets in _find_targets(dataset):
        with suppress(TypeError, ValueError, IndexError):
            # A column of a table would look up its index, so numpy reads it first.
            plain = isinstance(targets, Tensor | list | tuple)
            rows = targets if plain else np.asarray(targets)
            return [rows[i] for i in items]
    return None


def _find_targets(dataset: Any) -> list[Any]:
    """Find what a dataset lists of its items in ``targets`` and ``labels``, with one entry each."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return [dataset.tensors[1]]
    found = []
    for name in ("targets", "labels"):
        listed: Any = getattr(dataset, name, None)
        if callable(listed) or isinstance(listed, str | Mapping):
            continue
        with suppress(TypeError):  # One of the two has no length.
            if len(listed) == len(dataset):
                found.append(listed)
    return found


def _as_integers(listed: Any) -> list[int] | None:
    """Read a list, array, tensor or table column of whole numbers; ``None`` for anything else."""
    if isinstance(listed, Tensor):
        listed = listed.tolist()
    if isinstance(listed, list | tuple) and (not listed or _as_integer(listed[0]) is None):
        # The items are names, or perhaps large masks, which are better not copied to an array.
        return None
    try:
        values = np.asarray(listed)
    except (TypeError, ValueError):  # The items have different lengths.
        return None
    whole = values.dtype.kind in "iub" or (
        values.dtype.kind == "f" and bool((values % 1 == 0).all())
    )
    return values.astype(int).tolist() if values.ndim == 1 and whole else None


def _as_integer(value: Any) -> int | None:
    """Read a whole number, such as 3, 1.0 or ``True``; ``None`` for anything else."""
    if isinstance(value, Tensor | np.ndarray):
        value = value.item() if math.prod(value.shape) == 1 else None
    if isinstance(value, Integral) or (isinstance(value, float | np.floating) and value % 1 == 0):
        return int(value)
    return None


def guess_class(item: Any) -> int | None:
    """Guess the class of an item, by which items are chosen for a probe.

    Only the most common places are looked at: the field that becomes the label in the end is found
    in a batch, by :func:`items.find_labels`.
    """
    found = None
    if isinstance(item, Mapping):
        found = next((item[key] for key in LABEL_KEYS if key in item), None)
    elif isinstance(item, tuple | list) and len(item) > 1:
        found = item[1]
    return _as_integer(found)


def trace_positions(dataset: Any, items: Sequence[int]) -> list[list[int]]:
    """Return the positions of items in a dataset, and in each that it is a ``Subset`` of."""
    positions = [[int(i) for i in items]]
    while isinstance(dataset, Subset):
        positions.append([int(dataset.indices[i]) for i in positions[-1]])
        dataset = dataset.dataset
    return positions


def renumbers(dataset: Any) -> bool:
    """Return whether a dataset, or what it is a subset of, has a ``target_transform``."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return getattr(dataset, "target_transform", None) is not None


def describe_dataset(dataset: Any, channels: int) -> dict[str, Any]:
    """Look up the class names and normalisation of a dataset, or of what it is a subset of.

    Args:
        dataset: Class names come from its ``classes``, and the normalisation from its
            ``transform`` or ``transforms``.
        channels: The number of channels of its images.

    Returns:
        Those of the arguments ``class_names``, ``mean`` and ``std`` that were found.
    """
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    known: dict[str, Any] = {}
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, np.ndarray):
        classes = classes.tolist()
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        known["class_names"] = classes
    transforms = (getattr(dataset, name, None) for name in ("transform", "transforms"))
    found = next(filter(None, (find_normalisation(t, channels) for t in transforms)), None)
    if found is not None and [len(values) for values in found] == [channels, channels]:
        known["mean"], known["std"] = found
    return known
