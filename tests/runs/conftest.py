"""A fixture for the tests of benchmarks."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from paths import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A function that imports a benchmark afresh; what was imported is forgotten afterwards."""
    known = set(sys.modules)
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(pl.Trainer, "__init__", refuse)  # importing must not train anything
    yield importlib.import_module
    log.setLevel(level)  # benchmarks are quiet
    for name in set(sys.modules) - known:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if Path(file).parent in (BENCHMARKS, REPOSITORY / "examples"):
            del sys.modules[name]


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a benchmark trains something when it is imported")
