"""Random streams, which are given back in the state in which they were found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


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
            seed_streams(seed)
        yield
    finally:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numpy)
        if cuda is not None:
            torch.cuda.set_rng_state_all(cuda)
        if mps is not None:
            torch.mps.set_rng_state(mps)


def seed_streams(seed: int) -> None:
    """Seed torch, its devices that are in use, numpy and python."""
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
