"""Fixtures that several test files share."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from paths import load_example
from torch.utils.data import TensorDataset


@pytest.fixture(scope="session")
def fit_digits() -> ModuleType:
    """The module of the demo, which trains a small network on real digits."""
    return load_example("fit_digits")


@pytest.fixture(scope="session")
def digits(fit_digits: ModuleType) -> TensorDataset:
    """5,000 real digits, normalised. They are read once because that takes seconds."""
    return fit_digits.digits()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Train on one core: with networks this small, threads mostly wait for each other."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(found)
