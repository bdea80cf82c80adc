"""Which items of a dataset become a probe, however the dataset stores its labels."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from matrix import Shapes
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate
from torchvision.transforms import v2
from training import fit

from lightning_saliency import ProbeBatch, SaliencyCallback
from lightning_saliency.probe.reading import Reader


class Column:
    """A table column as in pandas: items are found by index label, and numpy sees an array."""

    def __init__(self, values: list[Any]) -> None:
        self.values, self.dtype = np.array(values), np.array(values).dtype

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return self.values if dtype is None else self.values.astype(dtype)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: int) -> Any:
        return dict(zip(range(100, 106), self.values, strict=True))[key]


class Kept(Dataset[Any]):
    """Six images, two per class, with ``kept`` as ``targets`` and ``labels`` in the items."""

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
        pytest.param([True, False] * 3, [1, 0], id="yes-and-no"),
        pytest.param(np.array([0.0, 1.0] * 3), [0, 1], id="yes-and-no-of-a-bce"),
        pytest.param(torch.zeros(6, 3), FIRST, id="several-labels"),
        pytest.param({"a": 1}, FIRST, id="dict"),
        pytest.param([1, 2], FIRST, id="too-few"),
        pytest.param(7, FIRST, id="one-number"),
    ],
)
def test_listed_labels(kept: Any, chosen: list[int]):
    assert Reader(Kept(kept)).choose(1, 3) == chosen
    assert Reader(Subset(Kept(kept), torch.arange(6))).choose(1, 3) == chosen


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
    assert Reader(Kept(None, labels)).choose(1, 3) == SPREAD
    assert ProbeBatch.from_dataset(Kept(None, labels)).labels.tolist() == [0, 1, 2]


def test_labels_of_a_tensor_dataset():
    images = torch.rand(6, 1, 2, 2)
    assert Reader(TensorDataset(images, torch.tensor(LABELS))).choose(1) == SPREAD
    assert Reader(TensorDataset(images, torch.rand(6))).choose(1, 3) == FIRST


class Jittered:
    """A transform with a generator of its own as an attribute."""

    def __init__(self) -> None:
        self.stream = torch.Generator().manual_seed(3)

    def __call__(self, image: Tensor) -> Tensor:
        return image + torch.rand(image.shape, generator=self.stream)


class JitteredModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stream = np.random.RandomState(3)

    def forward(self, image: Tensor) -> Tensor:
        return image + self.stream.rand()


class Augmented(Dataset[Any]):
    """A dataset that draws from every kind of generator that it can own."""

    def __init__(self) -> None:
        self.numpy, self.python = np.random.default_rng(3), random.Random(3)
        self.torch, self.system = torch.Generator().manual_seed(3), random.SystemRandom()
        self.augment = Jittered()
        self.transform = v2.Compose([Jittered(), nn.Sequential(JitteredModule())])

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.full((1, 2, 2), self.numpy.random() + self.python.random())
        image = image + torch.rand((), generator=self.torch) + self.system.random()
        return self.transform(self.augment(image)), LABELS[index]

    def streams(self) -> list[str]:
        jittered, (module,) = self.transform.transforms
        of_torch = (self.torch, self.augment.stream, jittered.stream)
        others = (self.numpy.bit_generator.state, self.python.getstate(), module.stream.get_state())
        return [str(s.get_state().tolist()) for s in of_torch] + [str(state) for state in others]


class Mixing:
    """A ``collate_fn`` that draws random numbers."""

    def __init__(self) -> None:
        self.stream = np.random.default_rng(3)

    def __call__(self, items: list[Any]) -> Any:
        images, labels = default_collate(items)
        return images * self.stream.random(), labels


@pytest.mark.parametrize("within", [False, True], ids=["itself", "subset-of-a-subset"])
def test_a_dataset_s_own_generators_are_left_as_they_were(within: bool):
    data, mixing = Augmented(), Mixing()
    before, mixed = data.streams(), mixing.stream.bit_generator.state
    nested = Subset(Subset(data, range(6)), range(4)) if within else data
    ProbeBatch.from_dataset(nested, collate_fn=mixing)
    assert data.streams() == before
    assert mixing.stream.bit_generator.state == mixed


def test_a_dataset_s_own_generators_are_restored_after_an_error():
    data = Augmented()
    before = data.streams()
    with pytest.raises(IndexError):
        ProbeBatch.from_dataset(data, collate_fn=lambda items: items[99])
    assert data.streams() == before


def test_a_callback_leaves_a_dataset_s_own_generators_as_they_were(tmp_path: Any):
    class Owning(Shapes):
        def __init__(self) -> None:
            super().__init__(16, augment=False)
            self.stream = np.random.default_rng(3)

        def __getitem__(self, index: int) -> Any:
            image, label = super().__getitem__(index)
            return image + self.stream.random(), label

    ends = []
    for callbacks in ([], [SaliencyCallback(targets="predicted", tile_size=24)]):
        data = Owning()
        fit(tmp_path / str(len(callbacks)), *callbacks, val=DataLoader(data, 8), max_epochs=1)
        ends.append(data.stream.bit_generator.state)
    assert ends[0] == ends[1]
