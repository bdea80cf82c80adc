"""Which items of its dataset a loader yields, found without iterating the loader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    WeightedRandomSampler,
)

from lightning_saliency.isolation.dataset import dataset_kept

_MOST_ITERATED = 4096  # items taken from a sampler of an unknown kind, which may be endless


def find_positions(loader: Any) -> Sequence[Any] | None:
    """Find the positions in the dataset of the items that ``loader`` yields.

    A split may be made by samplers: the loaders of both parts then have the same dataset. Samplers
    of torch and Lightning are not iterated. A sampler of another class is, unless it has
    ``indices``; what iterating it changes is restored.

    Returns:
        The positions, sorted if they are numbers; ``None`` if the loader has no sampler.
    """
    sampler = getattr(loader, "batch_sampler", None)
    found = _list_positions(getattr(loader, "sampler", None) if sampler is None else sampler)
    if found is None or isinstance(found, range):
        return found
    unique = list(dict.fromkeys(found))
    return sorted(unique) if all(isinstance(position, int) for position in unique) else unique


def _list_positions(sampler: Any) -> Sequence[Any] | None:
    """List the positions that a sampler or batch sampler may yield; ``None`` for no sampler."""
    if sampler is None:
        return None
    if isinstance(sampler, list | tuple | range | np.ndarray | Tensor):
        return list(_flattened(sampler.tolist() if hasattr(sampler, "tolist") else sampler))
    if _iterates_as(sampler, SequentialSampler, RandomSampler):
        return range(len(sampler.data_source))
    if _iterates_as(sampler, WeightedRandomSampler):
        return [position for position, weight in enumerate(sampler.weights.tolist()) if weight > 0]
    if _iterates_as(sampler, DistributedSampler):
        # The probe is the same on every rank, so it may come from any part of the data.
        return range(len(sampler.dataset))
    if hasattr(sampler, "indices"):
        return _list_positions(list(sampler.indices))
    # Lightning wraps samplers to divide them among ranks, and batch samplers to follow them.
    wrapped = getattr(getattr(sampler, "dataset", None), "_sampler", None)
    if _iterates_as(sampler, BatchSampler):
        wrapped = sampler.sampler
    elif hasattr(sampler, "_batch_sampler"):
        wrapped = sampler._batch_sampler
    return _iterate(sampler) if wrapped is None else _list_positions(wrapped)


def _iterates_as(sampler: Any, *kinds: Any) -> bool:
    """Return whether ``sampler``, perhaps of a subclass, yields what one of ``kinds`` yields."""
    iterate = getattr(type(sampler), "__iter__", None)
    return any(iterate is kind.__iter__ for kind in kinds)


def _iterate(sampler: Any) -> list[Any]:
    with dataset_kept(sampler):
        return list(islice(_flattened(sampler), _MOST_ITERATED))


def _flattened(positions: Any) -> Iterator[Any]:
    """Yield the positions of a sampler, or of the batches of a batch sampler."""
    for each in positions:
        if isinstance(each, list):
            yield from each
        else:
            yield int(each) if isinstance(each, np.integer | Tensor) else each
