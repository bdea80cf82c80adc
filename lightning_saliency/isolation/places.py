"""Where objects keep state: places that refer to other objects, and contents of their own.

The methods of built-in classes are used throughout, because a subclass may have overridden them to
do more, such as to count or to forget old items.
"""

from __future__ import annotations

import operator
import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import CellType, FunctionType, MemberDescriptorType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_saliency.isolation.tensors import is_restorable


class Place:
    """Something that refers to objects, by names or one after the other.

    Args:
        read: Returns what is there: a dictionary, or a list if there are no names.
        put: Replaces what has a name; an item of a list has its index as its name.
        remove: Removes what has a name.
        clear: Removes everything, where the order or the number of items has to be restored.
        fill: Adds all items of a list at once.

    Attributes:
        was: What was there first, as ``read`` returned it.
        removed: What :meth:`restore` removed.
    """

    __slots__ = ("_clear", "_fill", "_put", "_read", "_remove", "removed", "was")

    def __init__(
        self,
        read: Callable[[], Any],
        put: Callable[[Any, Any], object] | None = None,
        remove: Callable[[Any], object] | None = None,
        clear: Callable[[], object] | None = None,
        fill: Callable[[Any], object] | None = None,
    ) -> None:
        self._read, self._clear, self._fill = read, clear, fill
        self._put: Any = put
        self._remove: Any = remove
        self.was = read()
        self.removed: list[Any] = []

    def restore(self) -> None:
        """Put back what was there first, if it has changed."""
        now = self._read()
        values, before = list_values(now), list_values(self.was)
        same = len(values) == len(before) and all(map(operator.is_, values, before))
        # The order of names counts: it is that of `parameters()`, for example. Nothing is written
        # needlessly, because other threads may be reading.
        if same and (isinstance(now, list) or list(now) == list(self.was)):
            return
        known = set(map(id, before))
        self.removed = [value for value in values if id(value) not in known]
        if self._clear is not None:
            self._clear()
        if self._fill is not None:
            self._fill(self.was)
        else:
            self._write_names()

    def _write_names(self) -> None:
        now = self._read()
        for name in now.keys() - self.was.keys():
            self._remove(name)
        for name, value in self.was.items():
            if name not in now or now[name] is not value:
                self._put(name, value)

    def lend(self, lent: dict[int, Any]) -> list[tuple[Any, Any]]:
        """Replace objects by those in ``lent``, by ``id``; return the names and the originals."""
        named = self.was.items() if isinstance(self.was, dict) else enumerate(self.was)
        found = [(name, value) for name, value in named if id(value) in lent and self._put]
        for name, value in found:
            self._put(name, lent[id(value)])
        return found


def hold_mapping(owner: Any) -> Place:
    """Hold what a dictionary refers to, or the buffers of TorchScript, which behave like one."""
    kind: Any = dict if isinstance(owner, dict) else type(owner)
    if isinstance(owner, OrderedDict):
        kind = OrderedDict
    return Place(
        lambda: dict(kind.items(owner)),
        partial(kind.__setitem__, owner),
        lambda name: kind.__delitem__(owner, name),
        partial(kind.clear, owner) if isinstance(owner, dict) else None,
    )


def hold_items(owner: Any) -> Place:
    """Hold the items of a list, a deque or a set; those of a set are not replaced meanwhile."""
    kinds: tuple[Any, ...] = (list, deque, set)
    kind = next(kind for kind in kinds if isinstance(owner, kind))
    return Place(
        lambda: list(kind.__iter__(owner)),
        None if kind is set else partial(kind.__setitem__, owner),
        clear=partial(kind.clear, owner),
        fill=partial(set.update if kind is set else kind.extend, owner),
    )


def hold_class(kind: type) -> Place:
    """Hold the attributes of a class, without those of its bases."""
    return Place(
        lambda: {k: value for k, value in vars(kind).items() if not k.startswith("__")},
        partial(setattr, kind),
        partial(delattr, kind),
    )


