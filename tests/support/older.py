"""What the oldest versions of other packages lack: tests of it are skipped there, and say so."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

TORCH, LIGHTNING = (tuple(map(int, package.__version__.split(".")[:2])) for package in (torch, pl))
# What PyTorch cannot do on a CPU, observed or not, by the name of the strategy or the kind of run.
BEFORE_2_7 = {
    "fsdp2": "the streams of a CPU record no events",
    "compiled as a whole": "Lightning's `log` cannot be compiled",
}


def torch_is_unable(kind: str) -> bool:
    """Whether this PyTorch cannot do something; see `BEFORE_2_7`."""
    return kind in BEFORE_2_7 and TORCH < (2, 7)


def skip_if_torch_is_unable(kind: str) -> None:
    """Skip a test of what the oldest PyTorch cannot do."""
    if torch_is_unable(kind):
        pytest.skip(f"PyTorch {torch.__version__}: {BEFORE_2_7[kind]}")


def skip_if_a_batch_was_repeated(trainer: Any, steps: int) -> None:
    """Skip the test if Lightning 2.4 took more than ``steps``; no other version may."""
    if LIGHTNING < (2, 5) and trainer.global_step != steps:
        pytest.skip(f"Lightning {pl.__version__} repeats a batch when it resumes in mid-epoch")


@contextmanager
def csv_logger_that_goes_on() -> Iterator[None]:
    """Skip the test if the `CSVLogger` of Lightning 2.4 cannot go on with a file at a URL."""
    try:
        yield
    except FileNotFoundError as error:
        place = str(error.filename or error).rstrip("'")
        if LIGHTNING >= (2, 5) or not place.endswith("metrics.csv"):
            raise
        pytest.skip(f"Lightning {pl.__version__} appends to `metrics.csv` in local folders only")


def takes_comets_own_options(namespace: Any = pl) -> bool:
    """Whether `CometLogger` passes on options of Comet, as it has done since Lightning 2.5.1."""
    return "project" in inspect.signature(namespace.loggers.CometLogger).parameters


def average_weights(decay: float, namespace: Any = pl) -> Any:
    """Make a callback that averages weights, or skip the test: Lightning has had it since 2.6."""
    if not hasattr(namespace.callbacks, "EMAWeightAveraging"):
        pytest.skip(f"Lightning {namespace.__version__} has no callback that averages weights")
    return namespace.callbacks.EMAWeightAveraging(decay=decay)


def skip_unless_foreign_callbacks_are_taken(callback: Any, namespace: Any) -> None:
    """Skip the test if Lightning refuses callbacks of its other namespace, as 2.4 does."""
    try:
        namespace.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    except ValueError as error:
        if str(error) != "Expected a parent":
            raise
        pytest.skip(f"Lightning {namespace.__version__} refuses callbacks of its other namespace")
