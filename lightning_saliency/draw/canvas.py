"""Tiles and words, laid out in one RGB picture with numpy and PIL."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from lightning_saliency.draw.colours import Picture

ImageFormat: TypeAlias = Literal["jpeg", "png"]
IMAGE_FORMATS: tuple[ImageFormat, ...] = ("jpeg", "png")

Ink: TypeAlias = tuple[int, int, int]

# All sizes are in pixels.
_GAP = 6  # between tiles, and around the sheet
_BLOCK_GAP = 10  # between blocks of rows, in addition
_TEXT = 13  # height of the font: still readable if a viewer shrinks the picture a little
_LINE = 18  # height of a line of text
_HEAD = 20  # height of a row's heading, clear of the frames of the tiles below
_PAPER = (255, 255, 255)
INK = (32, 33, 36)
FAINT = (112, 117, 122)
_FRAME = (24, 128, 56)  # around a tile of a true class
_EDGE = (218, 220, 224)  # around any other tile
_NARROWEST = 300  # least width of a sheet: room for a title over a single tile
_NAME_WIDTH = 180  # most that a row's name may take
_LONGEST_TEXT = 1000  # letters; the rest of a longer text is not measured, which would be slow
_JPEG_QUALITY = 90
_JPEG_LONGEST = 65_500  # longest side that the format can hold


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """One square of a sheet.

    Attributes:
        picture: ``(size, size, 3)`` uint8.
        name: Text under it on the left; shortened if it does not fit.
        note: Text under it on the right; never shortened.
        framed: Whether a green frame marks it as true.
        strong: Whether its words are bold.
    """

    picture: Picture
    name: str = ""
    note: str = ""
    framed: bool = False
    strong: bool = False


@dataclass(frozen=True, slots=True)
class RowName:
    """The words on the left of a row: a name and, in a line below, a faint note.

    Both are shortened to fit, and either may be empty.
    """

    name: str
    note: str = ""


def sheet(
    rows: Sequence[Sequence[Tile | None]],
    *,
    title: str,
    aside: str = "",
    foot: str = "",
    lead: Tile | None = None,
    notes: Sequence[str] = (),
    whole_notes: bool = False,
    column_names: Sequence[str] = (),
    row_names: Sequence[RowName] = (),
    row_heads: Sequence[str] = (),
    block: int | None = None,
) -> Picture:
    """Lay out ``rows`` of equally large tiles under a title.

    Args:
        rows: ``None`` leaves a place empty.
        title: In bold at the top left.
        aside: At the top right, faint. Not drawn if there is a ``lead``.
        foot: Below everything, faint. Not drawn if there is a ``lead``.
        lead: A tile at the top left, with the title next to it.
        notes: Faint lines under the title, next to the ``lead``.
        whole_notes: Whether the sheet grows until the notes fit; if not, they are shortened.
        column_names: One per column, above the first row.
        row_names: One per row, on its left.
        row_heads: One per row, faint, in a line above it.
        block: How many rows belong together. Blocks of rows are set apart; ``None`` for no blocks.
    """
    size = next(tile.picture.shape[0] for row in rows for tile in row if tile is not None)
    names = [_row_name_lines(name) for name in row_names]
    margin = _left_margin(names)
    width, head = _head_size(size, lead, notes if whole_notes else ())
    width = max(width, margin + max(map(len, rows)) * (size + _GAP))
    first = head + (_LINE if column_names else 0)
    *tops, bottom = _row_tops(rows, first, size, _HEAD if row_heads else 0, block)
    height = bottom + (_LINE + 2 if foot and not lead else _GAP)
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    if lead is None:
        _write(draw, (_GAP, _GAP - 2), width - 2 * _GAP, title, aside, bold=True)
        _write(draw, (_GAP, height - _LINE), width - 2 * _GAP, "", foot)
    else:
        _draw_lead(canvas, draw, lead, title, notes)
    for column, name in enumerate(column_names):
        _write(draw, (margin + column * (size + _GAP), head), size, name)
    for y, text in zip(tops, row_heads, strict=False):
        _write(draw, (margin, y - _HEAD), width - margin - _GAP, text, ink=FAINT)
    for y, lines in zip(tops, names, strict=False):
        _write_row_name(draw, (margin - _GAP, y + size // 2), lines)
    for y, row in zip(tops, rows, strict=True):
        _draw_row(canvas, draw, row, margin, y)
    return np.asarray(canvas)


def _left_margin(names: Sequence[Sequence[tuple[str, Ink]]]) -> int:
    """How far from the left the tiles begin, given the lines of each row's name."""
    return _GAP + (_widest([text for lines in names for text, _ in lines]) + _GAP if names else 0)


def _head_size(size: int, lead: Tile | None, whole_notes: Sequence[str]) -> tuple[int, int]:
    """The least width of a sheet, and the height of what stands above its rows."""
    if lead is None:
        return _NARROWEST, _GAP + _LINE
    width = _lead_margin(size) + _widest(whole_notes) + 1 + _GAP  # 1 for what was rounded off
    lines = (1 + len(whole_notes)) * _LINE
    return max(width, _NARROWEST), _GAP + max(size + _LINE, lines) + _GAP


def _lead_margin(size: int) -> int:
    """How far from the left the words next to a lead begin."""
    return size + 3 * _GAP


