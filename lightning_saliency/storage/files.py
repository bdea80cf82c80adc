"""Files that appear whole or not at all, and are read without trust in what they hold.

Names that come from data cannot leave their folder; nothing that is read is executed, and nothing
is read without a limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lightning_saliency.errors import RecordError

MAX_JSON = 2_000_000  # bytes: a thousand classes and images take a fifth of that
MAX_TENSORS = 500_000_000  # bytes: a thousand images of ten classes take two fifths of that
_LONGEST = 120  # bytes of a name that comes from data; file systems allow 255, with suffixes


def write_whole(path: Path, data: bytes) -> None:
    """Write ``data`` to ``path``, which until the last moment stays as it was.

    Raises:
        OSError: The folder cannot be written to, or the disk is full; nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def safe_name(name: str, *, ascii_only: bool = False) -> str:
    """A file name for ``name``: one path component, changed as little as may be.

    A name that has to be changed gets a digest, which tells it apart from others.

    Example:
        >>> safe_name("image 3 · class 3")
        'image 3 · class 3'
        >>> safe_name("../../etc/passwd")
        'etc_passwd-3754d6'
    """
    unsafe = r"[^A-Za-z0-9_ -]+" if ascii_only else r"[^\w ·-]+"
    plain = _cut(re.sub(unsafe, "_", name).strip("_ "))
    if plain == name:
        return name
    return f"{plain or 'image'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def json_bytes(told: Mapping[str, Any]) -> bytes:
    """``told`` as a JSON file that a person can read."""
    # A file name that is no UTF-8 has halves of characters in it; they are written as JSON escapes.
    return json.dumps(told, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")


def tensor_bytes(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """``tensors`` as a safetensors file that tells ``about`` of itself."""
    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    data: bytes = safetensors.torch.save(own, {"about": json.dumps(about)})
    return data


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        RecordError: It is missing, larger than :data:`MAX_JSON`, or no JSON object.
    """
    _check_file(path, MAX_JSON)
    try:
        return _object(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def read_tensors(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What a safetensors file tells of itself, under ``"about"``, and its tensors.

    Raises:
        RecordError: It is missing, damaged, larger than :data:`MAX_TENSORS`, or tells nothing.
    """
    _check_file(path, MAX_TENSORS)
    try:
        with path.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
        if header > MAX_JSON:
            raise ValueError(f"its header claims {header} bytes")
        with safetensors.safe_open(path, "pt") as opened:
            told = (opened.metadata() or {}).get("about")
            if told is None:
                raise ValueError("it does not say what it is")
            about = _object(told.encode())
            # Copies: a file that is mapped and then overwritten would end the process.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except UNREADABLE as error:
        raise damaged(path, error) from error
    return about, tensors


# What a reader of damaged files raises, which is anything but memory or time that runs out.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError),
    safetensors.SafetensorError,
)


def damaged(path: Path, why: object) -> RecordError:
    """The error of a file that does not hold what it should, in one line."""
    return RecordError(f"{path} is damaged, or was not written by this package: {in_a_line(why)}")


def in_a_line(why: object) -> str:
    """What an error tells, at most 200 letters of it."""
    return " ".join(str(why).split())[:200] or type(why).__name__


def _object(data: bytes) -> dict[str, Any]:
    found = json.loads(data)
    if not isinstance(found, dict):
        raise ValueError("it holds no JSON object")
    return found


def _check_file(path: Path, limit: int) -> None:
    if not path.is_file():  # nor a pipe, which would be waited for
        raise RecordError(f"there is no file {path}")
    size = path.stat().st_size
    if size > limit:
        raise RecordError(f"{path} has {size:,} bytes, more than the {limit:,} that are read")


def _cut(text: str) -> str:
    """``text`` without the end that file systems, which count bytes, would not take."""
    return text.encode()[:_LONGEST].decode(errors="ignore")
