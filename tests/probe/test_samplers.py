"""Which items a loader yields is found without iterating it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from lightning_fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_saliency import ProbeBatch
from lightning_saliency.probe.samplers import find_positions

SPLIT = [9, 4, 6]


class Counting(Sampler[int]):
    """A sampler of the user's own, which counts its passes and shuffles by that count."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self) -> Iterator[int]:
        self.passes += 1
        yield from random.Random(self.passes).sample(SPLIT, 3)


class Held(Sampler[int]):
    """A sampler that knows its items, and must not be iterated."""

    def __init__(self) -> None:
        self.indices = np.array(SPLIT)

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("iterated")


class BySize(Sampler[list[int]]):
    """A batch sampler of the user's own."""

    def __iter__(self) -> Iterator[list[int]]:
        yield from ([9, 4], [6])


class Weighted(WeightedRandomSampler):
    """Yields other items than its parent would."""

    def __iter__(self) -> Iterator[int]:
        return iter(SPLIT)


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield from SPLIT


def of_ten() -> TensorDataset:
    return TensorDataset(torch.arange(10.0).reshape(10, 1, 1, 1).repeat(1, 1, 2, 2))


ALL = list(range(10))


@pytest.mark.parametrize(
    ("how", "positions"),
    [
        pytest.param({}, ALL, id="in-order"),
        pytest.param({"shuffle": True}, ALL, id="shuffled"),
        pytest.param({"batch_size": None}, ALL, id="without-batches"),
        pytest.param({"sampler": SubsetRandomSampler(SPLIT)}, [4, 6, 9], id="subset"),
        pytest.param({"sampler": SubsetRandomSampler(torch.tensor(SPLIT))}, [4, 6, 9], id="tensor"),
        pytest.param({"sampler": SPLIT}, [4, 6, 9], id="list"),
        pytest.param({"sampler": np.array(SPLIT)}, [4, 6, 9], id="array"),
        pytest.param({"sampler": range(2, 5)}, [2, 3, 4], id="range"),
        pytest.param({"sampler": SequentialSampler(range(3))}, [0, 1, 2], id="the-first"),
        pytest.param({"sampler": RandomSampler(range(3))}, [0, 1, 2], id="random-of-the-first"),
        pytest.param(
            {"sampler": WeightedRandomSampler([0, 1, 0.5, 0, 0], 9)}, [1, 2], id="weighted"
        ),
        pytest.param({"sampler": Weighted([1] * 5, 9)}, [4, 6, 9], id="overridden"),
        pytest.param({"sampler": DistributedSampler(range(7), 2, 0)}, list(range(7)), id="rank"),
        pytest.param(
            {"sampler": DistributedSamplerWrapper(SubsetRandomSampler(SPLIT), 2, 1)},
            [4, 6, 9],
            id="subset-of-a-rank",
        ),
        pytest.param({"sampler": Held()}, [4, 6, 9], id="own-with-indices"),
        pytest.param({"sampler": Counting()}, [4, 6, 9], id="own"),
        pytest.param({"sampler": Endless()}, [4, 6, 9], id="endless"),
        pytest.param({"batch_sampler": [[9, 4], [6]]}, [4, 6, 9], id="list-of-batches"),
        pytest.param({"batch_sampler": BySize()}, [4, 6, 9], id="own-batches"),
        pytest.param(
            {"batch_sampler": BatchSampler(SubsetRandomSampler(SPLIT), 2, False)},
            [4, 6, 9],
            id="batches-of-a-subset",
        ),
    ],
)
def test_positions(how: dict[str, Any], positions: list[int]):
    loader = DataLoader(of_ten(), **how)
    streams = torch.get_rng_state(), random.getstate()
    held = {**vars(loader.sampler)} if hasattr(loader.sampler, "__dict__") else {}
    assert list(find_positions(loader)) == positions
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert not held or vars(loader.sampler) == held
    probe = ProbeBatch.from_dataloader(loader, 3) if how != {"batch_size": None} else None
    assert probe is None or set(probe.images[:, 0, 0, 0].tolist()) <= set(map(float, positions))


def test_positions_need_not_be_numbers():
    class Keyed:
        def __getitem__(self, key: str) -> Any:
            return torch.full((1, 2, 2), float(ord(key))), 0

    loader: Any = DataLoader(Keyed(), sampler=["b", "a"], batch_size=2)
    assert find_positions(loader) == ["b", "a"]
    assert ProbeBatch.from_dataloader(loader).images[:, 0, 0, 0].tolist() == [98, 97]
