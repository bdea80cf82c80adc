"""Read tensors out of safetensors files with numpy, one range of bytes at a time.

Nothing in a file is trusted: sizes are checked against the file before anything is read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lightning_saliency.storage.files import MAX_JSON, MAX_TENSORS, UNREADABLE, damaged

Array = NDArray[Any]

# The types of numbers that records hold, in the words of the format. Others are not read.
_TYPES: dict[str, np.dtype[Any]] = {
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "I8": np.dtype("i1"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a tensor lies in a file.

    Attributes:
        dtype: The type of its numbers.
        shape: Its shape.
        start: Its first byte, counted from the start of the file.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorFile:
    """An open safetensors file.

    Attributes:
        about: The metadata that the package wrote.
        entries: The tensors by name.
    """

    about: Mapping[str, Any]
    entries: Mapping[str, Entry]
    _file: BinaryIO

    def read(self, name: str) -> Array:
        """Read a tensor.

        Raises:
            KeyError: There is none of this name.
        """
        entry = self.entries[name]
        return self.read_rows(name, 0, math.prod(entry.shape), 1).reshape(entry.shape)

    def read_rows(self, name: str, first: int, count: int, size: int) -> Array:
        """Read part of a tensor, taken as rows of ``size`` numbers.

        Args:
            name: The name of the tensor.
            first: The first row, from 0.
            count: The number of rows.
            size: The length of a row; the caller makes sure that the rows are in the tensor.

        Returns:
            ``(count, size)``.
        """
        entry = self.entries[name]
        width = size * entry.dtype.itemsize
        self._file.seek(entry.start + first * width)
        data = self._file.read(count * width)
        # The file may have been cut off since it was opened, which `frombuffer` refuses.
        return np.frombuffer(data, entry.dtype, count * size).reshape(count, size)


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """Open a safetensors file that has the metadata of this package.

    Raises:
        RecordError: The file is missing, too large, or damaged; also for errors in the ``with``
            block that damage to the file can cause.
    """
    try:
        if not path.is_file():  # Opening a pipe would wait for whoever writes into it.
            raise FileNotFoundError("there is no such file")
        with path.open("rb") as file:
            size = path.stat().st_size
            if size > MAX_TENSORS:
                raise ValueError(f"it has {size:,} bytes, more than the limit of {MAX_TENSORS:,}")
            yield _parse_header(file, size)
    except (*UNREADABLE, RecursionError) as error:
        raise damaged(path, error) from error


def _parse_header(file: BinaryIO, size: int) -> TensorFile:
    length = int.from_bytes(file.read(8), "little")
    if length > min(MAX_JSON, size):
        raise ValueError(f"its header claims {length} bytes")
    header = json.loads(file.read(length))
    about = json.loads(header.pop("__metadata__")["about"])
    if not isinstance(about, dict):
        raise ValueError("its metadata are no JSON object")
    known = {n: e for n, e in header.items() if e["dtype"] in _TYPES}
    entries = {name: _parse_entry(name, entry, 8 + length, size) for name, entry in known.items()}
    return TensorFile(about, entries, file)


def _parse_entry(name: str, entry: Mapping[str, Any], data: int, size: int) -> Entry:
    """Check that a tensor lies in its file.

    Args:
        name: Its name.
        entry: What the header says of it.
        data: Where the data begin in the file.
        size: The size of the file.
    """
    dtype, shape = _TYPES[entry["dtype"]], tuple(entry["shape"])
    start, end = entry["data_offsets"]
    if any(type(number) is not int or number < 0 for number in (start, end, *shape)):
        raise ValueError(f"`{name}` has a shape or a place that is not one of whole numbers")
    if end - start != math.prod(shape) * dtype.itemsize or data + end > size:
        raise ValueError(f"`{name}` does not have the size of its shape")
    return Entry(dtype, shape, data + start)
