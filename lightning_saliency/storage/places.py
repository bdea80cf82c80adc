"""Places for files: local folders, and stores that fsspec reaches by a URL such as ``s3://…``.

A local place is a :class:`pathlib.Path`. A :class:`RemotePath` has those methods of it that this
package uses, so that the code that reads and writes runs is the same for both. fsspec, which
Lightning needs for its own remote folders, is imported for URLs only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from lightning_saliency.errors import RecordError

# A protocol has at least two letters, because a single one is a drive of Windows.
_URL = re.compile(r"[A-Za-z][\w+.-]+(::[A-Za-z][\w+.-]+)*://")
# Lightning makes `file:/logs` of `file:///logs`. On Windows `file:///C:/logs` is `C:/logs`.
_LOCAL_URL = re.compile(r"(?:file|local):(?://|(?=/))(?:/(?=[A-Za-z]:))?")
_COLLAPSED_URL = re.compile(r"([a-z][a-z0-9+.-]+):/(?!/)")

_ABSENT = (FileNotFoundError, NotADirectoryError)
_KINDS = (*_ABSENT, FileExistsError, PermissionError, TimeoutError)


@dataclass(frozen=True, slots=True)
class RemotePath:
    """A file or folder in a store of fsspec, with a part of the interface of ``pathlib.Path``.

    All methods that reach the store raise an :class:`OSError` that names the URL, whatever error
    the library of the store raises.

    Attributes:
        url: What users see, such as ``"s3://bucket/logs"``.
        path: The same as the file system names it.
        file_system: The ``fsspec.AbstractFileSystem`` of the store.
    """

    url: str
    path: str = field(compare=False, repr=False)
    file_system: Any = field(compare=False, repr=False)

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        if not name:
            return self
        url = f"{self.url}{name}" if self.url.endswith("/") else f"{self.url}/{name}"
        return RemotePath(url, f"{self.path.rstrip('/')}/{name}", self.file_system)

    def joinpath(self, *names: str) -> RemotePath:
        """The place that ``names`` lead to, folder by folder."""
        place = self
        for name in names:
            place = place / name
        return place

    @property
    def parent(self) -> RemotePath:
        """The folder that holds this place."""
        path = self.path.rpartition("/")[0]
        return RemotePath(self.url.rpartition("/")[0], path, self.file_system)

    @property
    def name(self) -> str:
        """The last part of the URL."""
        return self.path.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its suffix."""
        return PurePosixPath(self.name).stem

    def exists(self) -> bool:
        """Whether there is a file or folder at this place."""
        return self._info() is not None

    def is_file(self) -> bool:
        """Whether there is a file at this place."""
        return (self._info() or {}).get("type") == "file"

    def is_dir(self) -> bool:
        """Whether there is a folder at this place, or any file below it."""
        return (self._info() or {}).get("type") == "directory"

    def size(self) -> int:
        """The size of the file in bytes."""
        info = self._info()
        if info is None or info.get("size") is None:
            raise OSError(f"{self}: the store does not say how large this file is")
        return int(info["size"])

    def read_bytes(self) -> bytes:
        """Read the whole file."""
        with self._named_errors():
            data: bytes = self.file_system.cat_file(self.path)
            return data

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Find what matches ``pattern``: one name with wildcards, then perhaps ``/`` and a file."""
        wanted, _, file = pattern.partition("/")
        for name, kind in self._list():
            if not fnmatchcase(name, wanted):
                continue
            if not file:
                yield self / name
            elif kind == "directory" and (self / name / file).is_file():
                yield self / name / file

    def mkdir(self, *, parents: bool = True) -> None:
        """Reserve a folder. Object stores have none, so it may appear with its first file only.

        Raises:
            FileExistsError: There is a file or folder at this place.
        """
        if self.exists():
            raise FileExistsError(f"{self} exists already")
        with self._named_errors():
            self.file_system.makedirs(self.path, exist_ok=parents)

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete the file."""
        try:
            with self._named_errors():
                self.file_system.rm_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def write_whole(self, data: bytes) -> None:
        """Write a file by a single put, creating its folder if necessary.

        In object stores a put is atomic. In others, such as SFTP, one that fails may leave a part
        of the file: it is replaced by the earlier file, or deleted if there was none, as far as
        the store still answers.
        """
        earlier = None
        with suppress(OSError):  # Some users may write files, but not look for them.
            earlier = self.read_bytes() if self.is_file() else None
        try:
            with self._named_errors():
                self.file_system.makedirs(self.parent.path, exist_ok=True)
                self.file_system.pipe_file(self.path, data)
        except BaseException:
            # The error of the put is the one to report, whatever happens while cleaning up.
            with suppress(Exception):
                self._remove_part(data, earlier)
            raise

    def _remove_part(self, data: bytes, earlier: bytes | None) -> None:
        """Put the earlier file back if only the beginning of ``data`` was written."""
        if not self.is_file() or self.size() >= len(data):
            return
        left = self.read_bytes()
        if left == earlier or not data.startswith(left):
            return
        if earlier is None:
            self.unlink()
        else:
            self.file_system.pipe_file(self.path, earlier)

    def _info(self) -> dict[str, Any] | None:
        """What the store says about this place; ``None`` if there is nothing."""
        try:
            with self._named_errors():
                # Other processes write too, and stores keep listings that may be out of date.
                self.file_system.invalidate_cache(self.path)
                info: dict[str, Any] = self.file_system.info(self.path)
                return info
        except _ABSENT:
            return None

    def _list(self) -> list[tuple[str, str]]:
        """The name and type of each entry of this folder, sorted; none if there is no folder."""
        try:
            with self._named_errors():
                self.file_system.invalidate_cache(self.path)
                entries = self.file_system.ls(self.path, detail=True)
        except _ABSENT:
            return []
        # Some stores list the marker of the folder itself, or the file if this is one.
        paths = [(entry["name"].strip("/"), str(entry["type"])) for entry in entries]
        others = [(path, kind) for path, kind in paths if path != self.path.strip("/")]
        return sorted((path.rpartition("/")[2], kind) for path, kind in others)

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            kind = next((kind for kind in _KINDS if isinstance(error, kind)), OSError)
            why = " ".join(str(error).split()) or type(error).__name__
            if not isinstance(error, OSError) and str(error):
                why = f"{type(error).__name__}: {why}"
            raise kind(why if self.url in why else f"{self}: {why}") from error


