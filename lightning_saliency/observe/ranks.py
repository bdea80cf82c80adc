"""The processes of a distributed run: the probe shared out, results and failures brought together.

Every rank makes the same number of passes, because under a sharded strategy each pass is a
conversation between all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_saliency.errors import SaliencyError

_SHARDED = frozenset({"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"})


class Strategy(Protocol):
    """What is relied on of a strategy of Lightning."""

    def all_gather(self, tensor: Tensor) -> Any:
        """The tensors of all processes, stacked."""

    def broadcast(self, obj: Any) -> Any:
        """What rank 0 passed."""

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        """Whether ``decision`` is true on all processes."""


class Ranks:
    """The processes of a run; without a strategy, this one alone.

    Attributes:
        world: Number of processes.
        rank: The number of this one.
        sharded: Whether a forward pass needs all of them, because each holds a part of the model.
    """

    def __init__(self, strategy: Strategy | None = None, world: int = 1, rank: int = 0) -> None:
        self._strategy: Any = strategy
        self.world, self.rank = world, rank
        names = {c.__name__ for c in type(strategy).__mro__}
        self.sharded = world > 1 and bool(names & _SHARDED)

    def shard(self, tensor: Tensor) -> Tensor:
        """The rows of ``tensor`` for this rank: equally many on each, the last row repeated."""
        if self.world == 1:
            return tensor
        each = -(-len(tensor) // self.world)
        rows = torch.arange(self.rank * each, (self.rank + 1) * each).clamp(max=len(tensor) - 1)
        return tensor[rows]

    def gather(self, shard: Tensor, count: int) -> Tensor:
        """The ``count`` rows of which each rank holds a shard."""
        if self.world == 1:
            return shard
        gathered: Tensor = self._strategy.all_gather(shard)
        return gathered.flatten(0, 1)[:count]

    def broadcast(self, value: Any) -> Any:
        """What rank 0 passed; of tensors and primitives."""
        return value if self.world == 1 else self._strategy.broadcast(value)

    @contextmanager
    def synchronized(self, doing: str) -> Iterator[None]:
        """Make a failure of one rank in the block a failure of all, so that none waits for it.

        Raises:
            SaliencyError: On the ranks on which nothing failed, if another's block did.
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
            raise SaliencyError(f"another process failed while {doing}; its log says why.")