def _row_tops(
    rows: Sequence[Sequence[Tile | None]], first: int, size: int, over: int, block: int | None
) -> list[int]:
    """The top of each row of tiles, then the bottom of the last one.

    Args:
        rows: One that has no words under its tiles is lower than the others.
        first: Where the first row begins.
        size: Pixels per side of a tile.
        over: Pixels that a row needs above its tiles.
        block: Number of rows in a block.
    """
    tops, y = [], first
    for number, row in enumerate(rows):
        if block and number and number % block == 0:
            y += _BLOCK_GAP
        tops.append(y + over)
        words = any(tile and (tile.name or tile.note) for tile in row)
        y = tops[-1] + size + _GAP + (_LINE if words else 0)
    return [*tops, y]


def _row_name_lines(row: RowName) -> list[tuple[str, Ink]]:
    """The lines of a row's name, each with its colour."""
    lines = ((row.name, INK), (row.note, FAINT))
    return [(_shortened(text, _NAME_WIDTH, bold=False), ink) for text, ink in lines if text]


def _write_row_name(
    draw: ImageDraw.ImageDraw, place: tuple[int, int], lines: Sequence[tuple[str, Ink]]
) -> None:
    """Write lines that end at ``place`` and are centred on its height."""
    x, middle = place
    for number, (text, ink) in enumerate(lines):
        y = middle + int((number - (len(lines) - 1) / 2) * _LINE)
        _draw_text(draw, (x, y), text, ink, anchor="rm")


def _draw_lead(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, lead: Tile, title: str, notes: Sequence[str]
) -> None:
    """Draw the tile at the top left and the words next to it."""
    _draw_tile(canvas, draw, lead, _GAP, _GAP)
    left = _lead_margin(lead.picture.shape[0])
    room = canvas.width - left - _GAP
    _write(draw, (left, _GAP), room, title, bold=True)
    for line, note in enumerate(notes, start=1):
        _write(draw, (left, _GAP + line * _LINE), room, note, ink=FAINT)


def _draw_row(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, row: Sequence[Tile | None], x: int, y: int
) -> None:
    """Draw the tiles of a row from ``(x, y)`` to the right."""
    for column, tile in enumerate(row):
        if tile is not None:
            _draw_tile(canvas, draw, tile, x + column * (tile.picture.shape[1] + _GAP), y)


def _draw_tile(canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, x: int, y: int) -> None:
    size = tile.picture.shape[0]
    canvas.paste(Image.fromarray(tile.picture), (x, y))
    if tile.framed:
        draw.rectangle((x - 2, y - 2, x + size + 1, y + size + 1), outline=_FRAME, width=3)
    else:
        draw.rectangle((x, y, x + size - 1, y + size - 1), outline=_EDGE)
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
    """Write a line of ``width`` pixels from ``place``: shortened on the left, whole on the right.

    Args:
        draw: What to write on.
        place: The top left corner of the line.
        width: Pixels of the line.
        left: Text that gives way.
        right: Text that does not.
        bold: Whether the line is bold. Text on the right is only if it is in ``ink`` too.
        ink: Colour of the text on the left.
        aside: Colour of the text on the right.
    """
    x, y = place
    right_bold = bold and aside == ink
    room = width - (_length(right, right_bold) + 4 if right else 0)
    _draw_text(draw, (x, y), _shortened(left, room, bold=bold), ink, bold=bold)
    _draw_text(draw, (x + width, y), right, aside, bold=right_bold, anchor="ra")


def _draw_text(
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    text: str,
    ink: Ink,
    *,
    bold: bool = False,
    anchor: str = "la",
) -> None:
    """Write ``text`` at ``place``; ``anchor`` is PIL's word for the part of it that lies there."""
    if text:
        mask, left, top = _text_mask(text, bold, anchor)
        draw.bitmap((place[0] + left, place[1] + top), mask, ink)


# The pictures of a run repeat their words, and it takes longer to measure and to render those than
# to draw the rest of a mosaic. A mask has about a kilobyte.
_KNOWN_TEXTS = 2048


@lru_cache(maxsize=_KNOWN_TEXTS)
def _text_mask(text: str, bold: bool, anchor: str) -> tuple[Image.Image, int, int]:
    """How much ink each pixel of ``text`` takes, and how far its corner is from the anchor."""
    left, top, right, bottom = map(int, _font(bold).getbbox(text, anchor=anchor))
    mask = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(mask).text((-left, -top), text, 255, _font(bold), anchor=anchor)
    return mask, left, top


@lru_cache(maxsize=_KNOWN_TEXTS)
def _length(text: str, bold: bool = False) -> float:
    return _font(bold).getlength(text)


@lru_cache(maxsize=_KNOWN_TEXTS)
def _shortened(text: str, width: float, *, bold: bool) -> str:
    # A line break in a name would start a second line, over whatever is below.
    text = " ".join(text[:_LONGEST_TEXT].split())
    if _length(text, bold) <= width:
        return text
    while text and _font(bold).getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def _widest(texts: Sequence[str]) -> int:
    return int(max(map(_length, texts), default=0))


@cache
def _font(bold: bool = False) -> ImageFont.FreeTypeFont:
    # Matplotlib's font has Latin, Greek and Cyrillic letters; that of PIL has Latin ones alone.
    from matplotlib import get_data_path

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", name)), _TEXT)


def encode(picture: Picture, image_format: ImageFormat) -> bytes:
    """Encode ``picture`` as a JPEG (quality 90, colour not subsampled) or PNG file.

    A picture with a side too long for JPEG becomes a PNG: a film strip of a thousand classes.
    """
    buffer = io.BytesIO()
    image = Image.fromarray(picture)
    if image_format == "jpeg" and max(image.size) <= _JPEG_LONGEST:
        image.save(buffer, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
