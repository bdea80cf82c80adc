"""Which items of a dataset become a probe, however it keeps its labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset

from lightning_saliency import ProbeBatch
from lightning_saliency.datasets import choose_items


class Column:
    """A column of a table as pandas has it: found by its index, and an array to numpy."""

    def __init__(self, values: list[Any]) -> None:
        self.values, self.dtype = np.array(values), np.array(values).dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: int) -> Any:
        return dict(zip(range(100, 106), self.values, strict=True))[key]


class Kept(Dataset[Any]):
    """Six images, two a class; ``kept`` is its ``targets``, ``labels`` those of the items."""

    def __init__(self, kept: Any, labels: Any = (0.5,) * 6) -> None:
        self.targets, self.labels_of_items = kept, labels

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return torch.full((1, 2, 2), float(index)), self.labels_of_items[index]


LABELS = [2, 2, 1, 1, 0, 0]
SPREAD, FIRST = [4, 2, 0], [0, 1, 2]


@pytest.mark.parametrize(
    ("kept", "chosen"),
    [
        pytest.param(LABELS, SPREAD, id="list"),
        pytest.param(tuple(LABELS), SPREAD, id="tuple"),
        pytest.param([np.int64(label) for label in LABELS], SPREAD, id="list-of-numpy"),
        pytest.param([torch.tensor(label) for label in LABELS], SPREAD, id="list-of-tensors"),
        pytest.param(np.array(LABELS, dtype=np.uint8), SPREAD, id="array"),
        pytest.param(np.array(LABELS, dtype=np.uint32), SPREAD, id="unsigned-array"),
        pytest.param(torch.tensor(LABELS), SPREAD, id="tensor"),
        pytest.param(Column(LABELS), SPREAD, id="column"),
        pytest.param(Column(list("ccbbaa")), FIRST, id="column-of-names"),
        pytest.param(np.array(list("ccbbaa")), FIRST, id="array-of-names"),
        pytest.param(list("ccbbaa"), FIRST, id="names"),
        pytest.param([0.7] * 6, FIRST, id="numbers"),
        pytest.param(torch.rand(6), FIRST, id="tensor-of-numbers"),
        pytest.param([[1], [1, 2], [], [1], [2], [3]], FIRST, id="lists"),
        pytest.param([1, "b", None, 2, [3], 4], FIRST, id="of-all-kinds"),
        pytest.param([True, False] * 3, FIRST, id="yes-and-no"),
        pytest.param(torch.zeros(6, 3), FIRST, id="several-labels"),
        pytest.param({"a": 1}, FIRST, id="dict"),
        pytest.param([1, 2], FIRST, id="too-few"),
        pytest.param(7, FIRST, id="one-number"),
    ],
)
def test_listed_labels(kept: Any, chosen: list[int]):
    assert choose_items(Kept(kept), 1, 3) == chosen
    assert choose_items(Subset(Kept(kept), torch.arange(6)), 1, 3) == chosen


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(LABELS, id="int"),
        pytest.param([np.int64(label) for label in LABELS], id="numpy"),
        pytest.param([np.array(label) for label in LABELS], id="numpy-arrays"),
        pytest.param([torch.tensor([label]) for label in LABELS], id="tensors"),
    ],
)
def test_labels_of_items(labels: list[Any]):
    assert choose_items(Kept(None, labels), 1, 3) == SPREAD
    assert ProbeBatch.from_dataset(Kept(None, labels)).labels.tolist() == [0, 1, 2]


def test_labels_of_a_tensor_dataset():
    images = torch.rand(6, 1, 2, 2)
    assert choose_items(TensorDataset(images, torch.tensor(LABELS)), 1) == SPREAD
    assert choose_items(TensorDataset(images, torch.rand(6)), 1, 3) == FIRST
