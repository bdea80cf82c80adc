"""Join the batches that a probe was read in, and pass them through the hooks of a trainer."""

from __future__ import annotations

import copy
import io
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.errors import SaliencyError, SaliencyWarning
from lightning_saliency.probe.datasets import (
    describe_dataset,
    list_targets,
    renumbers,
    trace_positions,
)
from lightning_saliency.probe.fields import Field
from lightning_saliency.probe.items import FoundLabels, find_images, find_labels
from lightning_saliency.probe.labels import read_labels


@dataclass(frozen=True, slots=True)
class Loaded:
    """A batch that was read.

    Attributes:
        batch: As a loader yields it, or as the batch hooks return it.
        positions: The positions of its items in their dataset; ``None`` if they are not known.
    """

    batch: Any
    positions: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class Joined:
    """What batches make a probe of.

    Attributes:
        images: ``(N, C, H, W)``.
        arguments: The other arguments of ``ProbeBatch``.
        labels_found_in: Where the labels were found, for messages; empty if they were passed.
        batches: The batches whose images were taken.
    """

    images: Tensor
    arguments: dict[str, Any]
    labels_found_in: str
    batches: tuple[Any, ...]


def join_batches(
    loaded: Sequence[Loaded],
    dataset: Any = None,
    known: dict[str, Any] | None = None,
    most: int | None = None,
) -> Joined:
    """Find the images and labels of batches; of images of several sizes, the most common ones.

    Args:
        loaded: The batches.
        dataset: Where to look up class names and normalisation that are not known. What it lists
            as the targets of its items decides which field holds the labels.
        known: Arguments of ``ProbeBatch``. ``labels`` replace those of the batches.
        most: How many images to take at most.

    Raises:
        SaliencyError: A batch holds no images, or several fields can be the labels.

    Warns:
        SaliencyWarning: The images have several sizes.
    """
    known = dict(known or {})
    fields = find_images([each.batch for each in loaded])
    kept = _find_common_size(fields)
    loaded, fields = [loaded[i] for i in kept], [fields[i] for i in kept]
    images = torch.cat([field.value for field in fields])
    if "labels" in known:
        found = FoundLabels(known["labels"])
    else:
        found = _find_labels(loaded, fields, dataset)
        known["labels"] = None if found.labels is None else found.labels[:most]
    images = images[:most]
    described = {} if dataset is None else describe_dataset(dataset, images.shape[1])
    if "class_names" in described and not _may_be_named(
        known["labels"], len(images), described["class_names"], relabelled=found.relabelled
    ):
        del described["class_names"]
    batches = tuple(each.batch for each in loaded)
    return Joined(images, {**described, **known}, found.where, batches)


def _find_common_size(fields: Sequence[Field]) -> list[int]:
    """Return the numbers of the batches with images of the most common size; warn of others."""
    sizes: Counter[tuple[int, ...]] = Counter()
    for field in fields:
        sizes[tuple(field.value.shape[1:])] += len(field.value)
    (size, count), *others = sizes.most_common()
    if others:
        warnings.warn(
            f"the images have several sizes, and a probe holds images of one: it has the {count} "
            f"of {sum(sizes.values())} that are {size}. To explain others, choose them by "
            "`ProbeBatch.from_dataset(dataset, indices=[…])`, or pass a `collate_fn` that resizes.",
            SaliencyWarning,
            stacklevel=5,  # the call of `ProbeBatch.from_dataset`
        )
    return [i for i, field in enumerate(fields) if tuple(field.value.shape[1:]) == size]


def _find_labels(loaded: Sequence[Loaded], images: Sequence[Field], dataset: Any) -> FoundLabels:
    """Find the labels of batches whose images are known, as the targets of the dataset decide."""
    batches, positions = [each.batch for each in loaded], _join_positions(loaded, images)
    if dataset is None or positions is None:
        return find_labels(batches, images)
    return find_labels(
        batches,
        images,
        list_targets(dataset, positions),
        trace_positions(dataset, positions),
        renumbered=renumbers(dataset),
    )


def _join_positions(loaded: Sequence[Loaded], images: Sequence[Field]) -> list[int] | None:
    """Return the positions of all items, if they are known and each item became one image."""
    joined: list[int] = []
    for each, field in zip(loaded, images, strict=True):
        if each.positions is None or len(each.positions) != len(field.value):
            return None
        joined += each.positions
    return joined if all(isinstance(position, int) for position in joined) else None


def _may_be_named(labels: Any, count: int, names: Sequence[str], *, relabelled: bool) -> bool:
    """Return whether the class names of the dataset can belong to the labels."""
    if labels is None or not names:
        return True
    read = read_labels(labels, count)
    classes = read.shape[1] if read.ndim == 2 else int(read.max()) + 1
    return not relabelled and classes <= len(names)


def transfer_images(batches: Sequence[Any], transfer: Callable[[Any], Any], count: int) -> Tensor:
    """Pass copies of batches through ``transfer``, and join the first ``count`` of their images.

    Raises:
        SaliencyError: They hold fewer images of one size, or a batch was left out; see
            :func:`leave_out_unpicklable`.
    """
    lost = next((batch for batch in batches if isinstance(batch, _LeftOut)), None)
    if lost is not None:
        raise SaliencyError(
            "the images of the probe cannot pass the batch hooks in this process, because their "
            f"batches cannot be pickled: {lost.reason}. Pass `probe=ProbeBatch(images, labels)` "
            "with images as the model takes them."
        )
    fields = find_images([transfer(_copy_batch(batch)) for batch in batches])
    images = torch.cat([fields[i].value for i in _find_common_size(fields)])[:count]
    if len(images) != count:
        raise SaliencyError(
            f"the hooks that pass batches on made {len(images)} images of one size of the "
            f"probe's {count}. Pass `probe=ProbeBatch(images, labels)` with images as the "
            "model takes them."
        )
    return images


def _copy_batch(batch: Any) -> Any:
    """Copy a batch, because hooks may write to it; or return it, if it cannot be copied."""
    with suppress(Exception):
        return copy.deepcopy(batch)
    return batch


@dataclass(frozen=True, slots=True)
class _LeftOut:
    """Stands for a batch that cannot be pickled, so that its loss is noticed."""

    reason: str


def leave_out_unpicklable(batches: Sequence[Any]) -> tuple[Any, ...]:
    """Return batches for another process, which is told which of them it did not get."""
    sent: list[Any] = []
    for batch in batches:
        try:
            # Unlike the pickler of a spawned process, this moves no tensor to shared memory.
            torch.save(batch, io.BytesIO())
            sent.append(batch)
        except Exception as error:
            sent.append(_LeftOut(f"{type(error).__name__}: {error}"))
    return tuple(sent)
