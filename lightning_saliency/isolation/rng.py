"""Random streams, which are given back in the state in which they were found."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset


@contextmanager
def random_streams_kept(seed: int | None = None) -> Iterator[None]:
    """Restore the random states of torch, its devices, numpy and python at the end of the block.

    Args:
        seed: The seed of all these streams inside the block; ``None`` lets them continue from where
            they are. A GPU that has not been used yet is not initialised, and will later start from
            the seed that the run was given.
    """
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    # Reading the state of a GPU that has not been used yet would initialise it.
    cuda = torch.cuda.get_rng_state_all() if _cuda_in_use() else None
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        if seed is not None:
            _seed(seed)
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numpy)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def _seed(seed: int) -> None:
    # Avoid `torch.manual_seed`: before CUDA is used, it also sets the seed that CUDA will start
    # from, and there is no public way to restore the previous one.
    torch.default_generator.manual_seed(seed)
    if _cuda_in_use():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


@contextmanager
def own_streams_kept(*owners: Any) -> Iterator[None]:
    """Restore the random generators that a dataset owns, which global states do not include.

    Generators of numpy, python and torch are found if they are attributes of ``owners``, of the
    dataset of which an owner is a ``Subset``, or of one of their attributes, such as a transform or
    each transform in a ``Compose``. Generators that lie deeper (in a list, a closure, a worker
    process) are not found.

    Args:
        owners: Datasets, and whatever else is called to read from them.
    """
    found = {id(value): value for part in _parts(owners) for value in _attributes(part)}
    restorers = [_bind_restorer(value) for value in found.values()]
    try:
        yield
    finally:
        for restore in restorers:
            if restore is not None:
                restore()


def _parts(owners: Iterable[Any]) -> Iterator[Any]:
    """Yield each owner, the dataset that it is a subset of, and the transforms of either."""
    for owner in owners:
        yield owner
        if isinstance(owner, Subset):
            yield from _parts([owner.dataset])
        for value in _attributes(owner):
            for transform in _flattened(value) if hasattr(value, "__dict__") else []:
                yield from transform.modules() if isinstance(transform, nn.Module) else [transform]


def _attributes(part: Any) -> list[Any]:
    return list(getattr(part, "__dict__", {}).values())


def _bind_restorer(value: Any) -> Callable[[], object] | None:
    """Return a function that resets a generator to its current state; ``None`` for other values."""
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    # A `SystemRandom` has no state to restore.
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(value.setstate, value.getstate())
    return None


def _flattened(transform: Any) -> list[Any]:
    """List the transforms in a ``Compose``, however deeply nested, or the transform itself."""
    inner = getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple):
        return [leaf for t in inner for leaf in _flattened(t)]
    return [] if transform is None else [transform]
