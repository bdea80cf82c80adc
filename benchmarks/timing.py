"""Timing that holds on a busy machine, and tables: what the benchmarks share.

Variants are interleaved. Times are medians, and ratios are medians of the ratios of neighbours: the
timings of a busy machine drift, those ratios do not.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Effort:
    """How much time a benchmark may take.

    Attributes:
        rounds: How often each variant is called at 224²; cheaper ones are called more often.
        quick: Whether to take fewer and smaller cases, to see that everything runs.
    """

    rounds: int = 3
    quick: bool = False


def bare_passes(model: nn.Module, images: Tensor, classes: int, more: int = 0) -> None:
    """The arithmetic floor: one forward pass, one input gradient per class, and some ``more``."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    for target in (*range(classes), *range(more)):
        torch.autograd.grad(logits[:, target].sum(), leaf, retain_graph=True)


def interleaved(
    variants: Mapping[str, Callable[[], object]], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """The seconds that each call of each variant took; every round calls each variant once."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values() if warm_up else ():
        call()
    for _ in range(rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, Sequence[float]], name: str, floor: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[floor], strict=True))


class Stopwatch:
    """Adds up the seconds that some functions take while they run within something larger.

    Args:
        clock: ``time.thread_time`` counts the processor's time, which hardly depends on other work.

    Attributes:
        seconds: For each part, what its functions have taken so far.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.seconds: dict[str, float] = {}
        self.clock = clock or time.perf_counter

    def timed(self, part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """``call``, whose time counts for ``part``."""

        def wrapper(*args: Any, **options: Any) -> Any:
            start = self.clock()
            try:
                return call(*args, **options)
            finally:
                taken = self.clock() - start
                self.seconds[part] = self.seconds.get(part, 0.0) + taken

        return wrapper

    @contextmanager
    def watching(self, parts: Mapping[str, Sequence[tuple[Any, str]]]) -> Iterator[None]:
        """Time attributes of classes or modules, by part, until the block ends."""
        with ExitStack() as stack:
            for part, functions in parts.items():
                for owner, name in functions:
                    call = self.timed(part, getattr(owner, name))
                    stack.enter_context(mock.patch.object(owner, name, call))
            yield


# --- tables


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def describe_machine() -> str:
    """The processor and the versions in words."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    threads = torch.get_num_threads()
    return (
        f"{threads} thread{'s' * (threads > 1)} on {os.cpu_count()} cores of {name}, "
        f"torch {torch.__version__}"
    )
