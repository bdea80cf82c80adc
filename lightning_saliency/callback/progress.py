"""Say on the trainer's own progress bar what a long observation does, and how far it is.

The bars of Lightning are recognised by the names of their classes, for both namespaces. With any
other bar, or without one, nothing is said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from lightning_saliency.callback.loggers import class_name_among
from lightning_saliency.callback.trainer import Trainer
from lightning_saliency.functional.text import plain, shorten

PATIENCE = 1.0  # seconds after which something is said
PAUSE = 0.25  # seconds between two updates of the bar
_LONGEST_NAME = 24


class Progress:
    """Shows counts on the bar of ``trainer`` inside of a ``with`` block that lasts for long.

    Nothing that goes wrong with a bar is raised: it then shows no more of this block.

    Args:
        trainer: Whose bar it is. Without a trainer, and on other ranks than the first, nothing is
            shown.
        name: The name of the callback.
    """

    def __init__(self, trainer: Trainer | None = None, name: str = "") -> None:
        self._trainer, self._name = trainer, shorten(plain(name), _LONGEST_NAME)
        self._line: _Line | None = None
        self._due = math.inf

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Show what is noted in the block; at its end, the bar shows again what it did before."""
        if self._trainer is not None and self._trainer.is_global_zero:
            self._due = time.monotonic() + PATIENCE
        try:
            yield
        finally:
            self._due = math.inf
            line, self._line = self._line, None
            if line is not None:
                with suppress(Exception):
                    line.close()

    def note(self, done: int, total: int, what: str = "maps") -> None:
        """Show that ``done`` of ``total`` are done, unless it is too early to show anything."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = math.inf  # should it fail
        with suppress(Exception):
            if self._line is None and self._trainer is not None:
                self._line = _find_line(self._trainer)
            if self._line is not None:
                self._line.show(self._name, done, total, what)
                self._due = now + PAUSE


class _Line(Protocol):
    """A place on a bar."""

    def show(self, name: str, done: int, total: int, what: str) -> None:
        """Show how far the callback ``name`` is."""

    def close(self) -> None:
        """Show what was there before."""


def _find_line(trainer: Trainer) -> _Line | None:
    bar = trainer.progress_bar_callback
    kind = class_name_among(bar, ("TQDMProgressBar", "RichProgressBar"))
    # After an exception the display has ended, and must not be started again.
    if kind is None or bar.is_disabled or trainer.state.status != "running":
        return None
    return _TqdmLine(bar) if kind == "TQDMProgressBar" else _RichLine(bar, trainer)


class _TqdmLine:
    """The bar that is there, with some words more; or one of its kind, if there is none.

    There is none before training has begun and after it has ended.
    """

    def __init__(self, bar: Any) -> None:
        live = list(_live_bars(bar))
        self._passing = not live
        self._bar: Any = bar.init_train_tqdm() if self._passing else live[0]
        if self._passing:
            self._bar.leave = False
            self._bar.bar_format = "{desc}{percentage:3.0f}%|{bar}| [{elapsed}<{remaining}]"
        self._before = self._bar.desc

    def show(self, name: str, done: int, total: int, what: str) -> None:
        text = f"{name}: {done} of {total} {what}: "
        if self._passing:
            if self._bar.total != total:
                self._bar.initial = done  # The time that remains is estimated from here on.
            self._bar.desc, self._bar.n, self._bar.total = text, done, total
        else:
            # What stands to the left of a bar is seen however narrow the terminal is.
            self._bar.desc = f"{self._before.removesuffix(': ')}, {text}"
        self._bar.refresh()

    def close(self) -> None:
        if self._passing:
            self._bar.close()
        else:
            self._bar.desc = self._before
            self._bar.refresh()


def _live_bars(bar: Any) -> Iterator[Any]:
    for stage in ("train", "val", "test"):
        with suppress(TypeError):  # There is no such bar yet.
            live = getattr(bar, f"{stage}_progress_bar")
            if not live.disable:
                yield live


class _RichLine:
    """A task of its own among those that are shown."""

    def __init__(self, bar: Any, trainer: Trainer) -> None:
        # Before training nothing may be displayed yet. The bar itself begins in this way, and does
        # nothing if it has begun.
        bar._init_progress(trainer)
        self._style = bar.theme.description
        self._progress: Any = bar.progress
        self._task: int | None = None

    def show(self, name: str, done: int, total: int, what: str) -> None:
        escaped = f"{name}: {what}".replace("[", r"\[")
        text = f"[{self._style}]{escaped}" if self._style else escaped
        if self._task is None:
            self._task = self._progress.add_task(text, total=total, completed=done)
        self._progress.update(self._task, description=text, total=total, completed=done)
        self._progress.refresh()

    def close(self) -> None:
        # The task is hidden and not removed, because Lightning finds its own tasks by their place
        # among all tasks.
        if self._task is not None:
            self._progress.update(self._task, visible=False)
            self._progress.refresh()
