"""Text that is shortened, cleaned, formatted and aligned."""

from __future__ import annotations

import pytest

from lightning_saliency.functional.text import align, figures, percent, plain, shorten


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("owl", "owl", id="shorter"),
        pytest.param("a grey owl", "a grey owl", id="just-fits"),
        pytest.param("a great owl", "a great o…", id="cut"),
        pytest.param("the grey owls", "the grey…", id="no-space-before-the-ellipsis"),
    ],
)
def test_shorten(text, expected):
    assert shorten(text, 10) == expected
    assert len(expected) <= 10


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Eule, 梟, 🦉", "Eule, 梟, 🦉", id="letters-of-all-scripts-stay"),
        pytest.param("a\tb\nc\x00", "a?b?c?", id="controls"),
        pytest.param("\x1b]0;title\x07", "?]0;title?", id="terminal-title"),
        pytest.param("a\u202eb", "a?b", id="right-to-left-override"),
        pytest.param("a\u2028b\u2029c", "a?b?c", id="line-separators"),
        pytest.param("a\udc80b", "a?b", id="surrogate-of-an-undecodable-file-name"),
    ],
)
def test_plain(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("probability", "expected"),
    [(0.0, "0%"), (0.0049, "<1%"), (0.006, "1%"), (0.734, "73%"), (0.996, "100%"), (1.0, "100%")],
)
def test_percent(probability, expected):
    assert percent(probability) == expected


@pytest.mark.parametrize(
    ("part", "expected"),
    [(0.0, "0.000"), (1.0, "1.000"), (0.0123, "0.012"), (0.00123, "0.0012"), (1e-7, "1e-07")],
)
def test_figures(part, expected):
    assert figures(part) == expected


def test_align():
    rows = [("name", "epoch", "share"), ("a", "10", ""), ("longer", "9", "0.5")]
    assert align(rows) == [
        "name    epoch  share",
        "a       10",
        "longer  9      0.5",
    ]
