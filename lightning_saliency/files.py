"""Files that appear whole or not at all, under names that cannot leave their folder."""

from __future__ import annotations

import hashlib
import os
import re
import uuid
from pathlib import Path

_LONGEST = 80  # characters of a name that comes from data; file systems allow 255 bytes


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
    plain = re.sub(unsafe, "_", name).strip("_ ")[:_LONGEST]
    if plain == name:
        return name
    return f"{plain or 'image'}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
