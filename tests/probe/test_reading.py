"""Probes are read as a loader reads, and leave no trace in the data."""

from __future__ import annotations

import multiprocessing
import pickle
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stored import Mapped, Needy, Plain, Zipped, open_in_worker, store
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, default_collate
from training import Listed

from lightning_saliency import ProbeBatch, SaliencyError
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.probe.reading import Reader


def state(data: Any) -> Any:
    return {**vars(data)}


@pytest.mark.parametrize("kind", [Zipped, Plain, Mapped])
def test_a_file_opened_on_the_first_read_is_not_open_afterwards(kind: Any, tmp_path: Path):
    data = store(kind, tmp_path)
    before = state(data)
    probe = ProbeBatch.from_dataset(data, per_class=2)
    assert probe.images[:, 0, 0, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert state(data) == before
    pickle.dumps(data)


@pytest.mark.parametrize("context", ["fork", "spawn"])
@pytest.mark.parametrize("kind", [Zipped, Needy])
def test_a_loader_with_workers_is_read_by_a_worker(kind: Any, context: str, tmp_path: Path):
    data = store(kind, tmp_path)
    init = open_in_worker if kind is Needy else None
    options = {"num_workers": 2, "multiprocessing_context": context, "worker_init_fn": init}
    loader = DataLoader(data, batch_size=3, **options)
    before, streams = state(data), (torch.get_rng_state(), random.getstate(), np.random.get_state())
    probe = ProbeBatch.from_dataloader(loader, 8)
    assert probe.images[:, 0, 0, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
    assert probe.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert state(data) == before
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert random.getstate() == streams[1]
    assert np.array_equal(np.random.get_state()[1], streams[2][1])
    assert multiprocessing.active_children() == []


def test_without_workers_nothing_can_open_the_file(tmp_path: Path):
    with pytest.raises(RuntimeError, match="the file is opened by `worker_init_fn`"):
        ProbeBatch.from_dataset(store(Needy, tmp_path))


class Noisy(Dataset[Any]):
    """Lists no labels, and draws from every stream and one of its own."""

    def __init__(self) -> None:
        self.own, self.reads = np.random.default_rng(5), 0

    def __len__(self) -> int:
        return 500

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        self.reads += 1
        noise = float(torch.rand(())) + random.random() + np.random.rand() + self.own.random()
        return torch.full((1, 2, 2), noise), position // 50


def test_workers_draw_the_same_random_numbers_as_none():
    prints = set()
    for workers in (0, 1, 3):
        torch.manual_seed(workers)
        data = Noisy()
        loader = DataLoader(data, batch_size=4, num_workers=workers)
        prints.add(ProbeBatch.from_dataloader(loader).fingerprint)
        assert data.reads == 0
    prints.add(ProbeBatch.from_dataset(Noisy(), per_class=8, count=8).fingerprint)
    assert len(prints) == 1


# A global, because whatever the dataset refers to is restored.
_noted: list[int] = []


class Noted(Dataset[Any]):
    """Notes which items are read, and lists no labels."""

    def __init__(self, classes: list[Any], broken: range = range(0)) -> None:
        self.classes_of_items, self.broken = classes, broken
        _noted.clear()

    def __len__(self) -> int:
        return len(self.classes_of_items)

    def __getitem__(self, position: int) -> Any:
        _noted.append(position)
        if position in self.broken:
            raise OSError(f"item {position} is truncated")
        return torch.full((1, 2, 2), float(position)), self.classes_of_items[position]


@pytest.mark.parametrize(
    ("labels", "most", "found"),
    [
        pytest.param([i // 100 for i in range(1000)], 30, 8, id="ten-classes-in-order"),
        pytest.param([i % 10 for i in range(1000)], 64, 8, id="ten-classes-in-turn"),
        pytest.param([i // 500 for i in range(1000)], 64, 2, id="two-classes"),
        pytest.param([0] * 990 + [1] * 10, 64, 2, id="a-rare-class"),
        pytest.param([0] * 1000, 64, 1, id="one-class"),
        pytest.param([0.5] * 1000, 1, 0, id="no-classes"),
        pytest.param([i // 2 for i in range(20)], 20, 8, id="few-items"),
    ],
)
def test_few_items_are_read_where_labels_are_not_listed(labels: Any, most: int, found: int):
    probe = ProbeBatch.from_dataloader(DataLoader(Noted(labels), batch_size=16), 8)
    assert len(probe) == 8
    assert 9 <= len(_noted) <= most + 8
    if found:
        assert len(set(probe.labels.tolist())) == found


def test_without_a_limit_256_items_are_read():
    data = Noted([i // 10 for i in range(1000)])
    assert len(ProbeBatch.from_dataset(data)) == 100
    assert len(_noted) == 256 + 100


def test_items_that_cannot_be_read_are_passed_over():
    data = Noted([i % 4 for i in range(64)], range(0, 64, 3))
    positions = ProbeBatch.from_dataset(data, count=4).images[:, 0, 0, 0]
    assert not any(int(position) % 3 == 0 for position in positions)
    data = Noted([0] * 64, range(64))
    with pytest.raises(OSError, match="is truncated"):
        ProbeBatch.from_dataset(data, count=4)


def test_a_worker_passes_them_over_too():
    data = Noted([i % 4 for i in range(64)], range(0, 64, 3))
    loader = DataLoader(data, batch_size=2, num_workers=1)
    positions = ProbeBatch.from_dataloader(loader, 4).images[:, 0, 0, 0]
    assert not any(int(position) % 3 == 0 for position in positions)


def sized(sizes: list[int]) -> Any:
    return Listed([(torch.full((3, size, 8), float(size)), i % 2) for i, size in enumerate(sizes)])


def test_images_of_several_sizes_one_a_batch():
    loader = DataLoader(sized([16, 17, 18, 17] * 4), batch_size=1)
    with pytest.warns(SaliencyWarning, match=r"it has the 4 of 8 that are \(3, 17, 8\)\. To expl"):
        probe = ProbeBatch.from_dataloader(loader, 8)
    assert probe.images.shape == (4, 3, 17, 8)


def test_batches_by_size():
    sizes = [16, 20] * 8
    batches = [[i for i in range(16) if sizes[i] == size] for size in (16, 20)]
    with pytest.warns(SaliencyWarning, match="the images have several sizes"):
        probe = ProbeBatch.from_dataloader(DataLoader(sized(sizes), batch_sampler=batches), 8)
    assert len(probe) == 4


def padded(items: list[Any]) -> Any:
    highest = max(image.shape[1] for image, _ in items)
    images = torch.zeros(len(items), 3, highest, 8)
    for image, (source, _) in zip(images, items, strict=True):
        image[:, : source.shape[1]] = source
    return images, torch.tensor([label for _, label in items])


def test_a_collate_fn_that_pads():
    loader = DataLoader(sized([16, 20] * 8), batch_size=8, collate_fn=padded)
    probe = ProbeBatch.from_dataloader(loader, 8)
    assert probe.images.shape == (8, 3, 20, 8)


def collate_and_note(items: list[Any]) -> Any:
    _noted.append(len(items))
    return default_collate(items)


def test_batches_have_the_size_of_the_loader_s():
    _noted.clear()
    loader = DataLoader(sized([8] * 16), batch_size=3, collate_fn=collate_and_note)
    ProbeBatch.from_dataloader(loader, 8)
    assert _noted == [3, 3, 2]


class Batches(Dataset[Any]):
    """Each item is a batch already."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, position: int) -> Any:
        return torch.full((3, 1, 2, 2), float(position)), torch.arange(3)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_of_batches(workers: int):
    probe = ProbeBatch.from_dataloader(DataLoader(Batches(), batch_size=None, num_workers=workers))
    assert probe.images[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    assert probe.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]


class Table(Dataset[Any]):
    """As `datasets.Dataset`: rows are dicts, read many at once, by a transform that is set."""

    column_names = ("image", "label")

    def __init__(self) -> None:
        self.fetched: list[int] = []
        self.transform: Any = None

    def set_transform(self, transform: Any) -> None:
        self.transform = transform

    def __len__(self) -> int:
        return 12

    def __getitem__(self, position: Any) -> Any:
        raise AssertionError("`__getitems__` is what a loader calls")

    def __getitems__(self, positions: list[int]) -> list[Any]:
        rows = [{"image": torch.full((1, 2, 2), float(p)), "label": p // 4} for p in positions]
        return [self.transform(row) for row in rows]


def test_a_table_with_a_transform():
    data = Table()
    data.set_transform(lambda row: {**row, "image": row["image"] + 100})
    probe = ProbeBatch.from_dataset(data)
    assert probe.images[:, 0, 0, 0].tolist() == [100, 104, 108]
    assert probe.labels.tolist() == [0, 1, 2]


def test_joined_datasets():
    parts = [Listed([(torch.full((1, 2, 2), float(c)), c)] * 4) for c in range(3)]
    assert ProbeBatch.from_dataset(ConcatDataset(parts)).labels.tolist() == [0, 1, 2]


class Unsized:
    def __getitem__(self, position: int) -> Any:
        return torch.full((1, 2, 2), float(position)), 0


def test_a_dataset_without_a_length():
    with pytest.raises(TypeError, match=r"Unsized, which has no length\. Pass `indices=\[…\]`"):
        ProbeBatch.from_dataset(Unsized())
    probe = ProbeBatch.from_dataset(Unsized(), indices=[3, 5])
    assert probe.images[:, 0, 0, 0].tolist() == [3, 5]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter([(torch.rand(1, 2, 2), 1)] * 4)


def test_a_stream_and_its_remedy():
    loader = DataLoader(Stream(), batch_size=4)
    with pytest.raises(TypeError, match=r"`probe=ProbeBatch.from_batch\(next\(iter\(loader\)\)\)`"):
        ProbeBatch.from_dataloader(loader)
    assert ProbeBatch.from_batch(next(iter(loader))).labels.tolist() == [1] * 4


@pytest.mark.parametrize("loader", [[1], {"a": DataLoader([1])}, iter([1])])
def test_what_is_no_loader(loader: Any):
    with pytest.raises(
        TypeError, match=r"^`loader` must be a DataLoader, got .*ProbeBatch\.from_b"
    ):
        ProbeBatch.from_dataloader(loader)


def test_an_empty_sampler():
    with pytest.raises(SaliencyError, match="is empty, so there is nothing to explain"):
        ProbeBatch.from_dataloader(DataLoader(sized([8]), sampler=[]))


def test_reading_that_takes_long_is_announced_once(monkeypatch: pytest.MonkeyPatch):
    now = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    said: list[str] = []
    Reader(Noted([0] * 100), announce=said.append).read(8, 8)
    assert len(said) == 1
    assert "up to 64 items or batches of Noted are read one after the other" in said[0]


def test_quick_reading_is_not_announced(monkeypatch: pytest.MonkeyPatch):
    now = iter(range(1000))
    monkeypatch.setattr(time, "monotonic", lambda: next(now) / 1000)  # Machines may be busy.
    said: list[str] = []
    Reader(sized([8] * 16), announce=said.append).read(8, 8)
    assert said == []


class FromGenerator(Dataset[Any]):
    def __init__(self) -> None:
        self.source = (torch.full((1, 2, 2), float(i)) for i in range(99))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: int) -> Any:
        return next(self.source), 0


def test_a_generator_that_reading_moved_is_named():
    with pytest.warns(
        SaliencyWarning, match=r"from FromGenerator moved its 'source', a generator, "
    ):
        ProbeBatch.from_dataset(FromGenerator(), indices=[0, 1])