def hold_slots(owner: Any, slots: dict[str, MemberDescriptorType]) -> Place:
    """Hold what the slots of an object refer to; it may be frozen."""
    return _hold_described({name: (slot, owner) for name, slot in slots.items()})


def hold_closure(function: FunctionType) -> Place:
    """Hold the variables that a function closes over."""
    content = vars(CellType)["cell_contents"]
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return _hold_described({name: (content, cell) for name, cell in cells})


def _hold_described(places: dict[str, tuple[Any, Any]]) -> Place:
    """Hold what descriptors get; for each name there is a descriptor, and what it gets from."""

    def read() -> dict[str, Any]:
        found = {}
        for name, (descriptor, owner) in places.items():
            with suppress(AttributeError, ValueError):  # The slot or cell is empty.
                found[name] = descriptor.__get__(owner)
        return found

    return Place(
        read,
        lambda name, value: places[name][0].__set__(places[name][1], value),
        lambda name: places[name][0].__delete__(places[name][1]),
    )


CONTAINERS: dict[type, Callable[[Any], Place]] = {
    **{dict: hold_mapping, OrderedDict: hold_mapping},
    **{list: hold_items, deque: hold_items, set: hold_items},
}


def list_values(content: Any) -> list[Any]:
    """List what a place refers to, from its ``was`` or :meth:`Place.read`."""
    return list(content.values()) if isinstance(content, dict) else content


def find_slots(kind: type) -> dict[str, MemberDescriptorType]:
    """Find the slots of the objects of a class."""
    bases = [vars(base) for base in reversed(kind.__mro__) if "__slots__" in vars(base)]
    named = [item for attributes in bases for item in attributes.items()]
    return {name: value for name, value in named if isinstance(value, MemberDescriptorType)}


def count_bytes(value: Any) -> int:
    """Return how many bytes a copy of the content of ``value`` takes."""
    if isinstance(value, Tensor):
        return value.nbytes if is_restorable(value) else 0
    if isinstance(value, np.ndarray):
        return value.nbytes
    return memoryview(value).nbytes if isinstance(value, bytearray | array) else 0


def bind_content(value: Any) -> Callable[[], object] | None:
    """Return a function that restores the content of ``value``, unless it has none to restore.

    The content of tensors is restored by :func:`~.tensors.tensors_kept`.
    """
    if isinstance(value, np.random.Generator):
        value = value.bit_generator
    for kind, read, write in _CONTENTS:
        if isinstance(value, kind):
            with suppress(NotImplementedError):  # A `SystemRandom` has no state.
                content = read(value)
                return lambda: write(value, content)
    return None


def _write_array(found: np.ndarray[Any, Any], content: np.ndarray[Any, Any]) -> None:
    if found.shape != content.shape:
        found.resize(content.shape, refcheck=False)
    # Bytes tell NaN from 0 and 0 from -0, and compare arrays of objects by reference.
    if found.tobytes() != content.tobytes():
        np.copyto(found, content)


def _write_numbers(found: Any, content: Any) -> None:
    if found != content:
        found[:] = content


def _set_class(module: nn.Module, kind: type) -> None:
    if type(module) is not kind:
        module.__class__ = kind


_CONTENTS: tuple[tuple[Any, Callable[[Any], Any], Callable[[Any, Any], object]], ...] = (
    (np.ndarray, np.ndarray.copy, _write_array),
    (bytearray | array, operator.itemgetter(slice(None)), _write_numbers),
    (
        np.random.BitGenerator,
        lambda found: found.state,
        lambda f, state: setattr(f, "state", state),
    ),
    (np.random.RandomState, np.random.RandomState.get_state, np.random.RandomState.set_state),
    (torch.Generator, torch.Generator.get_state, torch.Generator.set_state),
    (random.Random, lambda found: found.getstate(), lambda found, state: found.setstate(state)),
    # A lazy layer changes its class when its first forward pass has made its weights.
    (nn.Module, type, _set_class),
)
