"""State that a forward pass moves outside of parameters and buffers is given back."""

from __future__ import annotations

import functools
import itertools
import random
from array import array
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from lightning_saliency import explain
from lightning_saliency.isolation import attributes
from lightning_saliency.isolation.module import undisturbed

IMAGES = torch.ones(3, 1, 4, 4)


class Moving(nn.Module):
    """Hold something as ``state``, which every forward pass moves."""

    def __init__(self, state: Any, move: Callable[[Any], object]) -> None:
        super().__init__()
        self.head, self.state = nn.Linear(16, 2), state
        self.move = staticmethod(move)

    def forward(self, images: Tensor) -> Tensor:
        self.move(self.state)
        return self.head(images.flatten(1))


@dataclass(frozen=True)
class Frozen:
    counts: list[int]


class Slotted:
    __slots__ = ("count", "unset")

    def __init__(self) -> None:
        self.count = 0

    def move(self) -> None:
        self.count += 1


class Plain:
    """An object that moves itself, with another one and a generator inside."""

    total = 0

    def __init__(self) -> None:
        self.count, self.inner, self.stream = 0, Slotted(), random.Random(1)

    def move(self) -> None:
        self.count += 1
        self.inner.move()
        self.stream.random()
        type(self).total += 1


def _counter() -> Callable[[], int]:
    count = 0

    def counted() -> int:
        nonlocal count
        count += 1
        return count

    return counted


def _read(state: Any) -> Any:
    """Read what moves, without moving it."""
    if isinstance(state, np.random.Generator):
        return str(state.bit_generator.state)
    if isinstance(state, np.random.RandomState):
        return str(state.get_state())
    if isinstance(state, torch.Generator):
        return state.get_state().tolist()
    if isinstance(state, random.Random):
        return state.getstate()
    if isinstance(state, Plain):
        return state.count, state.inner.count, state.stream.getstate(), Plain.total
    if isinstance(state, list) and isinstance(state[0], np.random.BitGenerator):
        return str(state[0].state)
    if isinstance(state, functools.partial):
        return str((state.args, state.keywords))
    if callable(state):
        return state.__closure__[0].cell_contents
    if isinstance(state, Slotted):
        return state.count
    return repr(state)


STATES: dict[str, tuple[Callable[[], Any], Callable[[Any], object]]] = {
    "torch generator": (
        lambda: torch.Generator().manual_seed(1),
        lambda s: torch.rand(1, generator=s),
    ),
    "numpy generator": (lambda: np.random.default_rng(1), lambda s: s.random()),
    "numpy bit generator": (lambda: [np.random.PCG64(1)], lambda s: s[0].random_raw()),
    "numpy random state": (lambda: np.random.RandomState(1), lambda s: s.rand()),
    "python generator": (lambda: random.Random(1), lambda s: s.random()),
    "numpy array": (lambda: np.zeros(3), lambda s: s.__iadd__(1)),
    "numpy array of NaN": (lambda: np.full(2, np.nan), lambda s: s.fill(0)),
    "numpy array in a list": (lambda: [np.zeros(3)], lambda s: s[0].fill(1)),
    "numpy array of lists": (lambda: np.array([[1], None], dtype=object), lambda s: s[0].append(2)),
    "deque": (lambda: deque([1, 2], maxlen=2), lambda s: s.append(3)),
    "deque of lists": (lambda: deque([[1]]), lambda s: s[0].append(3)),
    "nested lists": (lambda: [[[1]]], lambda s: s[0][0].append(2)),
    "nested dicts": (lambda: {"a": {"b": [1]}}, lambda s: s["a"]["b"].clear()),
    "tensor in nested dicts": (
        lambda: {"a": [{"b": torch.zeros(2)}]},
        lambda s: s["a"][0]["b"].add_(1),
    ),
    "default dict": (lambda: defaultdict(list), lambda s: s["a"].append(1)),
    "the order of a dict": (lambda: {"a": 1, "b": 2}, lambda s: s.update(a=s.pop("a"))),
    "the order of an ordered dict": (lambda: OrderedDict(a=1, b=2), lambda s: s.move_to_end("a")),
    "a name of a dict": (lambda: {"a": [1]}, lambda s: s.update(b=s.pop("a"))),
    "set": (lambda: {1}, lambda s: s.add(2)),
    "bytes": (lambda: bytearray(b"a"), lambda s: s.append(1)),
    "array of numbers": (lambda: array("i", [1]), lambda s: s.append(1)),
    "list in a tuple": (lambda: ([1],), lambda s: s[0].append(1)),
    "namespace": (lambda: SimpleNamespace(count=0), lambda s: setattr(s, "count", 1)),
    "frozen dataclass": (lambda: Frozen([0]), lambda s: s.counts.append(1)),
    "slotted object": (Slotted, lambda s: s.move()),
    "plain object": (Plain, lambda s: s.move()),
    "objects in a dict of lists": (
        lambda: {"a": [SimpleNamespace(n=0)]},
        lambda s: setattr(s["a"][0], "n", 1),
    ),
    "closure": (_counter, lambda s: s()),
    "partial": (lambda: functools.partial(dict, a=[1]), lambda s: s.keywords["a"].append(1)),
    "count": (lambda: itertools.count(3, 2), lambda s: next(s)),
    "count in a list": (lambda: [itertools.count()], lambda s: next(s[0])),
    "iterator over a list": (lambda: SimpleNamespace(it=iter([1, 2, 3])), lambda s: next(s.it)),
}


