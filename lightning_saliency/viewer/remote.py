"""Recorded runs in remote folders, copied to where they can be read by ranges of bytes."""

from __future__ import annotations

import atexit
import tempfile
from os import PathLike
from pathlib import Path
from typing import cast

from lightning_saliency.errors import RecordError
from lightning_saliency.record.finding import find_runs
from lightning_saliency.storage.files import MAX_TENSORS, safe_name
from lightning_saliency.storage.places import RemotePath, find_place

_KINDS = ("*.json", "*.safetensors")


def as_local(folder: str | PathLike[str]) -> Path:
    """Return a local folder as it is, and a copy of the records in a remote one.

    The copy is removed when the process ends.

    Args:
        folder: A folder, or a URL that fsspec knows.

    Raises:
        RecordError: A remote folder holds no recorded run, or a file that is too large.
        OSError: The store cannot be read.
    """
    place = find_place(folder)
    if isinstance(place, Path):
        return place.expanduser().resolve()
    found = cast("list[RemotePath]", find_runs(place))
    if not found:
        raise RecordError(
            f"no recorded run in {place}; pass the log folder of one run. A run with "
            "`SaliencyCallback(record=True)` writes it into its logger's folder"
        )
    home = tempfile.TemporaryDirectory(prefix="lightning-saliency-")
    atexit.register(home.cleanup)
    # Runs are named by their folders, so the copy lies in folders of the same names.
    log_folder = place.parent if found == [place] else place
    names = [part for part in log_folder.path.split("/") if part]
    copy = Path(home.name).resolve().joinpath(*map(safe_name, names))
    for record in found:
        inside = record.path.removeprefix(log_folder.path).strip("/")
        _copy_files(record, copy.joinpath(*map(safe_name, inside.split("/"))))
    return copy


def _copy_files(record: RemotePath, copy: Path) -> None:
    copy.mkdir(parents=True)
    for file in (file for kind in _KINDS for file in record.glob(kind)):
        if file.size() > MAX_TENSORS:
            raise RecordError(f"{file} is larger than {MAX_TENSORS:,} bytes")
        (copy / file.name).write_bytes(file.read_bytes())
