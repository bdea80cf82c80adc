"""The processes of a distributed run: they divide the probe and share results and failures.

Every rank makes the same number of passes, because all of them take part in each pass under a
sharded strategy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_saliency.errors import SaliencyError

_SHARDED = frozenset({"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"})


class OtherRankError(SaliencyError):
    """Another rank failed, and this one did not."""


class Strategy(Protocol):
    """The part of a Lightning strategy that is used here."""

    def all_gather(self, tensor: Tensor) -> Any:
        """Stack the tensors of all processes."""

    def broadcast(self, obj: Any) -> Any:
        """Return what rank 0 passed."""

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Return whether ``decision`` is true on all processes, or on any of them."""


class Ranks:
    """The processes of a run; without a strategy, this process alone.

    Attributes:
        world: The number of processes.
        rank: The index of this process.
        sharded: Whether a forward pass needs all processes, because each holds part of the model.
    """

    def __init__(self, strategy: Strategy | None = None, world: int = 1, rank: int = 0) -> None:
        self._strategy: Any = strategy
        self.world, self.rank = world, rank
        names = {c.__name__ for c in type(strategy).__mro__}
        self.sharded = world > 1 and bool(names & _SHARDED)

    def shard(self, tensor: Tensor) -> Tensor:
        """Pick the rows of this rank: equally many on each, the last row repeated if needed."""
        if self.world == 1:
            return tensor
        each = -(-len(tensor) // self.world)
        rows = torch.arange(self.rank * each, (self.rank + 1) * each).clamp(max=len(tensor) - 1)
        return tensor[rows]

    def gather(self, shard: Tensor, count: int) -> Tensor:
        """Join the shards of all ranks to the ``count`` rows that they were picked from."""
        if self.world == 1:
            return shard
        gathered: Tensor = self._strategy.all_gather(shard)
        return gathered.flatten(0, 1)[:count]

    def broadcast(self, value: Any) -> Any:
        """Return what rank 0 passed; tensors and primitives only."""
        return value if self.world == 1 else self._strategy.broadcast(value)

    def any(self, decision: bool) -> bool:
        """Whether ``decision`` is true on at least one rank."""
        if self.world == 1:
            return decision
        return bool(self._strategy.reduce_boolean_decision(decision, all=False))

    @contextmanager
    def synchronized(self, doing: str) -> Iterator[None]:
        """Make a failure of one rank in the block a failure of all, so that no rank waits for it.

        Raises:
            OtherRankError: Another rank failed, and this one did not.
        """
        if self.world == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        fine = self._strategy.reduce_boolean_decision(failure is None, all=True)
        if failure is not None:
            raise failure
        if not fine:
            raise OtherRankError(f"another process failed while {doing}; its log says why.")
