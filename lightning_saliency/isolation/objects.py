"""Find everything that objects refer to, and give it back as it was.

Models and datasets keep state wherever their authors like: in attributes, in a list in a dict, in
a closure, in a random generator. :class:`Walk` follows all references from a few owners, and
:meth:`Walk.kept` restores in place whatever has changed. A :class:`Scope` says what belongs to the
owners, and how much of it is looked at.

Nothing is copied deeply: of places that refer to objects, such as containers, only the references
are noted; of tensors, arrays and random generators the content.
"""

from __future__ import annotations

import ast
import copy
import itertools
import math
import tarfile
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import FunctionType, MemberDescriptorType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_saliency.isolation.places import (
    CONTAINERS,
    ClassPlace,
    MappingPlace,
    Place,
    bind_content,
    count_bytes,
    find_slots,
    hold_closure,
    hold_slots,
    list_values,
)
from lightning_saliency.isolation.tensors import tensors_kept

# Objects of these types never change, and refer to nothing that does.
_ATOMS = frozenset(
    {type(None), bool, int, float, complex, str, bytes, range, slice, type(...)}
    | {type(NotImplemented), torch.dtype, torch.device, torch.Size}
    | {torch.layout, torch.memory_format}
)
# A copy of one of these continues from the same item, and leaves the original where it is.
_EXAMPLES: tuple[Iterable[Any], ...] = ([], (), "", "é", range(0))
_ITERATORS = tuple(type(iter(example)) for example in _EXAMPLES)


class Scope:
    """What a walk looks at.

    Attributes:
        most_objects: The walk ends after so many, because an owner may hold all of its data.
        most_items: The items of a longer container are put back, but not looked at.
        most_bytes: The limit for the content of tensors and arrays together, the nearest first.
        sharded: Whether parameters are divided among processes. They are left alone then, because
            sharded training replaces and frees them itself while a forward pass runs.
    """

    most_objects: float = math.inf
    most_items: float = math.inf
    most_bytes: float = math.inf
    sharded = False

    def enters(self, kind: type) -> bool:
        """Return whether attributes of objects of the class ``kind`` are restored."""
        raise NotImplementedError

    def owns(self, kind: type) -> bool:
        """Return whether attributes of the class ``kind`` itself are restored."""
        raise NotImplementedError

    def enters_function(self, function: FunctionType) -> bool:  # noqa: ARG002
        """Return whether the closure, defaults and attributes of ``function`` are restored."""
        return True

    def lend(self, value: Any) -> Any:
        """Return what stands in for ``value`` meanwhile, which is ``value`` for most objects.

        What cannot be restored in place, such as an iterator, is replaced by a copy.
        """
        if isinstance(value, itertools.count):
            # Its `copy` is gone from Python 3.14 on, but its state can still be read.
            with suppress(ValueError, SyntaxError):
                return itertools.count(*ast.literal_eval(f"{repr(value)[len('count') : -1]},)"))
        return copy.copy(value) if isinstance(value, _ITERATORS) else value


