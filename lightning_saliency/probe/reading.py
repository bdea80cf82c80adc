"""Choose items of a dataset for a probe and read them as a loader would.

A loader with workers is read through a worker of its own, started in the same way: the dataset of
this process is not touched, and whatever the workers need to read it is there. Without workers, the
items are read here, and the dataset is given back as it was; see
:func:`~lightning_saliency.isolation.dataset.dataset_kept`.
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from lightning_saliency.errors import SaliencyError, SaliencyWarning
from lightning_saliency.isolation.dataset import dataset_kept, offsets_kept
from lightning_saliency.isolation.rng import random_streams_kept, seed_streams
from lightning_saliency.probe.datasets import guess_class, list_classes
from lightning_saliency.probe.fetching import (
    SEED,
    Collate,
    Failure,
    fetch,
    fetch_in_worker,
    may_start_processes,
    raise_failures,
)
from lightning_saliency.probe.fields import list_fields
from lightning_saliency.probe.joining import Loaded
from lightning_saliency.probe.samplers import find_positions

_UNLABELLED = 8  # items chosen if their labels cannot be found
_READ_PER_IMAGE = 8  # items read to find the classes, for each image of the probe
_MOST_READ = 256  # items read to find the classes, however many images the probe has
_MOST_FAILURES = 8  # failures before the first success, after which reading is given up
_SLOW = 2.0  # seconds
_MANY = 64  # images of a probe beyond which somebody may have expected fewer


@dataclass(frozen=True)
class Reader:
    """Reads items of a map-style dataset in batches.

    Attributes:
        dataset: The dataset.
        collate_fn: Combines items into a batch.
        batch_size: The number of items in a batch; ``None`` for all in one.
        positions: The items to choose from; ``None`` for all.
        batched: Whether ``collate_fn`` takes a list of items; else each item is a batch already.
        loader: The loader whose workers read the dataset, if it has any.
        announce: Called once with a message if reading takes longer than two seconds.

    Raises:
        TypeError: The dataset can only be iterated.
    """

    dataset: Any
    collate_fn: Collate = default_collate
    batch_size: int | None = None
    positions: Sequence[Any] | None = None
    batched: bool = True
    loader: DataLoader[Any] | None = None
    announce: Callable[[str], None] | None = None
    _announced: list[None] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.dataset, IterableDataset) or not hasattr(self.dataset, "__getitem__"):
            raise TypeError(
                f"a probe cannot be chosen from {_name(self.dataset)}, which is iterable only. "
                "Pass `probe=ProbeBatch.from_batch(next(iter(loader)))` with a loader of it, or "
                "`probe=ProbeBatch(images, labels)` with images of your choice."
            )

    @classmethod
    def for_loader(
        cls,
        loader: DataLoader[Any],
        *,
        collate_fn: Collate | None = None,
        announce: Callable[[str], None] | None = None,
    ) -> Reader:
        """Build a reader of the items that ``loader`` yields, in batches like its own.

        Raises:
            TypeError: ``loader`` is not a ``DataLoader``, or its dataset can only be iterated.
        """
        if not hasattr(loader, "dataset") or not hasattr(loader, "batch_sampler"):
            raise TypeError(
                f"`loader` must be a DataLoader, got {type(loader).__name__}. Pass one loader, or "
                "make the probe of one of its batches: `ProbeBatch.from_batch(next(iter(loader)))`."
            )
        batched = loader.batch_sampler is not None
        size = getattr(loader.batch_sampler, "batch_size", None)
        with random_streams_kept(SEED):
            positions = find_positions(loader)
        return cls(
            loader.dataset,
            collate_fn or loader.collate_fn,
            loader.batch_size or (size if isinstance(size, int) else None),
            positions,
            batched=batched,
            loader=loader if loader.num_workers > 0 and may_start_processes() else None,
            announce=announce,
        )

    def read(
        self, per_class: int, count: int | None = None, indices: Sequence[int] | None = None
    ) -> list[Loaded]:
        """Choose items, as :meth:`choose` does, and collate them into batches.

        Args:
            per_class: How many items of each class to take.
            count: The maximum in total.
            indices: The items to take instead.

        Raises:
            SaliencyError: There are no items.
            ValueError: An index is out of range, or there is none.
        """
        with random_streams_kept(SEED):
            if indices is None:
                indices = self.choose(per_class, count)
            else:
                _check_indices(indices, self.dataset)
            # The items that were read to find the classes may have drawn random numbers.
            seed_streams(SEED)
            return self._collate(list(indices))

    def choose(self, per_class: int, count: int | None = None) -> list[Any]:
        """Choose the first ``per_class`` items of each class, at most ``count`` in total.

        Without labels, choose the first ``count`` items, or the first eight. If the dataset does
        not list its labels, they are read from items spread evenly over it, and items that cannot
        be read are skipped.

        Returns:
            The positions of the items, sorted by class.

        Raises:
            SaliencyError: There are no items.
        """
        positions = self._all_positions()
        if not positions:
            raise SaliencyError(
                f"{_name(self.dataset)} is empty, so there is nothing to explain. Is the path, or "
                "the split, the right one?"
            )
        labels = self._find_labels(positions, count) if self.batched else {}
        # A negative label, such as -1 or -100, marks an item without a label.
        labels = {position: label for position, label in labels.items() if label >= 0}
        if not labels:
            return list(positions[: count or _UNLABELLED])
        by_class: defaultdict[int, list[Any]] = defaultdict(list)
        for position, label in labels.items():
            if len(by_class[label]) < per_class:
                by_class[label].append(position)
        # Take the first item of every class before the second of any, so that `count` cuts evenly.
        rounds = (by_class[c][r : r + 1] for r in range(per_class) for c in sorted(by_class))
        chosen = list(islice((position for found in rounds for position in found), count))
        return sorted(chosen, key=lambda position: labels[position])

    def _all_positions(self) -> Sequence[Any]:
        if self.positions is not None:
            return self.positions
        try:
            return range(len(self.dataset))
        except TypeError as error:
            raise TypeError(
                f"a probe cannot be chosen from {_name(self.dataset)}, which has no length. Pass "
                "`indices=[…]`, or `probe=ProbeBatch(images, labels)` with images of your choice."
            ) from error

    def _find_labels(self, positions: Sequence[Any], count: int | None) -> dict[Any, int]:
        """Find the class of items, in their order; empty if labels cannot be found."""
        listed = list_classes(self.dataset)
        if listed is not None:
            return {p: listed[p] for p in positions if isinstance(p, int) and p < len(listed)}
        limit = _MOST_READ if count is None else min(_MOST_READ, _READ_PER_IMAGE * count)
        order = _spread(len(positions), limit)
        with closing(self._results([[positions[i]] for i in order], _guess_first_class)) as results:
            found = _gather_classes(results, count)
        in_order = sorted((order[number], label) for number, label in found.items())
        return {positions[i]: label for i, label in in_order}

    def _collate(self, positions: list[Any]) -> list[Loaded]:
        """Collate items in batches of the loader's size, or one by one if their sizes differ."""
        if not self.batched:
            return [
                Loaded(batch) for batch in raise_failures(self._results(positions, self.collate_fn))
            ]
        size = self.batch_size or len(positions)
        plan = [positions[i : i + size] for i in range(0, len(positions), size)]
        try:
            return self._load(plan)
        except Exception:
            if all(len(batch) == 1 for batch in plan):
                raise
        # A loader of batches of equal sizes never sees these items together.
        return self._load([[position] for position in positions])

    def _load(self, plan: list[list[Any]]) -> list[Loaded]:
        batches = raise_failures(self._results(plan, partial(_collate_items, self.collate_fn)))
        return [Loaded(batch, items) for batch, items in zip(batches, plan, strict=True)]

    def _results(self, plan: list[Any], collate: Collate) -> Generator[Any]:
        """Yield what ``collate`` makes of each batch of ``plan``, or the error that it ended in."""
        start = time.monotonic()
        with self._kept(), closing(self._stream(plan, collate)) as stream:
            for result in stream:
                yield result
                if time.monotonic() - start > _SLOW:
                    self._announce_slow_reading(len(plan))

    @contextmanager
    def _kept(self) -> Iterator[None]:
        owners = self.dataset, self.collate_fn
        if self.loader is not None:
            with offsets_kept(*owners):
                yield
            return
        with dataset_kept(*owners) as moved:
            yield
        for iterator in moved:
            warnings.warn(
                f"reading a probe from {_name(self.dataset)} moved its {iterator}, which cannot be "
                "set back: training continues from its next item. Pass "
                "`probe=ProbeBatch(images, labels)` instead.",
                SaliencyWarning,
                stacklevel=4,
            )

    def _stream(self, plan: list[Any], collate: Collate) -> Generator[Any]:
        if self.loader is not None:
            yield from fetch_in_worker(self.loader, plan, collate, batched=self.batched)
            return
        for positions in plan:
            try:
                yield collate(fetch(self.dataset, positions, batched=self.batched))
            except Exception as error:
                yield Failure(error)

    def _announce_slow_reading(self, count: int) -> None:
        if self.announce is not None and not self._announced:
            self._announced.append(None)
            self.announce(
                f"Choosing the images to explain takes a while: up to {count} items or batches of "
                f"{_name(self.dataset)} are read one after the other. It takes less if the dataset "
                "lists its labels in `targets`, and no time with a `probe` that is passed."
            )


