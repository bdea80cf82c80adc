"""What several test files need."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from paths import load_example
from torch.utils.data import TensorDataset


@pytest.fixture(scope="session")
def fit_digits() -> ModuleType:
    """The demo: real digits and a small network."""
    return load_example("fit_digits")


@pytest.fixture(scope="session")
def digits(fit_digits: ModuleType) -> TensorDataset:
    """5,000 real digits, normalised: read once, for reading takes seconds."""
    return fit_digits.digits()


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Train on one core: for networks this small, threads wait for each other most of the time."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(found)
