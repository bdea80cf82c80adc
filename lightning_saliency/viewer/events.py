"""Read the curves of a run out of TensorBoard's event files, quickly.

TensorBoard's own reader computes a checksum of every picture, in Python, which takes half a minute
where this takes a tenth of a second.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Curves = dict[str, list[tuple[int, float]]]

_LARGEST = 16_384  # bytes of an event with numbers; larger ones hold pictures
_MOST_POINTS = 300  # of a curve
_MOST_CURVES = 24
# What a page shows first, by a part of its name; see `_rank`.
_FIRST = ("acc", "f1", "val_loss", "val/loss", "loss")


def read_curves(folder: Path, prefix: str) -> Curves:
    """Read the scalars in the event files of a folder, thinned out to a few hundred points each.

    Args:
        folder: The log folder of a run.
        prefix: The first part of the tags to leave out: those of the callback, whose values are in
            its record.

    Returns:
        Steps and values by tag; nothing if there are no event files, or no TensorBoard.
    """
    try:
        from google.protobuf.message import DecodeError
        from tensorboard.compat.proto.event_pb2 import Event
    except ImportError:
        return {}
    curves: Curves = {}
    for path in sorted(folder.glob("*tfevents*")):
        for data in _read_small_events(path):
            try:
                event = Event.FromString(data)
            except DecodeError:
                continue
            for value in event.summary.value:
                number = _read_number(value)
                if math.isfinite(number):
                    curves.setdefault(value.tag, []).append((event.step, float(f"{number:.5g}")))
    others = [tag for tag in curves if tag != "epoch" and not tag.startswith(f"{prefix}/")]
    return {tag: _thin(sorted(curves[tag])) for tag in sorted(others, key=_rank)[:_MOST_CURVES]}


def _read_small_events(path: Path) -> Iterator[bytes]:
    """Yield the events that are small enough to hold only numbers."""
    try:
        if not path.is_file():
            return
        with path.open("rb") as file:
            # A length of 8 bytes and its checksum, the event, and the checksum of the event.
            while len(head := file.read(12)) == 12:
                size = int.from_bytes(head[:8], "little")
                if size > _LARGEST:
                    file.seek(min(size + 4, path.stat().st_size), 1)
                    continue
                data = file.read(size)
                if len(data) < size:
                    return
                file.seek(4, 1)
                yield data
    except OSError:
        return


def _read_number(value: Any) -> float:
    """The number in a value of a summary; NaN if it holds something else."""
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return float(value.simple_value)
    if kind == "tensor" and len(value.tensor.float_val) == 1:
        return float(value.tensor.float_val[0])
    return math.nan


def _rank(tag: str) -> tuple[int, str]:
    """The order in which curves are worth their room."""
    found = (i for i, part in enumerate(_FIRST) if part in tag.lower())
    return next(found, len(_FIRST)), tag


def _thin(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Keep a few hundred points, spread evenly, the first and the last among them."""
    last = len(points) - 1
    if last < _MOST_POINTS:
        return points
    return [points[round(i * last / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS)]