def _guess_first_class(items: list[Any]) -> int | None:
    return guess_class(items[0])


def _gather_classes(results: Iterable[Any], enough: int | None) -> dict[int, int]:
    """Gather the classes of items until ``enough`` are found; empty if an item has none.

    Args:
        results: The class of each item, or how reading it failed.
        enough: The number of different classes after which no more items are read.

    Returns:
        The class by the number of the item.
    """
    labels: dict[int, int] = {}
    failures = 0
    for number, label in enumerate(results):
        if isinstance(label, Failure):
            failures += 1
            if failures == _MOST_FAILURES and not labels:
                raise label.error
            continue
        if label is None:
            return {}
        labels[number] = label
        if len(set(labels.values())) == enough:
            break
    return labels


def _spread(length: int, limit: int) -> list[int]:
    """Spread ``limit`` numbers evenly over ``range(length)``, in an order that refines the spread.

    The first few of them are spread over the whole range as well: the dataset may be sorted by
    class, and reading ends as soon as enough classes are found.
    """
    if length <= limit:
        steps = list(range(length))
    else:
        steps = sorted({round(i * (length - 1) / (limit - 1)) for i in range(limit)})
    # Counting with reversed bits visits the halves, then the quarters, and so on.
    return [steps[i] for i in sorted(range(len(steps)), key=lambda i: f"{i:016b}"[::-1])]


