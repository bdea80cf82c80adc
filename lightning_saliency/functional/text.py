"""Words for people: shortened, aligned, safe to print."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

# Categories of Unicode that a terminal acts upon: controls, surrogates, separators of lines.
_ACTED_UPON = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def shorten(text: str, length: int) -> str:
    """``text`` in at most ``length`` letters, with an ellipsis if it was longer.

    Example:
        >>> shorten("great grey owl", 10)
        'great gre…'
    """
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def plain(text: str) -> str:
    r"""``text`` without anything that a terminal would act upon; names come from data.

    Example:
        >>> plain("cat\x1b[31m\n")
        'cat?[31m?'
    """
    return "".join("?" if unicodedata.category(c) in _ACTED_UPON else c for c in text)


def percent(probability: float) -> str:
    """A probability as it fits under a tile.

    Example:
        >>> percent(0.973), percent(0.9996), percent(0.0004)
        ('97%', '100%', '<1%')
    """
    return "<1%" if 0 < probability < 0.005 else f"{probability:.0%}"


def figures(part: float) -> str:
    """A part of a whole with three decimals, or with two significant figures if it is very small.

    Example:
        >>> figures(0.888), figures(0.00042), figures(0.0)
        ('0.888', '0.00042', '0.000')
    """
    return f"{part:.2g}" if 0 < part < 0.01 else f"{part:.3f}"


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines whose columns are aligned, two spaces apart.

    Example:
        >>> align([("a", "1"), ("long", "2")])
        ['a     1', 'long  2']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
