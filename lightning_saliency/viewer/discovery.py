"""Find the recorded runs below the log folders of a TensorBoard."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning_saliency.errors import RecordError
from lightning_saliency.record.facts import RUN_FILE
from lightning_saliency.record.finding import SKIPPED
from lightning_saliency.viewer.record import Record, is_file_of_record

_REMOTE = re.compile(r"[a-zA-Z][0-9a-zA-Z.+-]*://")
_DEPTH = 8  # folders below a log folder
_EVERY = 5.0  # seconds from one look at the disk to the next
_PATIENCE = 0.3  # seconds that a question waits for the first look to end


@dataclass(frozen=True, slots=True)
class Root:
    """A log folder.

    Attributes:
        folder: Its path.
        name: What TensorBoard calls it: the first part of the names of its runs; may be empty.
    """

    folder: Path
    name: str = ""


def is_remote(path: str) -> bool:
    """Whether a log folder is not on a disk of this machine, such as ``gs://bucket/logs``."""
    return _REMOTE.match(path) is not None


def parse_roots(logdir: str, logdir_spec: str = "") -> tuple[list[Root], list[str]]:
    """Read TensorBoard's ``--logdir`` and ``--logdir_spec`` as TensorBoard does.

    Args:
        logdir: One folder.
        logdir_spec: Folders, or ``name:folder``, with commas between them.

    Returns:
        The folders on a disk, and those that are not.

    Example:
        >>> parse_roots("", "new:logs/a,logs/b,gs://bucket/c")[1]
        ['gs://bucket/c']
    """
    named = [("", logdir)] if logdir else [_parse_spec(s) for s in logdir_spec.split(",") if s]
    remote = [path for _, path in named if is_remote(path)]
    local = [Root(Path(path).expanduser(), name) for name, path in named if not is_remote(path)]
    return local, remote


def _parse_spec(text: str) -> tuple[str, str]:
    """Split ``name:folder``; a path that begins with a slash or a scheme has no name."""
    if is_remote(text) or text.startswith("/") or Path(text).drive or ":" not in text:
        return "", text
    name, _, path = text.partition(":")
    return name, path


def find_records(roots: Iterable[Root]) -> list[Record]:
    """Find the recorded runs in and below folders, in the order of their names.

    Symbolic links are followed, as TensorBoard does, but not round in circles.
    """
    found: dict[str, Record] = {}
    for root in roots:
        for folder in _walk(root.folder, _DEPTH, frozenset()):
            record = Record(folder, _name_run(root, folder))
            number = 2
            while record.id in found:  # Two log folders without names can hold the same names.
                record.id = f"{record.run}/{folder.name} ({number})"
                number += 1
            found[record.id] = record
    return list(found.values())


def _walk(folder: Path, depth: int, above: frozenset[tuple[int, int]]) -> Iterator[Path]:
    """Yield the folders of recorded runs.

    Args:
        folder: Where to look.
        depth: How many levels below it to look at.
        above: The folders that lead here, which a symbolic link could lead back to.
    """
    try:
        status = folder.stat()
        here = status.st_dev, status.st_ino
        if here in above:
            return
        with os.scandir(folder) as entries:
            known = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError:  # It is gone, or nobody may read it.
        return
    files = [name for name, is_folder in known if not is_folder]
    # Other programs have a `run.json` too, but none of the other files.
    if RUN_FILE in files and any(map(is_file_of_record, files)):
        yield folder
    for name, is_folder in known if depth else ():
        if is_folder and not name.startswith(".") and name not in SKIPPED:
            yield from _walk(folder / name, depth - 1, above | {here})


def _name_run(root: Root, folder: Path) -> str:
    """The name that TensorBoard gives to the run whose callback keeps its record in ``folder``."""
    inside = "." if folder == root.folder else folder.parent.relative_to(root.folder).as_posix()
    if not root.name:
        return inside
    return root.name if inside == "." else f"{root.name}/{inside}"


class Catalogue:
    """All records below some folders, looked for again every few seconds by a thread.

    No question waits for the disk, except shortly for the first look at it: a log folder may be on
    a slow network.

    Args:
        roots: The folders.
        every: Seconds from one look to the next; more if a look takes long.
    """

    def __init__(self, roots: Sequence[Root], every: float = _EVERY) -> None:
        self._roots, self._every = roots, every
        self._records: dict[str, Record] = {}
        self._due = 0.0
        self._lock = threading.Lock()
        self._first = threading.Event()
        self._look_again()

    def records(self) -> Mapping[str, Record]:
        """The records by their ids, as they were at the last look."""
        self._look_again()
        self._first.wait(_PATIENCE)
        return self._records

    def _look_again(self) -> None:
        """Start a look at the disk, if one is due and none is under way."""
        with self._lock:
            if time.monotonic() < self._due:
                return
            self._due = float("inf")
        threading.Thread(target=self._look, name="saliency-records", daemon=True).start()

    def _look(self) -> None:
        begun = time.monotonic()
        try:
            found = {record.id: record for record in find_records(self._roots)}
            # A record that is known remembers what it has read.
            old = self._records
            self._records = {
                id_: old[id_] if id_ in old and old[id_].folder == record.folder else record
                for id_, record in found.items()
            }
        finally:
            now = time.monotonic()
            self._due = now + max(self._every, 10 * (now - begun))
            self._first.set()


def find_readable(records: Iterable[Record]) -> tuple[list[Record], list[str]]:
    """Tell records whose facts can be read from damaged ones.

    Returns:
        The records, and the ids of the damaged ones.
    """
    readable, damaged = [], []
    for record in records:
        try:
            record.facts()
            readable.append(record)
        except RecordError:
            damaged.append(record.id)
    return readable, damaged
