"""Read from a dataset, and give it back as it was found.

A dataset may change when it is read: it opens its file on the first read, counts its reads, fills
a cache, or draws from a random generator of its own. Training would then continue from another
state, and worker processes would inherit an open file. :func:`dataset_kept` restores the dataset
and all that it refers to; see :mod:`objects`.

Objects of the standard library and of packages that wrap resources are left alone, because their
attributes cannot be set back without harm: an image that was loaded has closed its file. Only the
position in files that were open before is restored.
"""

from __future__ import annotations

import io
import itertools
import mmap
import os
import sys
import tarfile
import types
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from lightning_saliency.isolation.objects import Scope, Walk

_MOST_PARTS = 10_000  # objects that are looked at
_MOST_ITEMS = 1_000  # The items of a longer container are put back, but not looked at.
_MOST_BYTES = 2**26  # of the content of tensors and arrays together

# Packages whose objects hold resources, threads or caches.
_RESOURCES = frozenset(
    {*sys.stdlib_module_names, "PIL", "numpy", "pandas", "pyarrow", "h5py", "lmdb", "cv2", "av"}
) - {"__main__"}
# Their objects are looked at, but their classes belong to everybody.
_SHARED = frozenset({"torch", "torchvision", "lightning", "pytorch_lightning"})
_RUN = frozenset({"Trainer", "Fabric", "Logger", "Strategy"})

_FILES = (io.IOBase, mmap.mmap)
_ARCHIVES = (zipfile.ZipFile, tarfile.TarFile)
# These cannot be copied, or share what they read from with their copy.
_ONE_TIME = (
    *(types.GeneratorType, map, filter, zip, enumerate),
    *(kind for kind in vars(itertools).values() if isinstance(kind, type)),
)


@contextmanager
def dataset_kept(*owners: Any) -> Iterator[list[str]]:
    """Restore what reading changes in datasets and whatever else is called to read from them.

    The following are restored, also after an error, in ``owners`` and in all that they refer to,
    such as the dataset that a ``Subset`` is of, transforms, containers and closures:

    - attributes of objects and of their classes, and the items of containers; files that were
      opened meanwhile are closed;
    - the state of random generators of numpy, torch and Python;
    - the position in files that were open before;
    - the content of tensors and arrays, up to 64 MiB in total.

    Not found are module globals, cached functions, and memory that processes share.

    Args:
        owners: Datasets, samplers, functions that collate.

    Yields:
        A list, which is filled at the end: the generators and other one-time iterators that were
        read from, which cannot be undone, in words.
    """
    scope = _Data()
    walk = Walk(owners, scope)
    moved: list[str] = []
    try:
        with _positions_kept(walk.values), walk.kept():
            yield moved
    finally:
        _close_files(Walk(walk.list_removed(), scope, but=walk.values).values)
        moved += [watched.describe(walk.names) for watched in scope.watched if watched.moved]


@contextmanager
def offsets_kept(*owners: Any) -> Iterator[None]:
    """Restore the position in files that ``owners`` hold open while another process reads.

    A forked worker shares the offsets of files that were open before, so its reading moves them
    here as well.
    """
    found = []
    for part in Walk(owners, _Data()).values:
        # Not every file object has a descriptor, and pipes have no position.
        with suppress(OSError, ValueError):
            if isinstance(part, io.IOBase):
                found.append((part.fileno(), os.lseek(part.fileno(), 0, os.SEEK_CUR)))
    try:
        yield
    finally:
        for descriptor, offset in found:
            os.lseek(descriptor, offset, os.SEEK_SET)


class _Data(Scope):
    """What belongs to a dataset: everything but the run and what wraps resources."""

    def __init__(self) -> None:
        self.most_objects, self.most_items = _MOST_PARTS, _MOST_ITEMS
        self.most_bytes = _MOST_BYTES
        self.watched: list[_Watched] = []

    def enters(self, kind: type) -> bool:
        of_a_run = any(c.__name__ in _RUN and "lightning" in c.__module__ for c in kind.__mro__)
        plain = kind is types.SimpleNamespace or _package(kind) not in _RESOURCES
        return plain and not of_a_run

    def owns(self, kind: type) -> bool:
        return _package(kind) not in _RESOURCES | _SHARED

    def lend(self, value: Any) -> Any:
        """Watch an iterator that cannot be copied."""
        lent = super().lend(value)
        if lent is value and isinstance(value, _ONE_TIME):
            lent = _Watched(value)
            self.watched.append(lent)
        return lent


class _Watched:
    """Stands in for an iterator and notes whether it was read from."""

    def __init__(self, iterator: Any) -> None:
        self.iterator, self.moved = iterator, False

    def __iter__(self) -> _Watched:
        return self

    def __next__(self) -> Any:
        self.moved = True
        return next(self.iterator)

    def describe(self, names: dict[int, Any]) -> str:
        """Describe the iterator by its name and type."""
        name = names[id(self.iterator)]
        place = repr(name) if isinstance(name, str) else f"item {name!r}"
        return f"{place}, a {type(self.iterator).__name__}"


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]


@contextmanager
def _positions_kept(parts: Iterable[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        for part in parts:
            # A closed file and a pipe have no position.
            if isinstance(part, _FILES):
                with suppress(OSError, ValueError):
                    stack.callback(_seek, part, part.tell())
        yield


def _seek(file: Any, position: int) -> None:
    with suppress(OSError, ValueError):
        file.seek(position)


def _close_files(parts: Iterable[Any]) -> None:
    for part in parts:
        if isinstance(part, _FILES + _ARCHIVES):
            # A mapping that a tensor still refers to refuses to be closed.
            with suppress(Exception):
                part.close()
