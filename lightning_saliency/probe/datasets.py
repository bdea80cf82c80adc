"""Choose items of a dataset for a probe, and find the images and labels in a batch."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from lightning_saliency.errors import SaliencyError
from lightning_saliency.probe.transforms import find_normalisation

_SAMPLED = 256  # items read, evenly spread, if a dataset does not list its labels
_UNLABELLED = 8  # items chosen if their labels cannot be found
_IMAGE_KEYS = ("image", "images", "pixel_values", "img", "x", "input", "inputs")
_LABEL_KEYS = ("label", "labels", "target", "targets", "y", "class")


def choose_items(dataset: Dataset[Any], per_class: int, count: int | None = None) -> list[int]:
    """Choose the first ``per_class`` items of each class, at most ``count`` in total.

    Without labels, choose the first ``count`` items, or the first eight.

    Returns:
        The indices of the items, sorted by class.

    Raises:
        TypeError: The dataset can only be iterated, or has no length.
        SaliencyError: The dataset is empty.
    """
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"a probe cannot be chosen from {type(dataset).__name__}, which is iterable only. Pass "
            "`probe=ProbeBatch(images, labels)` with images of your choice."
        )
    length = len(dataset)  # type: ignore[arg-type]
    if length == 0:
        raise SaliencyError(
            f"{type(dataset).__name__} is empty, so there is nothing to explain. Is the path, or "
            "the split, the right one?"
        )
    labels = _labels_by_item(dataset, length)
    if not labels:
        return list(range(min(length, count or _UNLABELLED)))
    by_class: defaultdict[int, list[int]] = defaultdict(list)
    for index, label in labels.items():
        if len(by_class[label]) < per_class:
            by_class[label].append(index)
    # Take the first item of every class before the second of any, so that `count` cuts evenly.
    rounds = (by_class[c][r : r + 1] for r in range(per_class) for c in sorted(by_class))
    chosen = list(islice((index for found in rounds for index in found), count))
    return sorted(chosen, key=lambda index: (labels[index], index))


def collate_items(
    dataset: Dataset[Any], indices: Sequence[int], collate_fn: Callable[[list[Any]], Any]
) -> Any:
    """Collate the items ``indices`` of ``dataset`` into a batch, as its loader would.

    Raises:
        ValueError: An index is out of range.
    """
    length = len(dataset)  # type: ignore[arg-type]
    for index in indices:
        if not 0 <= index < length:
            raise ValueError(
                f"`indices` must lie between 0 and {length - 1}, got {index}. They are positions "
                "in the dataset, not classes."
            )
    return collate_fn([dataset[index] for index in indices])


def _labels_by_item(dataset: Any, length: int) -> dict[int, int]:
    """The label of each item, or of evenly spread items; empty if labels cannot be found."""
    listed = _listed_labels(dataset)
    if listed is not None:
        return dict(enumerate(listed))
    # The dataset may be sorted by class, so its first items alone would not do.
    items = sorted({round(i * (length - 1) / (_SAMPLED - 1)) for i in range(_SAMPLED)})
    # Without labels the list is empty, and so is the dict.
    return dict(zip(items, _read_labels(dataset[i] for i in items), strict=False))


def _listed_labels(dataset: Any) -> list[int] | None:
    """The labels that a dataset, or what it is a subset of, lists in ``targets`` or ``labels``."""
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
        return _as_integers(dataset.tensors[1])
    if isinstance(dataset, Subset):
        labels = _listed_labels(dataset.dataset)
        return None if labels is None else [labels[i] for i in dataset.indices]
    for name in ("targets", "labels"):
        listed = getattr(dataset, name, None)
        if listed is not None and not callable(listed):
            values = _as_integers(listed)
            if values is not None and len(values) == len(dataset):
                return values
    return None


def _as_integers(listed: Any) -> list[int] | None:
    """One integer per item of a list, array, tensor or table column; ``None`` for anything else."""
    if isinstance(listed, Tensor):
        listed = listed.tolist()
    if isinstance(listed, list | tuple) and (not listed or _as_integer(listed[0]) is None):
        # The items are names, or perhaps large masks, which are better not copied to an array.
        return None
    try:
        values = np.asarray(listed)
    except (TypeError, ValueError):  # The items have different lengths.
        return None
    return values.tolist() if values.ndim == 1 and values.dtype.kind in "iu" else None


def _as_integer(value: Any) -> int | None:
    if isinstance(value, Tensor | np.ndarray):
        value = value.item() if math.prod(value.shape) == 1 else None
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def _read_labels(items: Iterable[Any]) -> list[int]:
    """The label of each item; an empty list as soon as an item has none."""
    labels: list[int] = []
    for item in items:
        label = _read_label(item)
        if label is None:
            return []
        labels.append(label)
    return labels


def _read_label(item: Any) -> int | None:
    found = None
    if isinstance(item, Mapping):
        found = next((item[key] for key in _LABEL_KEYS if key in item), None)
    elif isinstance(item, tuple | list) and len(item) > 1:
        found = item[1]
    return _as_integer(found)


def find_images_and_labels(batch: Any) -> tuple[Tensor, Tensor | None]:
    """Find the images ``(N, C, H, W)`` of a collated batch, and their labels if it has any.

    Raises:
        SaliencyError: The batch holds no images.
    """
    if isinstance(batch, Mapping):
        images = next((batch[k] for k in _IMAGE_KEYS if k in batch), None)
        labels = next((batch[k] for k in _LABEL_KEYS if k in batch), None)
        rest = [labels, *batch.values()]
    else:
        items = list(batch) if isinstance(batch, tuple | list) else [batch]
        images, rest = next((i for i in items if _is_images(i)), None), items
    if images is None:
        images = next((i for i in rest if _is_images(i)), None)
    if not isinstance(images, Tensor) or images.ndim != 4:
        raise SaliencyError(
            f"no images (N, C, H, W) in a batch that is {_describe_batch(batch)}. Pass "
            "`probe=ProbeBatch(images, labels)` with the images to explain."
        )
    after = [item for item in rest if item is not images]
    return images, next((f for i in after if (f := _as_labels(i, len(images))) is not None), None)


def _is_images(item: Any) -> bool:
    return isinstance(item, Tensor) and item.ndim == 4 and item.is_floating_point()


def _as_labels(item: Any, count: int) -> Tensor | None:
    """``item`` if it can be the labels of ``count`` images, integers as ``(N,)``; else ``None``."""
    if not isinstance(item, Tensor) or item.ndim == 0 or len(item) != count:
        return None
    if item.is_floating_point():
        return item if item.ndim == 2 and bool(((item >= 0) & (item <= 1)).all()) else None
    flat = item.reshape(count, -1)
    if item.dtype == torch.bool or flat.shape[1] != 1 or bool((flat < 0).any()):
        return None
    return flat[:, 0]


def _describe_batch(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return "a dict with " + ", ".join(repr(k) for k in batch)
    if isinstance(batch, tuple | list):
        items = [tuple(i.shape) if isinstance(i, Tensor) else type(i).__name__ for i in batch]
        return f"a {type(batch).__name__} of " + ", ".join(map(str, items))
    return f"a {type(batch).__name__}"


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
    if isinstance(classes, list | tuple) and all(isinstance(name, str) for name in classes):
        known["class_names"] = classes
    transforms = (getattr(dataset, name, None) for name in ("transform", "transforms"))
    found = next(filter(None, (find_normalisation(t, channels) for t in transforms)), None)
    if found is not None and [len(values) for values in found] == [channels, channels]:
        known["mean"], known["std"] = found
    return known
