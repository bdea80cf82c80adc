"""A dataset that was read from is given back as it was, with all that it refers to."""

from __future__ import annotations

import functools
import gc
import io
import itertools
import os
import random
from array import array
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from stored import Mapped, Plain, Zipped, store
from torch import nn
from torch.utils.data import ConcatDataset, Dataset, Subset

from lightning_saliency.isolation import dataset as isolation
from lightning_saliency.isolation.dataset import dataset_kept, offsets_kept


class Cache(OrderedDict[Any, Any]):
    """Moves what is read to its end, and holds two items at most."""

    def __getitem__(self, key: Any) -> Any:
        self.move_to_end(key)
        return super().__getitem__(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value)
        while len(self) > 2:
            del self[next(iter(self))]  # Python 3.10's `popitem` reads what it has removed.


class Slotted:
    __slots__ = ("count", "unset")

    def __init__(self) -> None:
        self.count = 0


class Part:
    total = 0
    opened: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.count = 0


class Keeping(Dataset[int]):
    """Keeps state in every place that a dataset may keep it in."""

    reads = 0
    log: list[int] = []  # noqa: RUF012
    late: Any

    def __init__(self) -> None:
        self.count, self.cache, self.part = 0, Cache(a=1, b=2), Part()
        self.listed, self.recent = [1, 2], deque([1, 2], maxlen=2)
        self.seen, self.counter = {1}, Counter({"a": 1})
        self.slotted, self.nested = Slotted(), {"a": [{"b": [0]}]}
        self.array, self.tensor = np.zeros(3), torch.zeros(3)
        self.order = iter([5, 6, 7])
        self.transform = nn.Sequential(nn.BatchNorm1d(2))
        self.streams = [np.random.default_rng(1), random.Random(1), torch.Generator()]
        self.calls = self._make_calls()

    @staticmethod
    def _make_calls() -> Callable[[], int]:
        calls, noted = 0, []

        def count() -> int:
            nonlocal calls
            calls += 1
            noted.append(calls)
            return calls + len(noted)

        return count

    def __getitem__(self, index: int) -> int:
        self.count += 1
        self.cache["c"], self.part.count = 3, 5
        self.listed.append(index)
        self.recent.append(index)
        self.seen.discard(1)
        self.counter.update("ab")
        self.slotted.count, self.slotted.unset = 4, 5
        self.nested["a"][0]["b"][0] += 1
        self.array[1], self.tensor[1] = 5, 5
        next(self.order)
        self.transform(torch.rand(4, 2, generator=self.streams[2]))
        self.streams[0].random(), self.streams[1].random()
        self.calls()
        self.added = object()
        type(self).reads += 1
        type(self).late = 3
        type(self).log.append(index)
        Part.total += 1
        return index

    def state(self) -> str:
        known = {k: v for k, v in vars(self).items() if k not in ("slotted", "part", "order")}
        of_streams = [
            self.streams[0].bit_generator.state,
            self.streams[1].getstate(),
            self.streams[2].get_state().tolist(),
        ]
        cells = [cell.cell_contents for cell in self.calls.__closure__ or ()]
        return repr(
            [
                *(known | {"streams": of_streams, "calls": cells}).items(),
                *(self.order.__reduce__(), self.slotted.count, hasattr(self.slotted, "unset")),
                *(vars(self.part), Part.total, self.reads, self.log, hasattr(Keeping, "late")),
                {key: value.tolist() for key, value in self.transform.state_dict().items()},
            ]
        )


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda data: data, id="itself"),
        pytest.param(lambda data: Subset(Subset(data, [0, 1]), [1]), id="subset-of-a-subset"),
        pytest.param(
            lambda data: ConcatDataset([Subset([0], [0]), Subset(data, [0])]), id="joined"
        ),
        pytest.param(lambda data: {"a": (data,)}, id="in-containers"),
        pytest.param(lambda data: data.__getitem__, id="a-method"),
        pytest.param(lambda data: lambda: data, id="in-a-closure"),
        pytest.param(lambda data: lambda data=data: data, id="a-default"),
        pytest.param(lambda data: functools.partial(print, data), id="a-partial"),
    ],
)
def test_all_state_that_is_found_is_restored(wrap: Any):
    data = Keeping()
    before = data.state()
    with dataset_kept(wrap(data)):
        data[3]
        assert data.state() != before
    assert data.state() == before
    assert next(data.order) == 5


