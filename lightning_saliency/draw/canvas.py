"""Tiles and words laid out in one RGB picture, with numpy and PIL."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture: TypeAlias = NDArray[np.uint8]  # (height, width, 3)
Style: TypeAlias = Literal["signed", "magnitude", "overlay"]
STYLES: tuple[Style, ...] = ("signed", "magnitude", "overlay")
ImageFormat: TypeAlias = Literal["jpeg", "png"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("jpeg", "png")

Ink: TypeAlias = tuple[int, int, int]

OVERLAY_GAMMA = 0.7  # of the strength of a map: brings up what is faint, less so the noise
OVERLAY_DIMMED = 0.6  # how bright the image under a map is

_GAP = 6  # pixels between tiles, and around the sheet
_TEXT = 13  # pixels of a letter's height: readable where a viewer shrinks the picture a little
_LINE = 18  # pixels of a line of text
_PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (112, 117, 122)
_FRAME = (24, 128, 56)  # of what is true
_NARROWEST = 300  # pixels of a sheet's width: room for a title over a single tile
_JPEG_QUALITY = 90
_JPEG_LONGEST = 65_500  # pixels per side, a limit of the format
_LONGEST = 1000  # letters of a text that are looked at
_NAME_WIDTH = 180  # pixels of a row's name, at most


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One square of a sheet.

    Attributes:
        picture: ``(size, size, 3)`` uint8.
        name: Under it on the left; shortened where it does not fit.
        note: Under it on the right; always whole.
        framed: Whether a frame marks it as true.
        strong: Whether its words are bold.
    """

    picture: Picture
    name: str = ""
    note: str = ""
    framed: bool = False
    strong: bool = False


@dataclass(frozen=True, slots=True)
class RowName:
    """What stands on the left of a row: a name, shortened to fit, and a note in a line below."""

    name: str
    note: str = ""


def colorize(
    values: NDArray[Any], size: int, style: Style, image: Picture | None = None
) -> Picture:
    """Colour a signed map.

    Args:
        values: ``(h, w)``, the map in units of its scale: ±1 saturates.
        size: Pixels a side of the square to fill.
        style: ``"signed"``: red where the logit rises with the input, blue where it falls, white
            at zero; ``"magnitude"``: from black to yellow; ``"overlay"``: the magnitude laid over
            ``image``.
        image: ``(size, size, 3)``, needed for an overlay.

    Returns:
        ``(size, size, 3)``; a hatched tile where the map has values that are not finite.
    """
    if not np.isfinite(values).all():
        return _hatched(size)
    values = fit(values.astype(np.float32), size)
    if style == "signed":
        return _coloured(values / 2 + 0.5, "RdBu_r")
    strength = np.abs(values)
    if style == "magnitude" or image is None:
        return _coloured(strength, "inferno")
    weight = strength.clip(0, 1)[..., None] ** OVERLAY_GAMMA
    grey = image.mean(axis=2, keepdims=True) * OVERLAY_DIMMED
    laid: Picture = (grey * (1 - weight) + _coloured(strength, "hot") * weight).astype(np.uint8)
    return laid


def _coloured(values: NDArray[Any], table: str) -> Picture:
    picture: Picture = _colours(table)[_index(values)]
    return picture


def _index(values: NDArray[Any]) -> NDArray[np.uint8]:
    indices: NDArray[np.uint8] = (values.clip(0, 1) * 255).round().astype(np.uint8)
    return indices


@cache
def _colours(name: str) -> Picture:
    from matplotlib import colormaps  # takes a moment to import, and few commands draw

    table: Picture = colormaps[name](np.linspace(0, 1, 256), bytes=True)
    return np.ascontiguousarray(table[:, :3])


