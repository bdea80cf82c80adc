"""Sizes of files in words: read them from a command line, and print them."""

from __future__ import annotations

import re

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,9})?) *([kMG]?)B?", re.IGNORECASE)
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def parse_size(name: str, text: str) -> int:
    """Read a size in bytes.

    Args:
        name: The argument, for the message.
        text: A number and a unit, or a number of bytes.

    Raises:
        ValueError: It is no size, or it is 0.

    Example:
        >>> parse_size("--budget", "10MB"), parse_size("--budget", "2.5 kB")
        (10000000, 2500)
    """
    match = _SIZE.fullmatch(text.strip())
    size = int(float(match[1]) * _UNITS[match[2].lower()]) if match else 0
    if size == 0:
        raise ValueError(f"`{name}` must be a size such as 500kB or 10MB, got {text!r}")
    return size


def describe_size(size: int) -> str:
    """Print a size in bytes with the unit that suits it.

    Example:
        >>> describe_size(10_000_000), describe_size(4_240_000), describe_size(25_300)
        ('10 MB', '4.2 MB', '25 kB')
    """
    if size >= 10**6:
        return f"{size / 10**6:.1f}".removesuffix(".0") + " MB"
    return f"{size / 10**3:.0f} kB"