Place: TypeAlias = Path | RemotePath


def find_place(where: str | os.PathLike[str] | RemotePath) -> Place:
    """Find the place that a path or a URL names.

    Args:
        where: A local path, or a URL of a protocol that fsspec knows. URLs that begin with
            ``file://`` are local paths.

    Raises:
        RecordError: fsspec does not know the protocol, a package for it is missing, or the URL
            was made a ``Path``, which cannot hold it.

    Example:
        >>> find_place("logs/version_0").name
        'version_0'
        >>> print(find_place("memory://logs") / "version_0")
        memory://logs/version_0
    """
    if isinstance(where, RemotePath):
        return where
    text = str(where)
    if found := _LOCAL_URL.match(text):
        return Path(text[found.end() :])
    if _URL.match(text):
        return _open_store(text)
    path = Path(where)
    if (found := _COLLAPSED_URL.match(text)) and not isinstance(where, str):
        _refuse_collapsed(path, found[1])
    return path


def full_name(place: Place) -> str:
    """The absolute path or the URL of a place, by which it is found from any working directory."""
    return str(place.absolute()) if isinstance(place, Path) else str(place)


def _open_store(url: str) -> RemotePath:
    from fsspec.core import url_to_fs

    try:
        file_system, path = url_to_fs(url)
    except Exception as error:
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        hint = "; pass a local path, or a URL that fsspec knows" * isinstance(error, ValueError)
        raise RecordError(f"{url} cannot be opened: {why}{hint}") from error
    shown = url if url.endswith("://") else url.rstrip("/")
    return RemotePath(shown, path, file_system)


def _refuse_collapsed(path: Path, protocol: str) -> None:
    from fsspec import available_protocols

    if protocol in available_protocols() and not Path(f"{protocol}:").exists():
        raise RecordError(
            f"{path} was a URL before it became a `Path`, which cannot hold the two slashes; pass "
            f"it as a string, '{protocol}://…'"
        )