def test_it_is_restored_after_an_error_too():
    data = Keeping()
    before = data.state()
    with pytest.raises(KeyError), dataset_kept(data):
        raise KeyError(data[0])
    assert data.state() == before


@pytest.mark.filterwarnings("error::ResourceWarning")
@pytest.mark.parametrize("kind", [Zipped, Plain, Mapped])
def test_a_file_that_reading_opened_is_closed(kind: Any, tmp_path: Path):
    data = store(kind, tmp_path)
    with dataset_kept(Subset(data, [0])):
        data[3]
        opened = data.file
    assert data.file is None
    assert data.reads == 0
    assert kind is Mapped or getattr(opened, "closed", opened.__dict__.get("fp", 1) is None)
    del opened
    gc.collect()


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_files_in_containers_and_classes_are_closed(tmp_path: Path):
    (tmp_path / "a").write_text("a")

    class Handles:
        known: dict[str, Any] = {}  # noqa: RUF012
        last: Any = None

    handles = Handles()
    with dataset_kept(handles):
        opened = [(tmp_path / "a").open() for _ in range(3)]
        handles.known["a"], Handles.last = opened[:2]
        handles.own = {"b": [opened[2]]}
    assert all(file.closed for file in opened)
    assert Handles.known == {}
    assert Handles.last is None


@pytest.mark.parametrize("mode", ["rb", "r"])
def test_a_file_that_was_open_before_is_where_it_was(mode: str, tmp_path: Path):
    data = store(Plain, tmp_path)
    data.file = data.path.open(mode, **({} if mode == "rb" else {"encoding": "latin1"}))
    data.file.read(100)
    with dataset_kept(data):
        data.file.seek(0)
        data.file.read(30_000)
    assert not data.file.closed
    assert data.file.tell() == 100
    data.file.close()


def test_an_archive_that_was_open_before_is_still_read(tmp_path: Path):
    data = store(Zipped, tmp_path)
    data[3]
    position = data.file.fp.tell()
    with dataset_kept(data):
        data[30]
    assert data.file.fp.tell() == position
    assert float(data[7][0].mean()) == 7


def test_a_file_that_a_child_moved_is_where_it_was(tmp_path: Path):
    data = store(Plain, tmp_path)
    data[0]
    expected = os.lseek(data.file.fileno(), 0, os.SEEK_CUR)
    with offsets_kept(Subset(data, [0])):
        if (child := os.fork()) == 0:
            os.lseek(data.file.fileno(), 17, os.SEEK_SET)
            os._exit(0)
        os.waitpid(child, 0)
        assert os.lseek(data.file.fileno(), 0, os.SEEK_CUR) == 17
    assert os.lseek(data.file.fileno(), 0, os.SEEK_CUR) == expected


def test_pipes_and_closed_files_are_no_obstacle():
    closed = io.StringIO("a")
    closed.close()
    read, write = os.pipe()
    with os.fdopen(read) as reader, os.fdopen(write, "w") as writer:
        owners = [closed, reader, writer]
        with dataset_kept(owners), offsets_kept(owners):
            pass


def test_a_one_time_iterator_that_was_read_from_is_named():
    class Endless(Dataset[int]):
        def __init__(self) -> None:
            self.source, self.other = (i for i in range(9)), itertools.count()

    data = Endless()
    source = data.source
    with dataset_kept(data) as moved:
        assert next(data.source) == 0
    assert moved == ["'source', a generator"]
    assert data.source is source
    with dataset_kept(data) as moved:
        pass
    assert moved == []


class Held:
    """Holds something in a slot, as a class attribute, in a list or in a closure."""

    __slots__ = ("state",)
    shared: Any = None

    def __init__(self, state: Any) -> None:
        self.state = state