@pytest.mark.parametrize("kind", STATES)
def test_state_is_given_back(kind: str):
    make, move = STATES[kind]
    model = Moving(make(), move)
    state, before = model.state, _read(model.state)
    for _ in range(2):
        explain(model, IMAGES, rules=("gradient",))
        assert model.state is state
        assert kind == "iterator over a list" or _read(model.state) == before
    model(IMAGES)
    assert kind == "iterator over a list" or _read(model.state) != before  # it does move
    if kind == "iterator over a list":
        assert list(state.it) == [2, 3]


class Watched(dict[str, Any]):
    """Counts what is read from it and written to it."""

    calls = 0

    def __setitem__(self, name: str, value: Any) -> None:
        type(self).calls += 1
        super().__setitem__(name, value)

    def items(self) -> Any:
        type(self).calls += 1
        return super().items()

    def clear(self) -> None:
        type(self).calls += 1
        super().clear()


def test_methods_of_dictionaries_are_passed_by():
    state = Watched(a=1)
    explain(Moving(state, lambda s: dict.__setitem__(s, "a", 2)), IMAGES, rules=("gradient",))
    assert (dict(state), Watched.calls) == ({"a": 1}, 0)


def test_a_random_stream_without_a_state_does_not_stand_in_the_way():
    model = Moving(random.SystemRandom(), lambda s: s.random())
    assert explain(model, IMAGES, rules=("gradient",)).logits.shape == (3, 2)


def test_an_iterator_in_a_set_does_not_stand_in_the_way():
    """Elsewhere copies stand in for iterators meanwhile; a set has no places for them."""
    counts = {itertools.count(3)}
    model = Moving(counts, lambda s: s.add(0))
    kept = next(iter(counts))
    explain(model, IMAGES, rules=("gradient",))
    assert model.state is counts
    assert counts == {kept}


def test_state_is_given_back_after_an_error():
    def move(state: list[int]) -> None:
        state.append(1)
        raise RuntimeError("as planned")

    model = Moving([], move)
    with pytest.raises(RuntimeError, match="as planned"):
        explain(model, IMAGES)
    assert model.state == []


class Classy(nn.Module):
    calls = 0
    seen: list[int] = []  # noqa: RUF012
    numbers = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(16, 2)

    @staticmethod
    @functools.lru_cache
    def noise(size: int) -> Tensor:
        return torch.rand(size)

    def forward(self, images: Tensor) -> Tensor:
        Classy.calls += 1
        Classy.seen.append(next(Classy.numbers))
        Classy.late = 1
        return self.head(images.flatten(1))


