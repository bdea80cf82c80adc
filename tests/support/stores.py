"""A store of fsspec for tests: a local folder behind a URL, whose operations fail on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, ClassVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

OPERATIONS = ("pipe_file", "cat_file", "ls", "info", "rm_file", "makedirs")


@dataclass
class Fault:
    """What fails in a :class:`FaultyStore`.

    Attributes:
        operation: The method of the store that fails.
        act: Called in its place, with the method itself and its arguments.
        name: A pattern for the names of the files and folders for which it fails.
        met: The paths for which it failed.
    """

    operation: str
    act: Callable[..., Any]
    name: str = "*"
    met: list[str] = field(default_factory=list)


class FaultyStore(LocalFileSystem):
    """The local folder whose path follows ``faulty://``.

    It writes in place as SFTP does, without a temporary file, and needs folders to be made.
    """

    protocol = "faulty"
    faults: ClassVar[list[Fault]] = []

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        return LocalFileSystem._strip_protocol(str(path).removeprefix("faulty://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"faulty://{self._strip_protocol(name)}"


def _failing(operation: str) -> Any:
    whole = getattr(LocalFileSystem, operation)

    def run(self: FaultyStore, path: Any, *args: Any, **named: Any) -> Any:
        def go_on() -> Any:
            return whole(self, path, *args, **named)

        for fault in FaultyStore.faults:
            if fault.operation == operation and fnmatch(Path(path).name, fault.name):
                fault.met.append(str(path))
                return fault.act(go_on, self._strip_protocol(path), *args)
        return go_on()

    return run


for _name in OPERATIONS:
    setattr(FaultyStore, _name, _failing(_name))
# Pytest imports this module a second time, to look for doctests; there is one store all the same.
if "faulty" not in fsspec.registry:
    fsspec.register_implementation("faulty", FaultyStore)
FaultyStore = fsspec.get_filesystem_class("faulty")  # type: ignore[misc]


@contextmanager
def failing(operation: str, act: Callable[..., Any], name: str = "*") -> Iterator[Fault]:
    """Let an operation of the store fail while the block runs."""
    fault = Fault(operation, act, name)
    FaultyStore.faults.append(fault)
    try:
        yield fault
    finally:
        FaultyStore.faults.remove(fault)


def refuse(error: BaseException) -> Callable[..., Any]:
    """Raise ``error`` and do nothing."""

    def act(*_: Any) -> None:
        raise error

    return act


def break_off(error: BaseException, part: float = 0.5) -> Callable[..., Any]:
    """Write the beginning of the file, and raise ``error``."""

    def act(_: Any, path: str, data: bytes, *rest: Any) -> None:
        Path(path).write_bytes(data[: int(len(data) * part)])
        raise error

    return act


def answer_late(error: BaseException) -> Callable[..., Any]:
    """Do what was asked, and raise ``error`` all the same."""

    def act(go_on: Callable[[], Any], *_: Any) -> None:
        go_on()
        raise error

    return act


def leave_out(name: str) -> Callable[..., Any]:
    """List a folder without the files whose names match a pattern."""

    def act(go_on: Callable[[], Any], *_: Any) -> Any:
        return [entry for entry in go_on() if not fnmatch(Path(entry["name"]).name, name)]

    return act