PLACES: dict[str, Callable[[Any], tuple[Any, Callable[[], Any]]]] = {
    "slot": lambda state: (held := Held(state), lambda: held.state),
    "list": lambda state: (held := [state], lambda: held[0]),
    "deque": lambda state: (held := deque([state]), lambda: held[0]),
    "dict": lambda state: (held := {"a": state}, lambda: held["a"]),
    "namespace": lambda state: (held := SimpleNamespace(a=state), lambda: held.a),
    "closure": lambda state: (held := lambda: state, lambda: held()),
    "class": lambda state: (setattr(Held, "shared", state), (Held(0), lambda: Held.shared))[1],
}


@pytest.mark.parametrize("place", PLACES)
def test_iterators_are_restored_wherever_they_are_kept(place: str):
    for make, first in ((lambda: iter([5, 6]), 5), (lambda: iter("é"), "é"), (itertools.count, 0)):
        original = make()
        owner, find = PLACES[place](original)
        with dataset_kept(owner) as moved:
            assert next(find()) == first
        assert find() is original
        assert next(original) == first
        assert moved == []
    Held.shared = None


@pytest.mark.parametrize("place", PLACES)
def test_a_generator_is_watched_wherever_it_is_kept(place: str):
    original = (i for i in range(9))
    owner, find = PLACES[place](original)
    names = {"slot": "'state'", "dict": "'a'", "namespace": "'a'", "closure": "'state'"}
    with dataset_kept(owner) as moved:
        next(find())
    name = names.get(place, "'shared'" if place == "class" else "item 0")
    assert moved == [f"{name}, a generator"]
    assert find() is original
    Held.shared = None


@pytest.mark.parametrize(
    ("make", "move"),
    [
        pytest.param(lambda: bytearray(b"a"), lambda s: s.append(1), id="bytes"),
        pytest.param(lambda: array("i", [1]), lambda s: s.append(1), id="array-of-numbers"),
        pytest.param(lambda: np.full(2, np.nan), lambda s: s.fill(0), id="nan"),
        pytest.param(lambda: torch.zeros(2), lambda s: s.neg_(), id="negative-zero"),
        pytest.param(lambda: np.zeros(2), lambda s: np.negative(s, out=s), id="zero-of-an-array"),
        pytest.param(lambda: np.array([[1], None], object), lambda s: s[0].append(2), id="lists"),
        pytest.param(lambda: np.zeros(2), lambda s: s.resize(3, refcheck=False), id="longer"),
        pytest.param(lambda: {"a": 1, "b": 2}, lambda s: s.update(a=s.pop("a")), id="order"),
        pytest.param(lambda: nn.LazyLinear(2), lambda s: s(torch.ones(1, 3)), id="lazy-layer"),
    ],
)
def test_contents_are_restored(make: Any, move: Any):
    state = make()
    before = repr(state)
    with dataset_kept({"a": [state]}):
        move(state)
        assert repr(state) != before
    assert repr(state) == before


def test_what_holds_a_run_is_not_touched():
    """A `collate_fn` may be a method of a datamodule, which refers to the trainer."""
    from pytorch_lightning import LightningDataModule, Trainer

    data = LightningDataModule()
    data.trainer = Trainer(logger=False, accelerator="cpu", enable_checkpointing=False)
    with dataset_kept(data):
        data.trainer.fit_loop.max_epochs, data.mine = 77, 1
    assert data.trainer.fit_loop.max_epochs == 77
    assert not hasattr(data, "mine")


def test_large_data_are_neither_copied_nor_looked_through(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "_MOST_BYTES", 100)
    small, large = torch.zeros(10), torch.zeros(100)
    items = [[0] for _ in range(isolation._MOST_ITEMS + 1)]
    with dataset_kept([small, large], items):
        small[0] = large[0] = 1
        items[0][0] = 1
        items.append([1])
    assert small[0] == 0
    assert large[0] == 1
    assert len(items) == isolation._MOST_ITEMS + 1
    assert items[0] == [1]


@pytest.mark.parametrize(
    "make", [np.zeros, torch.zeros, bytearray], ids=["array", "tensor", "bytes"]
)
def test_large_data_of_any_kind_are_not_copied(make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(isolation, "_MOST_BYTES", 100)
    small, large = make(10), make(200)
    with dataset_kept([small, large]):
        small[0] = large[0] = 1
    assert (small[0], large[0]) == (0, 1)