def _check_indices(indices: Sequence[int], dataset: Any) -> None:
    if len(indices) == 0:
        raise ValueError(
            "`indices` must hold at least one position, got none. Without `indices`, items are "
            "chosen by class."
        )
    if not hasattr(dataset, "__len__"):
        return
    length = len(dataset)
    for index in indices:
        if not 0 <= index < length:
            raise ValueError(
                f"`indices` must lie between 0 and {length - 1}, got {index}. They are positions "
                "in the dataset, not classes."
            )


def _name(dataset: Dataset[Any]) -> str:
    return type(dataset).__name__


def _collate_items(collate_fn: Collate, items: list[Any]) -> Any:
    """Call a ``collate_fn``; if it fails because items hold photos, say what to do.

    Raises:
        SaliencyError: The items hold PIL images, which ``default_collate`` refuses.
    """
    try:
        return collate_fn(items)
    except TypeError as error:
        photos = [f for f in list_fields(items[0]) if isinstance(f.value, Image.Image)]
        if not photos:
            raise
        path = photos[0].path.replace("batch", "item", 1)
        raise SaliencyError(
            f"the items of the dataset hold PIL images ({path}), which cannot be collated into a "
            "batch. End the transform of the dataset with `transforms.ToTensor()`, or pass the "
            "`collate_fn` of the loader to `ProbeBatch.from_dataset`."
        ) from error


def warn_of_many(count: int) -> None:
    """Warn if so many images were chosen that nobody may have meant it."""
    if count > _MANY:
        warnings.warn(
            f"the probe has {count} images, one or more for each class. Every observation explains "
            "all of them. Pass `count=` for fewer, spread over the classes, such as `count=16`; "
            f"with `count={count}` nothing is said.",
            SaliencyWarning,
            stacklevel=3,  # the call of `ProbeBatch.from_dataset`
        )