def _hatched(size: int) -> Picture:
    y, x = np.mgrid[:size, :size]
    stripes = np.where((x + y) // 6 % 2 == 0, 214, 240).astype(np.uint8)
    return np.repeat(stripes[..., None], 3, axis=2)


def fit(values: NDArray[Any], size: int) -> NDArray[Any]:
    """Scale ``(h, w)`` or ``(h, w, 3)`` to fill a square of ``size`` pixels, centred, zero around.

    Few pixels stay squares with sharp edges, as they are; many are interpolated.
    """
    height, width = values.shape[:2]
    longest = max(height, width)
    sharp = longest * 2 <= size
    shape = (max(1, round(width * size / longest)), max(1, round(height * size / longest)))
    method = Image.Resampling.NEAREST if sharp else Image.Resampling.BICUBIC
    scaled = np.asarray(Image.fromarray(values).resize(shape, method))
    square = np.zeros((size, size, *values.shape[2:]), dtype=values.dtype)
    top, left = (size - shape[1]) // 2, (size - shape[0]) // 2
    square[top : top + shape[1], left : left + shape[0]] = scaled
    return square


def photo(image: NDArray[Any], size: int) -> Picture:
    """A tile of an image ``(C, H, W)`` in [0, 1]; other than three channels are shown as grey."""
    channels = image if len(image) == 3 else image.mean(axis=0, keepdims=True).repeat(3, axis=0)
    return fit(np.ascontiguousarray(_index(channels.transpose(1, 2, 0))), size)


def sharp_size(height: int, width: int, size: int) -> int:
    """The largest side up to ``size`` at which every pixel of a small image is equally large.

    Example:
        >>> sharp_size(28, 28, 96), sharp_size(224, 224, 96)
        (84, 96)
    """
    longest = max(height, width)
    return size // longest * longest if 2 * longest <= size else size


def sheet(
    rows: Sequence[Sequence[Tile | None]],
    *,
    title: str,
    aside: str = "",
    foot: str = "",
    lead: Tile | None = None,
    column_names: Sequence[str] = (),
    row_names: Sequence[RowName] = (),
    row_heads: Sequence[str] = (),
) -> Picture:
    """Lay out ``rows`` of equally large tiles under a title.

    Args:
        rows: ``None`` leaves a place empty.
        title: In bold at the top left.
        aside: At the top right, faint; below the title if there is a ``lead``.
        foot: Below everything, faint; below the ``aside`` if there is a ``lead``.
        lead: A tile at the top left, with the title next to it.
        column_names: One per column, above the first row.
        row_names: One per row, on its left.
        row_heads: One per row, faint, in a line above it.
    """
    size = next(tile.picture.shape[0] for row in rows for tile in row if tile is not None)
    columns = max(len(row) for row in rows)
    names = [_row_lines(name) for name in row_names]
    margin = _GAP + (_widest([line for lines in names for line in lines]) + _GAP if names else 0)
    words = any(tile and (tile.name or tile.note) for row in rows for tile in row)
    over = _LINE if row_heads else 0
    pitch = over + size + _GAP + (_LINE if words else 0)
    head = _GAP + (size + _LINE + _GAP if lead else _LINE)
    top = head + (_LINE if column_names else 0)
    width = margin + columns * (size + _GAP)
    height = top + len(rows) * pitch + (_GAP if lead or not foot else _LINE + 2)
    canvas = Image.new("RGB", (max(width, _NARROWEST), height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _write_head(canvas, draw, title, aside, foot, lead)
    for column, name in enumerate(column_names):
        _write(draw, (margin + column * (size + _GAP), head), size, name)
    for r, row in enumerate(rows):
        y = top + r * pitch + over
        if row_heads:
            _write(draw, (margin, y - _LINE), columns * (size + _GAP), row_heads[r], ink=FAINT)
        if names:
            _write_row_name(draw, (margin - _GAP, y + size // 2), names[r])
        for c, tile in enumerate(row):
            if tile is not None:
                _place(canvas, draw, tile, margin + c * (size + _GAP), y)
    return np.asarray(canvas)


def _row_lines(row: RowName) -> list[str]:
    return [_shortened(text, _NAME_WIDTH, bold=False) for text in (row.name, row.note) if text]


def _write_row_name(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[str]
) -> None:
    """Lines that end at ``place`` and are centred on its height, the first one in ink."""
    x, middle = place
    for number, (text, ink) in enumerate(zip(lines, (INK, FAINT), strict=False)):
        y = middle + int((number - (len(lines) - 1) / 2) * _LINE)
        draw.text((x, y), text, ink, _font(), anchor="rm")


def _write_head(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    title: str,
    aside: str,
    foot: str,
    lead: Tile | None,
) -> None:
    if lead is None:
        room = canvas.width - 2 * _GAP
        _write(draw, (_GAP, _GAP - 2), room, title, aside, bold=True)
        _write(draw, (_GAP, canvas.height - _LINE), room, "", foot)
        return
    _place(canvas, draw, lead, _GAP, _GAP)
    left = 3 * _GAP + lead.picture.shape[0]
    room = canvas.width - left - _GAP
    _write(draw, (left, _GAP), room, title, bold=True)
    for line, words in enumerate((aside, *foot.split("; ")), start=1):
        _write(draw, (left, _GAP + line * _LINE), room, words, ink=FAINT)


def _place(canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int) -> None:
    size = tile.picture.shape[0]
    canvas.paste(Image.fromarray(tile.picture), (x, y))
    if tile.framed:
        draw.rectangle((x - 2, y - 2, x + size + 1, y + size + 1), outline=_FRAME, width=3)
    else:
        draw.rectangle((x, y, x + size - 1, y + size - 1), outline=(218, 220, 224))
    note_ink = INK if tile.strong else FAINT
    _write(draw, (x, y + size + 2), size, tile.name, tile.note, bold=tile.strong, aside=note_ink)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    width: int,
    left: str,
    right: str = "",
    *,
    bold: bool = False,
    ink: Ink = INK,
    aside: Ink = FAINT,
) -> None:
    x, y = place
    right_font = _font(bold and aside == ink)
    room = width - (right_font.getlength(right) + 4 if right else 0)
    draw.text((x, y), _shortened(left, room, bold=bold), ink, _font(bold))
    draw.text((x + width, y), right, aside, right_font, anchor="ra")


def _shortened(text: str, width: float, *, bold: bool) -> str:
    text = " ".join(text[:_LONGEST].split())  # a line break in a name would leave its line
    if _font(bold).getlength(text) <= width:
        return text
    while text and _font(bold).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _widest(texts: Sequence[str]) -> int:
    return int(max((_font().getlength(text) for text in texts), default=0))


@cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    from matplotlib import get_data_path  # its font has Latin, Greek and Cyrillic letters

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), _TEXT)


def encode(picture: Picture, image_format: ImageFormat) -> bytes:
    """``picture`` as a JPEG (quality 90, colour not subsampled) or PNG file.

    PNG also where a side is too long for JPEG, as in a film strip of a thousand classes.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    if image_format == "jpeg" and max(image.size) <= _JPEG_LONGEST:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
