"""Random streams, given back in the state in which they were found."""

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
    """Give torch, its devices, numpy and python their random states back; start from ``seed``.

    Args:
        seed: Of the streams inside; ``None`` lets them go on. A GPU that was not used yet stays
            so, and will start from what the run was seeded with.
    """
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    # Asking for the state of a GPU that was never used would initialize it.
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
    # Not `torch.manual_seed`: before CUDA is used, it would set the seed that CUDA starts from.
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
    """Give random generators that a dataset owns their states back: numpy's, python's, torch's.

    Found are those that are attributes of ``owners``, of what they are a ``Subset`` of, or of an
    attribute of either, such as a transform, or each of several in a ``Compose``. What lies deeper
    (in a list, a closure, a worker process) is not found.

    Args:
        owners: Datasets, and whatever else is called to read of them.
    """
    found = {id(value): value for part in _parts(owners) for value in _attributes(part)}
    states = [_stream_of(value) for value in found.values()]
    try:
        yield
    finally:
        for give_back in states:
            if give_back is not None:
                give_back()


def _parts(owners: Iterable[Any]) -> Iterator[Any]:
    """Each of ``owners``, what it is a subset of, and the attributes of both."""
    for owner in owners:
        yield owner
        if isinstance(owner, Subset):
            yield from _parts([owner.dataset])
        for value in _attributes(owner):
            for transform in _flattened(value) if hasattr(value, "__dict__") else []:
                yield from transform.modules() if isinstance(transform, nn.Module) else [transform]


def _attributes(part: Any) -> list[Any]:
    return list(getattr(part, "__dict__", {}).values())


def _stream_of(value: Any) -> Callable[[], object] | None:
    """What sets a random generator to the state that it has now; ``None`` of all else."""
    if isinstance(value, np.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if isinstance(value, np.random.RandomState):
        return partial(value.set_state, value.get_state())
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(value.setstate, value.getstate())
    return None


def _flattened(transform: Any) -> list[Any]:
    inner = getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple):
        return [leaf for t in inner for leaf in _flattened(t)]
    return [] if transform is None else [transform]
