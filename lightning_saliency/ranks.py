"""The processes of a distributed run: the probe shared out, results and failures brought together.

Every rank makes the same number of passes, because under a sharded strategy each pass is a
conversation between all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.errors import SaliencyError

_SHARDED = frozenset({"FSDPStrategy", "ModelParallelStrategy", "DeepSpeedStrategy"})


class Ranks:
    """What a strategy of Lightning says of its processes; one process is a world of its own.

    Attributes:
        world: Number of processes.
        rank: The number of this one.
        sharded: Whether a forward pass needs all of them, because each holds a part of the model.
    """

    def __init__(self, trainer: Any) -> None:
        self._strategy = trainer.strategy
        self.world, self.rank = int(trainer.world_size), int(trainer.global_rank)
        names = {c.__name__ for c in type(self._strategy).__mro__}
        self.sharded = self.world > 1 and bool(names & _SHARDED)

    def part(self, tensor: Tensor) -> Tensor:
        """The rows of ``tensor`` for this rank: equally many on each, the last row repeated."""
        if self.world == 1:
            return tensor
        each = -(-len(tensor) // self.world)
        rows = torch.arange(self.rank * each, (self.rank + 1) * each).clamp(max=len(tensor) - 1)
        return tensor[rows]

    def whole(self, part: Tensor, count: int) -> Tensor:
        """The ``count`` rows of which each rank holds a part."""
        if self.world == 1:
            return part
        gathered: Tensor = self._strategy.all_gather(part)
        return gathered.flatten(0, 1)[:count]

    def of_first(self, value: Any) -> Any:
        """What rank 0 passed; of tensors and primitives."""
        return value if self.world == 1 else self._strategy.broadcast(value)

    @contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """Make a failure of one rank in the block a failure of all, so that none waits for it.

        Raises:
            SaliencyError: On the ranks on which nothing failed, when another's block did.
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
