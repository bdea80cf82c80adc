"""The processes of a run: one alone, and several that a made-up strategy plays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency.errors import SaliencyError
from lightning_saliency.observe.ranks import Ranks


class Strategy:
    """Two other processes: one holds the shards ``others``, and ``fine`` says how it fares."""

    def __init__(self, others: list[Tensor] | None = None, *, fine: bool = True) -> None:
        self.others, self.fine = others or [], fine

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.stack([tensor, *self.others])

    def broadcast(self, obj: Any) -> Any:
        return "from rank 0"

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision and self.fine


class FSDPStrategy(Strategy):
    """Sharded, by its name."""


class Derived(FSDPStrategy):
    """Sharded, by the name of its base class."""


def test_a_process_alone_keeps_everything():
    ranks, rows = Ranks(), torch.arange(5)
    assert (ranks.world, ranks.rank, ranks.sharded) == (1, 0, False)
    assert ranks.shard(rows) is rows
    assert ranks.gather(rows, 3) is rows
    assert ranks.broadcast("mine") == "mine"
    with pytest.raises(KeyError), ranks.synchronized("explaining"):
        raise KeyError


def test_shards_are_equally_long_and_the_last_row_is_repeated():
    rows = torch.arange(5)
    shards = [Ranks(Strategy(), 3, rank).shard(rows).tolist() for rank in range(3)]
    assert shards == [[0, 1], [2, 3], [4, 4]]
    more = [Ranks(Strategy(), 3, rank).shard(rows[:1]).tolist() for rank in range(3)]
    assert more == [[0], [0], [0]]


def test_shards_are_joined_without_the_repeated_rows():
    strategy = Strategy([torch.tensor([2, 3]), torch.tensor([4, 4])])
    assert Ranks(strategy, 3, 0).gather(torch.tensor([0, 1]), 5).tolist() == [0, 1, 2, 3, 4]


def test_rank_0_speaks_for_all():
    assert Ranks(Strategy(), 2, 1).broadcast("mine") == "from rank 0"


@pytest.mark.parametrize(
    ("strategy", "world", "sharded"),
    [
        (FSDPStrategy(), 2, True),
        (Derived(), 2, True),
        (FSDPStrategy(), 1, False),
        (Strategy(), 2, False),
    ],
)
def test_a_strategy_is_sharded_by_its_name(strategy: Any, world: int, sharded: bool):
    assert Ranks(strategy, world).sharded is sharded


def test_a_failure_here_is_raised_as_it_is():
    with pytest.raises(KeyError, match="mine"), Ranks(Strategy(), 2).synchronized("explaining"):
        raise KeyError("mine")


def test_a_failure_elsewhere_is_reported():
    failing, fine = Ranks(Strategy(fine=False), 2), Ranks(Strategy(), 2)
    message = "another process failed while explaining"
    with pytest.raises(SaliencyError, match=message), failing.synchronized("explaining"):
        pass
    with fine.synchronized("explaining"):
        pass
