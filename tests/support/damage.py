"""Files damaged in every way that disks, copies and people who mean ill damage files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

# Written into JSON as they stand, for a JSON library would not write them.
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
    """Every container in a tree of JSON, with each key or index in it."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, child in list(items):
        yield tree, key
        if isinstance(child, dict | list):
            yield from nodes(child)


def edit(draw: Draw, tree: dict[str, Any]) -> None:
    """Change one place of a tree of JSON."""
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
    """A tree as JSON text, sometimes with a key twice."""
    text = json.dumps(tree)
    for mark, raw in RAW.items():
        text = text.replace(json.dumps(mark), raw)
    if draw(st.integers(0, 9)) == 0 and tree:
        key = draw(st.sampled_from(sorted(tree)))
        value = draw(st.sampled_from(["3", "[]", "null", '"x"', "{}"]))
        text = "{" + f"{json.dumps(key)}: {value}, " + text[1:]
    return text


def edited_json(draw: Draw, data: bytes) -> bytes:
    """A JSON file with one to three places changed."""
    tree = json.loads(data)
    for _ in range(draw(st.integers(1, 3))):
        edit(draw, tree)
    return as_json(draw, tree).encode("utf-8", "backslashreplace")


def edited_header(draw: Draw, data: bytes) -> bytes:
    """A safetensors file with places of its header changed, or of what it tells of itself."""
    length = int.from_bytes(data[:8], "little")
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if draw(st.booleans()):
        told = header["__metadata__"]
        [about] = told
        tree = json.loads(told[about])
        for _ in range(draw(st.integers(1, 3))):
            edit(draw, tree)
        told[about] = as_json(draw, tree)
    else:
        for _ in range(draw(st.integers(1, 3))):
            edit(draw, header)
    text = as_json(draw, header).encode("utf-8", "backslashreplace")
    claimed = draw(st.sampled_from([0] * 17 + [1, -1, 2**40])) + len(text)
    return claimed.to_bytes(8, "little") + text + rest


def broken_bytes(draw: Draw, data: bytes) -> bytes:
    """A file with bytes flipped, cut off, put in, left out, or overwritten."""
    for _ in range(draw(st.integers(1, 3))):
        reach = draw(st.sampled_from([8, 600, len(data)]))  # the head is where it hurts
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
    """``data`` in some way damaged, or another file in its place."""
    edited = edited_json if data[:1] == b"{" else edited_header
    swaps = [*others, b"", b"{}", b"[]", b"null", b"\0" * 8, b"\x80\x04K\x01."]

    @st.composite
    def damage(draw: Draw) -> bytes:
        kind = draw(st.integers(0, 29))
        if kind == 0:
            return swaps[draw(st.integers(0, len(swaps) - 1))]
        return (broken_bytes if kind < 10 else edited)(draw, data)

    return damage()
