"""Write files whole or not at all, and read files without trusting their contents.

File names made from data cannot lead out of their folder. Nothing that is read is executed, and
every read has a size limit.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import safetensors

from lightning_saliency.errors import RecordError
from lightning_saliency.storage.places import Place, RemotePath

if TYPE_CHECKING:  # Programs that only look at files, such as TensorBoard, do without torch.
    from torch import Tensor

MAX_JSON = 2_000_000  # bytes; a thousand classes and images take a fifth of this
MAX_TENSORS = 500_000_000  # bytes; a thousand images of ten classes take two fifths of this
_LONGEST = 120  # bytes of a name made from data; file systems allow 255, suffixes included


def write_whole(path: Place, data: bytes) -> None:
    """Write ``data`` to ``path`` in one step, creating its folder if necessary.

    Until the new file is complete, an old file at ``path`` stays as it is. See
    :meth:`RemotePath.write_whole` for stores other than local folders.

    Raises:
        OSError: The folder cannot be written to, or the disk is full. No partial file remains.
    """
    if isinstance(path, RemotePath):
        path.write_whole(data)
        return
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


def move(source: Place, target: Place) -> None:
    """Move a file. Between two places of a store it is deleted once its copy is whole."""
    if isinstance(source, RemotePath) or isinstance(target, RemotePath):
        write_whole(target, source.read_bytes())
        source.unlink()
    else:
        source.replace(target)


def safe_name(name: str, *, ascii_only: bool = False) -> str:
    """Turn ``name`` into a file name: one path component, changed as little as possible.

    A name that must be changed gets a digest, so that different names stay different.

    Args:
        name: Any text, such as the name of an image or a class.
        ascii_only: Replace letters outside ASCII too.

    Returns:
        At most 127 bytes of UTF-8.

    Example:
        >>> safe_name("image 3 · class 3")
        'image 3 · class 3'
        >>> safe_name("../../etc/passwd")
        'etc_passwd-3754d6'
    """
    unsafe = r"[^A-Za-z0-9_ -]+" if ascii_only else r"[^\w ·-]+"
    plain = re.sub(unsafe, "_", name).strip("_ ")
    # File systems count bytes, and the cut may leave part of a letter, which is dropped.
    plain = plain.encode()[:_LONGEST].decode(errors="ignore")
    if plain == name:
        return name
    # A folder name that is not valid UTF-8 holds lone surrogates, which plain UTF-8 cannot encode.
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{plain or 'image'}-{digest[:6]}"


def json_bytes(data: Mapping[str, Any]) -> bytes:
    """Encode ``data`` as an indented JSON file."""
    # A file name that is not valid UTF-8 holds lone surrogates. They are written as JSON escapes.
    return json.dumps(data, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")


def tensor_bytes(about: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> bytes:
    """Encode ``tensors`` as a safetensors file with the metadata ``about``."""
    import safetensors.torch  # It imports torch, which whoever has tensors has imported.

    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    data: bytes = safetensors.torch.save(own, {"about": json.dumps(about)})
    return data


def read_json(path: Place) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Raises:
        RecordError: The file is missing, is larger than :data:`MAX_JSON`, or does not hold a JSON
            object.
    """
    _check_file(path, MAX_JSON)
    try:
        return _parse_object(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from error


def read_tensors(path: Place) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the metadata and the tensors of a safetensors file of :func:`tensor_bytes`.

    Raises:
        RecordError: The file is missing, damaged, larger than :data:`MAX_TENSORS`, or has no
            metadata.
    """
    _check_file(path, MAX_TENSORS)
    try:
        if isinstance(path, RemotePath):
            return _parse_tensors(path.read_bytes())
        with path.open("rb") as file:
            _check_header(file.read(8))
        with safetensors.safe_open(path, "pt") as opened:
            about = _parse_about(opened.metadata())
            # The tensors are copied because overwriting a mapped file would kill the process.
            tensors = {name: opened.get_tensor(name).clone() for name in opened.keys()}  # noqa: SIM118
    except UNREADABLE as error:
        raise damaged(path, error) from error
    return about, tensors


def _parse_tensors(data: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the metadata and the tensors from the content of a safetensors file."""
    length = _check_header(data[:8])
    tensors = safetensors.torch.load(data)  # This checks the header that is parsed below.
    header = _parse_object(data[8 : 8 + length])
    return _parse_about(header.get("__metadata__")), tensors


def _check_header(start: bytes) -> int:
    """The length of the header of a safetensors file, from the first 8 bytes of the file."""
    length = int.from_bytes(start, "little")
    if length > MAX_JSON:
        raise ValueError(f"its header claims {length} bytes")
    return length


def _parse_about(metadata: Mapping[str, str] | None) -> dict[str, Any]:
    text = (metadata or {}).get("about")
    if text is None:
        raise ValueError("it has no metadata")
    return _parse_object(text.encode())


# Damaged files can raise any of these. Running out of memory is not among them.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError),
    safetensors.SafetensorError,
)


def damaged(path: Place, why: object) -> RecordError:
    """Build the error, in one line, for a file whose contents are not as they should be."""
    if isinstance(path, RemotePath) and isinstance(why, OSError):
        reason = summarise(why).removeprefix(f"{path}: ")
        return RecordError(f"{path} cannot be read: {reason}")
    return RecordError(f"{path} is damaged, or was not written by this package: {summarise(why)}")


def summarise(why: object) -> str:
    """The message of an error in one line of at most 200 characters."""
    return " ".join(str(why).split())[:200] or type(why).__name__


def _parse_object(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def _check_file(path: Place, limit: int) -> None:
    if not path.is_file():  # Reading a pipe, which is no regular file, would block.
        raise RecordError(f"there is no file {path}")
    size = path.size() if isinstance(path, RemotePath) else path.stat().st_size
    if size > limit:
        raise RecordError(f"{path} has {size:,} bytes, more than the limit of {limit:,}")