class Walk:
    """A walk from ``owners`` through all that they refer to, as far as ``scope`` goes.

    Args:
        owners: Where the walk starts.
        scope: What belongs to them.
        but: Objects that are passed over.

    Attributes:
        values: The objects that were found, the nearest first.
        names: The names of what was lent, by the ``id`` of the original.
    """

    def __init__(self, owners: Iterable[Any], scope: Scope, but: Iterable[Any] = ()) -> None:
        self.values: list[Any] = []
        self.names: dict[int, Any] = {}
        self._scope = scope
        self._places: list[Place] = []
        self._empty: list[Any] = []  # Most containers of a model are, and need no place of theirs.
        self._slots: dict[type, dict[str, MemberDescriptorType] | None] = {}
        self._seen = {id(value): value for value in but}  # The values keep ids from being reused.
        self._queue: deque[Any] = deque()
        self._add(owners)
        while self._queue and len(self.values) < scope.most_objects:
            value = self._queue.popleft()
            self.values.append(value)
            self._visit(value)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore everything that was found, also after an error."""
        others = [value for value in self.values if type(value) not in CONTAINERS]
        chosen = list(self._choose_contents(others))
        restorers = [restore for restore in map(bind_content, chosen) if restore is not None]
        try:
            with tensors_kept(value for value in chosen if isinstance(value, Tensor)):
                self._lend(others)
                yield
        finally:
            self._restore(restorers)

    def list_removed(self) -> list[Any]:
        """List the objects that were put into places meanwhile, and that :meth:`kept` removed."""
        return [value for place in self._places for value in place.removed]

    def _add(self, values: Iterable[Any]) -> None:
        for value in values:
            if type(value) not in _ATOMS and id(value) not in self._seen:
                self._seen[id(value)] = value
                self._queue.append(value)

    def _visit(self, value: Any) -> None:
        """Note the places where ``value`` refers to objects, and queue these."""
        if type(value) in CONTAINERS:
            if value:
                self._add_place(CONTAINERS[type(value)](value), most=self._scope.most_items)
            else:
                self._empty.append(value)
        elif isinstance(value, Tensor):
            return
        elif isinstance(value, type):
            # Methods are code. What one closes over is as little the owner's as a global variable.
            if self._scope.owns(value):
                self._add_place(ClassPlace(value), but=FunctionType)
        elif isinstance(value, FunctionType):
            if self._scope.enters_function(value):
                self._add([value.__defaults__, value.__kwdefaults__, value.__dict__])
                self._add_place(hold_closure(value))
        elif isinstance(value, nn.Module) and not _is_entered(value, sharded=self._scope.sharded):
            self._add(parameter for _, parameter in value._parameters.items())
            self._add_place(MappingPlace(value._buffers))
        else:
            self._add(_list_parts(value))
            self._visit_items(value)
            self._visit_attributes(value)

    def _visit_items(self, value: Any) -> None:
        if isinstance(value, np.ndarray):
            value = tuple(value.flat) if value.dtype == object else ()
        if isinstance(value, tuple | frozenset):
            self._add(value if len(value) <= self._scope.most_items else ())
        elif isinstance(value, tuple(CONTAINERS)):
            hold = next(hold for kind, hold in CONTAINERS.items() if isinstance(value, kind))
            self._add_place(hold(value), most=self._scope.most_items)

    def _visit_attributes(self, value: Any) -> None:
        kind = type(value)
        if kind not in self._slots:
            entered = isinstance(value, nn.Module) or self._scope.enters(kind)
            self._slots[kind] = find_slots(kind) if entered else None
            self._add(kind.__mro__ if entered else ())
        slots = self._slots[kind]
        if slots is None:
            return
        attributes = getattr(value, "__dict__", None)
        if type(attributes) is dict:
            self._add_place(MappingPlace(attributes))
        if slots:
            self._add_place(hold_slots(value, slots))

    def _add_place(self, place: Place, but: Any = (), most: float = math.inf) -> None:
        self._places.append(place)
        found = place.was
        if self._scope.sharded and isinstance(found, dict):
            found = {name: value for name, value in found.items() if name != "_parameters"}
        if len(found) <= most:
            values = list_values(found)
            self._add([value for value in values if not isinstance(value, but)] if but else values)

    def _choose_contents(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield objects whose content is restored, as many as the limit of bytes allows."""
        left = self._scope.most_bytes
        for value in values:
            if self._scope.sharded and isinstance(value, nn.Parameter):
                continue
            # A file that is mapped to memory may be larger than memory, and is data, not state.
            if isinstance(value, np.memmap):
                continue
            if isinstance(value, np.ndarray) and not value.flags.writeable:
                continue
            size = count_bytes(value) if left < math.inf else 0
            if size <= left:
                left -= size
                yield value

    def _lend(self, values: Iterable[Any]) -> None:
        """Put stand-ins into all places; these put the originals back when they are restored."""
        pairs = ((value, self._scope.lend(value)) for value in values)
        lent = {id(value): stand_in for value, stand_in in pairs if stand_in is not value}
        for place in self._places if lent else ():
            for name, value in place.lend(lent):
                self.names.setdefault(id(value), name)

    def _restore(self, restorers: Iterable[Callable[[], object]]) -> None:
        """Restore everything, whatever error there is on the way; then raise the first error."""
        first = None
        for value in filter(None, self._empty):
            place = CONTAINERS[type(value)](value)
            place.was = type(place.was)()
            self._places.append(place)
        for restore in (*[place.restore for place in reversed(self._places)], *restorers):
            try:
                restore()
            except Exception as error:
                first = first or error
        if first is not None:
            raise first


def _list_parts(value: Any) -> list[Any]:
    """List what some objects of the standard library refer to."""
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if isinstance(value, zipfile.ZipFile):
        return [value.fp]
    return [value.fileobj] if isinstance(value, tarfile.TarFile) else []


def _is_entered(module: nn.Module, *, sharded: bool) -> bool:
    """Return whether the attributes of ``module`` are restored.

    torch's own wrappers (for scripts, graphs and distributed training) keep books of their own in
    their attributes, which have to stay as a forward pass left them. Its layers do not.
    """
    name = type(module).__module__
    layers = () if sharded else ("torch.nn.modules.", "torch.nn.utils.")
    return name.startswith(layers) or not name.startswith("torch.")
