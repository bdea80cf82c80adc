"""Where objects keep state: places that refer to other objects, and contents of their own.

The methods of built-in classes are used throughout, because a subclass may have overridden them to
do more, such as to count or to forget old items.
"""

from __future__ import annotations

import operator
import random
from array import array
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
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

    A model has thousands of places, most of them empty dictionaries, so a place is a small object:
    many more would set off python's garbage collector, which takes longer than the passes do.

    Attributes:
        was: What was there first, as :meth:`read` returned it.
        removed: What :meth:`restore` removed.
        lends: Whether objects in it can be replaced meanwhile.
    """

    __slots__ = ("removed", "was")
    lends = True

    def __init__(self) -> None:
        self.was = self.read()
        self.removed: Sequence[Any] = ()

    def read(self) -> Any:
        """Return what is there: a dictionary, or a list if there are no names."""
        raise NotImplementedError

    def put(self, name: Any, value: Any) -> None:
        """Replace what has a name; an item of a list has its index as its name."""
        raise NotImplementedError

    def remove(self, name: Any) -> None:
        """Remove what has a name."""
        raise NotImplementedError

    def restore(self) -> None:
        """Put back what was there first, if it has changed."""
        now = self.read()
        if not now and not self.was:
            return
        values, before = list_values(now), list_values(self.was)
        same = len(values) == len(before) and all(map(operator.is_, values, before))
        # The order of names counts: it is that of `parameters()`, for example. Nothing is written
        # needlessly, because other threads may be reading.
        if same and (isinstance(now, list) or list(now) == list(self.was)):
            return
        known = set(map(id, before))
        self.removed = [value for value in values if id(value) not in known]
        self._write()

    def _write(self) -> None:
        """Write what was there first."""
        now = self.read()
        for name in now.keys() - self.was.keys():
            self.remove(name)
        for name, value in self.was.items():
            if name not in now or now[name] is not value:
                self.put(name, value)

    def lend(self, lent: dict[int, Any]) -> list[tuple[Any, Any]]:
        """Replace objects by those in ``lent``, by ``id``; return the names and the originals."""
        named = self.was.items() if isinstance(self.was, dict) else enumerate(self.was)
        found = [(name, value) for name, value in named if id(value) in lent and self.lends]
        for name, value in found:
            self.put(name, lent[id(value)])
        return found


class MappingPlace(Place):
    """What a dictionary refers to, or the buffers of TorchScript, which behave like one."""

    __slots__ = ("_kind", "_owner")

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self._kind: Any = dict if isinstance(owner, dict) else type(owner)
        if isinstance(owner, OrderedDict):
            self._kind = OrderedDict
        super().__init__()

    def read(self) -> dict[Any, Any]:
        """See :class:`Place`."""
        return dict(self._kind.items(self._owner))

    def put(self, name: Any, value: Any) -> None:
        """See :class:`Place`."""
        self._kind.__setitem__(self._owner, name, value)

    def remove(self, name: Any) -> None:
        """See :class:`Place`."""
        self._kind.__delitem__(self._owner, name)

    def _write(self) -> None:
        if isinstance(self._owner, dict):
            self._kind.clear(self._owner)  # This restores the order.
        super()._write()


class ItemsPlace(Place):
    """The items of a list, a deque or a set; those of a set are not replaced meanwhile."""

    __slots__ = ("_kind", "_owner", "lends")

    def __init__(self, owner: Any) -> None:
        kinds: tuple[Any, ...] = (list, deque, set)
        self._kind = next(kind for kind in kinds if isinstance(owner, kind))
        self._owner, self.lends = owner, self._kind is not set
        super().__init__()

    def read(self) -> list[Any]:
        """See :class:`Place`."""
        return list(self._kind.__iter__(self._owner))

    def put(self, name: Any, value: Any) -> None:
        """See :class:`Place`."""
        self._kind.__setitem__(self._owner, name, value)

    def _write(self) -> None:
        self._kind.clear(self._owner)
        add = set.update if self._kind is set else self._kind.extend
        add(self._owner, self.was)


class ClassPlace(Place):
    """The attributes of a class, without those of its bases."""

    __slots__ = ("_owner",)

    def __init__(self, owner: type) -> None:
        self._owner = owner
        super().__init__()

    def read(self) -> dict[str, Any]:
        """See :class:`Place`."""
        return {k: value for k, value in vars(self._owner).items() if not k.startswith("__")}

    def put(self, name: str, value: Any) -> None:
        """See :class:`Place`."""
        setattr(self._owner, name, value)

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        delattr(self._owner, name)


class DescribedPlace(Place):
    """What descriptors get; for each name there is a descriptor, and what it gets from."""

    __slots__ = ("_places",)

    def __init__(self, places: dict[str, tuple[Any, Any]]) -> None:
        self._places = places
        super().__init__()

    def read(self) -> dict[str, Any]:
        """See :class:`Place`."""
        found = {}
        for name, (descriptor, owner) in self._places.items():
            with suppress(AttributeError, ValueError):  # The slot or cell is empty.
                found[name] = descriptor.__get__(owner)
        return found

    def put(self, name: str, value: Any) -> None:
        """See :class:`Place`."""
        descriptor, owner = self._places[name]
        descriptor.__set__(owner, value)

    def remove(self, name: str) -> None:
        """See :class:`Place`."""
        descriptor, owner = self._places[name]
        descriptor.__delete__(owner)


def hold_slots(owner: Any, slots: dict[str, MemberDescriptorType]) -> Place:
    """Hold what the slots of an object refer to; it may be frozen."""
    return DescribedPlace({name: (slot, owner) for name, slot in slots.items()})


def hold_closure(function: FunctionType) -> Place:
    """Hold the variables that a function closes over."""
    content = vars(CellType)["cell_contents"]
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return DescribedPlace({name: (content, cell) for name, cell in cells})


CONTAINERS: dict[type, Callable[[Any], Place]] = {
    **{dict: MappingPlace, OrderedDict: MappingPlace},
    **{list: ItemsPlace, deque: ItemsPlace, set: ItemsPlace},
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
                return partial(write, value, read(value))
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
