"""Fetch batches of items of a dataset, in this process or in a worker like those of a loader."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_saliency.isolation.rng import seed_streams

# Random transforms are seeded with this, so that the same data give the same probe in every run.
SEED = 0

Collate = Callable[[Any], Any]


@dataclass(frozen=True)
class Failure:
    """Stands for a batch that could not be read."""

    error: Exception


def raise_failures(results: Generator[Any]) -> Generator[Any]:
    """Yield results, and raise the error of the first batch that could not be read."""
    with closing(results):
        for result in results:
            if isinstance(result, Failure):
                raise result.error
            yield result


def fetch(dataset: Any, positions: Any, *, batched: bool) -> Any:
    """Read items as a ``DataLoader`` does.

    Args:
        dataset: A map-style dataset.
        positions: Those of the items of a batch; or one position, if an item is a batch already.
        batched: Whether ``positions`` are several.
    """
    if not batched:
        return dataset[positions]
    if callable(getattr(dataset, "__getitems__", None)):
        return dataset.__getitems__(positions)
    return [dataset[position] for position in positions]


def fetch_in_worker(
    loader: DataLoader[Any], plan: list[Any], collate: Collate, *, batched: bool
) -> Generator[Any]:
    """Read the batches of ``plan`` in one worker, which is started as those of ``loader`` are.

    Args:
        loader: The loader, which is not iterated.
        plan: The positions of the items of each batch.
        collate: Combines the items of a batch.
        batched: Whether an entry of ``plan`` is several positions; else it is one.

    Yields:
        What ``collate`` returns for each batch, or a :class:`Failure`.
    """
    how = {"batch_sampler": plan} if batched else {"batch_size": None, "sampler": plan}
    iterator = iter(
        DataLoader(
            loader.dataset,
            **how,
            num_workers=1,
            collate_fn=collate,
            timeout=loader.timeout,
            worker_init_fn=partial(_start_worker, loader.worker_init_fn),
            multiprocessing_context=loader.multiprocessing_context,
            generator=torch.Generator().manual_seed(SEED),
        )
    )
    for _ in plan:
        try:
            yield next(iterator)
        except StopIteration:
            return
        except Exception as error:
            yield Failure(error)
            if "exited unexpectedly" in str(error):
                return  # The worker is gone, and with it the rest of the plan.


def _start_worker(init: Callable[[int], object] | None, worker: int) -> None:
    """Start a worker with the same random numbers as without one, whatever ``init`` seeds."""
    if init is not None:
        init(worker)
    seed_streams(SEED)


def may_start_processes() -> bool:
    """Return whether this process may have children.

    Workers may not, nor may a script that a spawned process is still importing.
    """
    process = multiprocessing.current_process()
    return not (process.daemon or getattr(process, "_inheriting", False))
