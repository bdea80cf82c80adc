"""The last observation of a run as one picture, for places that run no script."""

from __future__ import annotations

import numpy as np

from lightning_saliency.draw.canvas import Tile, encode, sheet
from lightning_saliency.draw.colours import Picture, colorize, fit
from lightning_saliency.errors import RecordError
from lightning_saliency.functional.text import percent, plain
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.viewer.maps import LEVELS, NOT_FINITE
from lightning_saliency.viewer.record import Moment, Record
from lightning_saliency.viewer.tensors import Array

_SIZE = 72  # pixels per side of a tile
_ROWS = 8
_COLUMNS = 10


def draw_still(record: Record, moment: Moment) -> bytes:
    """Draw the first images of a run and their maps at one observation.

    Returns:
        A JPEG file.

    Raises:
        RecordError: The observation cannot be read.
    """
    facts, count = record.facts(), min(_ROWS, len(moment.targets))
    columns = range(min(_COLUMNS, len(moment.targets[0])))
    maps = record.maps(moment.step, images=range(count), columns=columns).astype(np.float32)
    maps[maps == NOT_FINITE] = np.nan
    try:
        photos: Array | None = record.photos()
    except RecordError:
        photos = None
    rows = []
    for image in range(count):
        tiles = [_draw_map(facts, moment, maps[image, k] / LEVELS, image, k) for k in columns]
        rows.append([*_draw_photo(facts, photos, image), *tiles])
    title = f"{plain(moment.caption)}, step {moment.step}"
    return encode(sheet(rows, title=title, aside=plain(moment.rules[0].replace("_", " "))), "jpeg")


def _draw_photo(facts: RunInfo, photos: Array | None, image: int) -> list[Tile]:
    if photos is None:
        return []
    names = ", ".join(facts.class_name(label) for label in facts.true_classes(image))
    picture: Picture = fit(photos[image], _SIZE)
    return [Tile(picture, plain(names or facts.images[image]))]


def _draw_map(facts: RunInfo, moment: Moment, values: Array, image: int, column: int) -> Tile:
    target, p = moment.targets[image][column], moment.p[image][column]
    return Tile(
        colorize(values, _SIZE, "signed"),
        plain(facts.class_name(target)),
        "" if p is None else percent(p),
        framed=target in facts.true_classes(image),
        strong=target == moment.predicted[image],
    )
