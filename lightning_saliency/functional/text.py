"""Text for people to read: shortened, aligned, and safe to print."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

# Unicode categories of characters that are not printed as they are: controls, formatting,
# surrogates, private and unassigned characters, separators of lines and paragraphs.
_UNPRINTABLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def shorten(text: str, length: int) -> str:
    """Cut ``text`` to at most ``length`` characters, with an ellipsis if anything was cut off.

    Example:
        >>> shorten("great grey owl", 10)
        'great gre…'
    """
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def plain(text: str) -> str:
    r"""Replace each character that a terminal might interpret by a question mark.

    Names of classes and files come from data, which nobody may have checked.

    Example:
        >>> plain("cat\x1b[31m\n")
        'cat?[31m?'
    """
    return "".join("?" if unicodedata.category(c) in _UNPRINTABLE else c for c in text)


def percent(probability: float) -> str:
    """Format a probability as a whole percentage, short enough to stand below a tile.

    Example:
        >>> percent(0.973), percent(0.9996), percent(0.0004)
        ('97%', '100%', '<1%')
    """
    return "<1%" if 0 < probability < 0.005 else f"{probability:.0%}"


def figures(part: float) -> str:
    """Format a number in [0, 1] with three decimals, or two significant figures if below 0.01.

    Example:
        >>> figures(0.888), figures(0.00042), figures(0.0)
        ('0.888', '0.00042', '0.000')
    """
    return f"{part:.2g}" if 0 < part < 0.01 else f"{part:.3f}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Format rows of cells as lines with aligned columns, two spaces apart.

    Example:
        >>> align([("a", "1"), ("long", "2")])
        ['a     1', 'long  2']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def outline(instance: Any) -> str:
    """Describe a dataclass in a line: shapes for tensors, numbers for long sequences.

    Example:
        >>> import torch
        >>> from dataclasses import make_dataclass
        >>> Batch = make_dataclass("Batch", ["images", "names", "masks", "mean"])
        >>> outline(Batch(torch.zeros(9, 3, 8, 8), "abcdefghi", {}, None))
        'Batch(images=(9, 3, 8, 8) float32, names=9 of them)'
    """
    values = ((field.name, getattr(instance, field.name)) for field in fields(instance))
    parts = (f"{name}={_outline(value)}" for name, value in values if _is_telling(value))
    return f"{type(instance).__name__}({', '.join(parts)})"


def _is_telling(value: Any) -> bool:
    return value is not None and not (isinstance(value, Mapping | Sequence) and not value)


def _outline(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {_outline(item)}" for name, item in value.items()) + "}"
    if isinstance(value, Sequence) and len(value) > 8:
        return f"{len(value)} of them"
    return str(value)
