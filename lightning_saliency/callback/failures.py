"""What happens if part of an observation fails: raise with context, or warn once and go on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lightning_saliency.callback.options import OnError
from lightning_saliency.errors import SaliencyError, SaliencyWarning
from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.observe.ranks import OtherRankError


class Tolerance:
    """Carries out ``on_error``.

    Args:
        on_error: ``"raise"`` or ``"warn"``; ``None`` raises unless what fails is optional.

    Attributes:
        stage: Of the trainer: ``"fit"`` or another. Outside of training only a sharded run raises.
        sharded: Whether other processes would wait for this one.
        rank: Of this process. A rank other than 0 only warns of what failed in itself.
        cause: The last error that was survived, in words.
    """

    def __init__(self, on_error: OnError | None) -> None:
        self._on_error = on_error
        self._warned: set[str] = set()
        self.stage, self.sharded, self.rank, self.cause = "", False, 0, ""

    @contextmanager
    def __call__(
        self, doing: str, when: str = "", *, unchanged: bool = False, optional: bool = False
    ) -> Iterator[None]:
        """Raise what fails in the block with a word on what was being done, or warn of it once.

        Args:
            doing: What is being done.
            when: The moment, in words.
            unchanged: Whether an error is raised as it is, because it says enough.
            optional: Whether only an explicit ``on_error="raise"`` makes a failure an error.
        """
        # Loggers draw random numbers too: for names of files, for pauses before they try again.
        with random_streams_kept():
            try:
                yield
            except Exception as error:
                # A mistake in an argument is never survived: nothing is lost yet.
                mistake = isinstance(error, TypeError | ValueError) and not optional
                if unchanged and (mistake or self._raises(optional=optional)):
                    raise
                self._handle(error, doing, when, optional=optional)

    def _raises(self, *, optional: bool) -> bool:
        asked = self._on_error == "raise" or (self._on_error is None and not optional)
        return asked and (self.stage == "fit" or self.sharded)

    def check_sharded(self) -> None:
        """Refuse a promise that cannot be kept.

        Raises:
            SaliencyError: ``on_error="warn"`` under a sharded strategy.
        """
        if self.sharded and self._on_error == "warn":
            raise SaliencyError(
                "`on_error='warn'` cannot be kept under a sharded strategy: a process that fails "
                "in a pass leaves the others waiting. Use `on_error='raise'`."
            )

    def _handle(self, error: Exception, doing: str, when: str, *, optional: bool) -> None:
        self.cause = cause = f"{type(error).__name__}: {error}"
        failed = f"{doing} ({when}) failed" if when else f"{doing} failed"
        if self._raises(optional=optional):
            hint = "" if self.sharded else _HINT
            raise SaliencyError(f"{failed}: {cause}{hint}") from error
        elsewhere = self.rank != 0 and isinstance(error, OtherRankError)
        if doing not in self._warned and not elsewhere:
            what = "training" if self.stage == "fit" else "the run"
            blind = " and is not observed" if optional else ""
            warn(f"{failed}, {what} goes on{blind}: {cause}")
        self._warned.add(doing)


_HINT = "\nWith `on_error='warn'` training goes on in such a case."


def warn(message: str) -> None:
    """Warn; the line that a user would look for lies far above, in the call of the trainer."""
    warnings.warn(message, SaliencyWarning, stacklevel=3)


@contextmanager
def said_once(rank: int) -> Iterator[None]:
    """Leave it to rank 0 to warn of what every rank finds in the block."""
    if rank == 0:
        yield
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SaliencyWarning)
        yield


def in_turn(*steps: Callable[[], None]) -> None:
    """Take each step, whatever error the ones before it ended in; then raise the first error."""
    if not steps:
        return
    try:
        steps[0]()
    except Exception:
        in_turn(*steps[1:])
        raise
    in_turn(*steps[1:])