def test_class_attributes_are_given_back():
    explain(Classy(), IMAGES, rules=("gradient",))
    assert (Classy.calls, Classy.seen, next(Classy.numbers)) == (0, [], 0)
    assert not hasattr(Classy, "late")


class Cached(Classy):
    noise = functools.lru_cache(Classy.noise.__wrapped__)

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + type(self).noise(2)


def test_a_cache_of_the_class_is_not_filled():
    explain(Cached(), IMAGES, rules=("gradient",))
    assert Cached.noise.cache_info().currsize == 0


def test_a_module_that_is_not_registered_is_given_back():
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.BatchNorm1d(2))
    model = Moving([teacher], lambda s: (s[0](IMAGES), s[0][1].weight.data.zero_()))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    explain(model, IMAGES, rules=("gradient",))
    for name, value in teacher.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_modules_and_hooks_that_a_forward_pass_adds_are_removed_again():
    def grow(state: list[Any]) -> None:
        (module,) = state
        module.extra = nn.Linear(2, 2)
        module.head.register_forward_hook(lambda *_: None)
        module.head.note = 1
        module.flag = nn.Parameter(torch.zeros(1))

    model = Moving([], grow)
    model.flag = None
    model.state.append(model)
    with undisturbed(model):
        model(IMAGES)
    assert [name for name, _ in model.named_children()] == ["head"]
    assert not model.head._forward_hooks
    assert not hasattr(model.head, "note")
    assert model.flag is None
    assert [name for name, _ in model.named_parameters()] == ["head.weight", "head.bias"]


def test_parameters_that_are_replaced_come_back_in_their_order():
    def replace(state: list[nn.Linear]) -> None:
        weight = state[0].weight
        del state[0].weight
        state[0].weight = nn.Parameter(weight * 2)

    model = Moving([], replace)
    model.state.append(model.head)
    before = dict(model.named_parameters())
    explain(model, IMAGES, rules=("gradient",))
    assert list(model.named_parameters()) == list(before.items())
    assert all(p is before[name] for name, p in model.named_parameters())


class Counting(Dataset[int]):
    """A dataset, which is no business of a pass."""

    reads = 0

    def __getitem__(self, index: int) -> int:
        self.reads += 1
        return index


def test_machinery_is_left_alone():
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    trainer.note = 0
    everything = {
        "data": Counting(),
        "trainer": trainer,
        "optimizer": torch.optim.SGD([torch.ones(1)], 1),
    }

    def move(state: dict[str, Any]) -> None:
        state["data"][0]
        state["trainer"].note += 1
        state["optimizer"].param_groups[0]["lr"] = 2

    explain(Moving(everything, move), IMAGES, rules=("gradient",))
    assert everything["data"].reads == 1
    assert trainer.note == 1
    assert everything["optimizer"].param_groups[0]["lr"] == 2


def test_the_walk_ends_in_cycles_and_at_its_limit(monkeypatch: pytest.MonkeyPatch):
    loop: list[Any] = []
    loop.append(loop)
    explain(Moving(loop, lambda s: None), IMAGES, rules=("gradient",))
    monkeypatch.setattr(attributes, "_LIMIT", 20)
    many = [[n] for n in range(100)]
    explain(Moving(many, lambda s: [one.append(0) for one in s]), IMAGES)
    assert many[-1] == [99, 0]  # beyond the limit


def test_an_error_in_giving_back_does_not_keep_the_rest_from_being_restored():
    class Refusing(type):
        def __setattr__(cls, name: str, value: object) -> None:
            if name == "refused" and value == 0:
                raise RuntimeError("as planned")
            super().__setattr__(name, value)

    class Odd(metaclass=Refusing):
        refused = 0

    def move(state: list[Any]) -> None:
        Odd.refused = 1
        state.append(1)

    model = Moving([Odd()], move)
    with pytest.raises(RuntimeError, match="as planned"):
        explain(model, IMAGES, rules=("gradient",))
    assert len(model.state) == 1
    assert model.training
