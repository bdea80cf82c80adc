"""Damage files in the ways that disks, interrupted copies and attackers do."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

# These are written into JSON as they are, because a JSON library would not write them.
RAW = {
    "@nan": "NaN",
    "@infinity": "-Infinity",
    "@overflow": "1e999",
    "@digits": "9" * 5000,
    "@deep": "[" * 300 + "]" * 300,
    "@deeper": '{"a":' * 3000 + "1" + "}" * 3000,
    "@deepest": "[" * 100_000 + "]" * 100_000,
    "@half a character": r'"\ud800"',
}

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 255, 0.5, -0.0, 1e-300, 1e308),
    *(2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), 10**30, 10**400),
    *("", "x", "1", "F16", "F64", "I64", "U8", "BOOL", "F8_E4M3", "BF16", "F4", "C64", "gradient"),
    *("../../etc/passwd", "/dev/zero", "\x1b]0;owned\x07", "a\nb", "\u202eevil", "<x a='&'>"),
    *("long" * 5000, "moved_mass <= auto", "*.share within auto", "a.share >= nan", "pt", "\0"),
    *([], {}, [[]], {"": None}, [0], [1, 1], [0, 1], [6], [6, 3], [6, 16, 16], [0, 2**62]),
    *([2**32, 2**32], [10**9, 10**9], [-1, 16], [1] * 40, [0, 10**18], ["a"] * 6, [[0]] * 6),
    *({"a": 1}, {"schema": 1}, {"data_offsets": [0, 0]}, [2**64 - 1, 1], [1, 0], [0.5, 1.5]),
    *RAW,
]


def nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Yield every container in a tree of JSON, once with each key or index in it."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in list(items):
        yield tree, key
        if isinstance(child, dict | list):
            yield from nodes(child)


def edit(draw: Draw, tree: dict[str, Any]) -> None:
    """Change one place in a tree of JSON."""
    places = list(nodes(tree))
    if not places:
        return
    container, key = places[draw(st.integers(0, len(places) - 1))]
    other, theirs = places[draw(st.integers(0, len(places) - 1))]
    what = draw(st.integers(0, 9))
    if what < 5:
        container[key] = deepcopy(draw(st.sampled_from(VALUES)))
    elif what == 5:
        container[key] = deepcopy(other[theirs])
    elif what == 6:
        del container[key]
    elif what == 7 and isinstance(container, dict):
        name = draw(
            st.sampled_from(["", "share.x", "mask:x", "share.../x", "\x1b[31m", "a\nb", key])
        )
        container[name + draw(st.sampled_from(["", "2"]))] = deepcopy(container[key])
    elif what == 8 and isinstance(container, list):
        container.extend([container[key]] * draw(st.sampled_from([1, 1000])))
    else:
        value = container[key]
        number = isinstance(value, int) and not isinstance(value, bool)
        container[key] = value + draw(st.integers(-9, 9)) if number else str(value)


def as_json(draw: Draw, tree: dict[str, Any]) -> str:
    """Write a tree as JSON text, sometimes with a duplicate key."""
    text = json.dumps(tree)
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    if draw(st.integers(0, 9)) == 0 and tree:
        key = draw(st.sampled_from(sorted(tree)))
        value = draw(st.sampled_from(["3", "[]", "null", '"x"', "{}"]))
        text = "{" + f"{json.dumps(key)}: {value}, " + text[1:]
    return text


def edited_json(draw: Draw, data: bytes) -> bytes:
    """Change one to three places in a JSON file."""
    tree = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        edit(draw, tree)
    return as_json(draw, tree).encode("utf-8", "backslashreplace")


def edited_header(draw: Draw, data: bytes) -> bytes:
    """Change one to three places in the header or the metadata of a safetensors file."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if draw(st.booleans()):
        metadata = header["__metadata__"]
        [about] = metadata
        tree = json.loads(metadata[about])
        for _ in range(draw(st.integers(1, 3))):
            edit(draw, tree)
        metadata[about] = as_json(draw, tree)
    else:
        for _ in range(draw(st.integers(1, 3))):
            edit(draw, header)
    text = as_json(draw, header).encode("utf-8", "backslashreplace")
    claimed = draw(st.sampled_from([0] * 17 + [1, -1, 2**40])) + len(text)
    return claimed.to_bytes(8, "little") + text + rest


def broken_bytes(draw: Draw, data: bytes) -> bytes:
    """Flip, cut off, insert, remove or overwrite bytes of a file."""
    for _ in range(draw(st.integers(1, 3))):
        # Damage to the header does the most harm, so most of it goes there.
        reach = draw(st.sampled_from([8, 600, len(data)]))
        at = draw(st.integers(0, max(0, min(reach, len(data)) - 1)))
        what = draw(st.integers(0, 4))
        if what == 0:
            flipped = bytes([data[at] ^ draw(st.integers(1, 255))]) if data else b""
            data = data[:at] + flipped + data[at + 1 :]
        elif what == 1:
            data = data[:at]
        elif what == 2:
            data = data[:at] + draw(st.binary(min_size=1, max_size=16)) + data[at:]
        elif what == 3:
            data = data[:at] + data[at + draw(st.sampled_from([1, 7, 64, 4096])) :]
        else:
            run = draw(st.sampled_from([8, 64, 1024]))
            data = (
                data[:at]
                + draw(st.sampled_from([b"\0", b"\xff", b"\x7f"])) * run
                + data[at + run :]
            )
    return data


def damaged(data: bytes, others: list[bytes]) -> st.SearchStrategy[bytes]:
    """A strategy for ``data`` with some damage, or another file in its place."""
    edited = edited_json if data[:1] == b"{" else edited_header
    swaps = [*others, b"", b"{}", b"[]", b"null", b"\0" * 8, b"\x80\x04K\x01."]

    @st.composite
    def damage(draw: Draw) -> bytes:
        kind = draw(st.integers(0, 29))
        if kind == 0:
            return swaps[draw(st.integers(0, len(swaps) - 1))]
        return (broken_bytes if kind < 10 else edited)(draw, data)

    return damage()
