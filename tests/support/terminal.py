"""A pseudo-terminal, and what a person sees on it."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

_ESCAPE = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


class Screen:
    """Understands the control characters that the bars of Lightning use.

    Attributes:
        lines: What is seen now.
        seen: What was seen after each write to the terminal.
        overflown: Whether a line was longer than the terminal is wide.
        hidden: Whether the cursor is hidden.
    """

    def __init__(self, columns: int) -> None:
        self.lines, self.seen = [""], [""]
        self.overflown = self.hidden = False
        self._columns, self._x, self._y = columns, 0, 0

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines).rstrip()

    def feed(self, text: str) -> None:
        at = 0
        while at < len(text):
            escape = _ESCAPE.match(text, at)
            if escape is not None:
                self._obey(escape[0])
                at = escape.end()
                continue
            self._put(text[at])
            at += 1
        self.seen.append(self.text)

    def _obey(self, escape: str) -> None:
        argument, kind = escape[2:-1], escape[-1]
        if kind == "A":
            self._y = max(0, self._y - int(argument or 1))
        elif kind == "K":
            self.lines[self._y] = "" if argument == "2" else self.lines[self._y][: self._x]
        elif argument == "?25":
            self.hidden = kind == "l"

    def _put(self, character: str) -> None:
        if character == "\r":
            self._x = 0
        elif character == "\n":
            self._y, self._x = self._y + 1, self._x
            self.lines += [""] * (self._y + 1 - len(self.lines))
        else:
            self.overflown |= self._x >= self._columns
            line = self.lines[self._y].ljust(self._x)
            self.lines[self._y] = line[: self._x] + character + line[self._x + 1 :]
            self._x += 1


@contextmanager
def terminal(columns: int) -> Iterator[Screen]:
    """Let standard output be a terminal of some width inside of the block."""
    screen, (master, slave) = Screen(columns), pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    reader = threading.Thread(target=_read, args=(master, screen))
    reader.start()
    # Rich asks the process's own streams for their size, unless it is in the environment.
    size = {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm-256color"}
    try:
        with (
            os.fdopen(slave, "w", encoding="utf-8") as stream,
            mock.patch.object(sys, "stdout", stream),
            mock.patch.dict(os.environ, size),
        ):
            yield screen
    finally:
        reader.join(timeout=20)
        os.close(master)


def _read(master: int, screen: Screen) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    while True:
        try:
            written = os.read(master, 65536)
        except OSError:  # Nobody has the terminal open any more.
            return
        # One frame after each carriage return, however much was read at once.
        for part in re.split(r"(?<=\r)", decoder.decode(written)):
            screen.feed(part)
