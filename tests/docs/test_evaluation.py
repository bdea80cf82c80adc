"""`docs/evaluation.md` shows what `benchmarks/sanity.py` prints."""

from __future__ import annotations

import re
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import numpy as np
import pytest
import torch
from paths import REPOSITORY

from lightning_saliency import explain
from lightning_saliency.health import health

PAGE = REPOSITORY / "docs/evaluation.md"

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def sanity() -> Any:
    spec = spec_from_file_location("sanity", REPOSITORY / "benchmarks/sanity.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(sanity, digits) -> Any:
    """The network of the page after a few steps, and ten images."""
    return sanity.train(digits, 1, per_class=1, batches=8)


def rows(table: str) -> list[str]:
    """The first cell of each row."""
    return re.findall(r"^\| `(\w+)` \|", table, flags=re.M)


def test_the_tables_have_the_rows_of_the_script(sanity, trained):
    model, probe, untrained = trained
    scores = [sanity.randomise(model, probe, rule) for rule in sanity.RULES]
    found = [health(model, probe, rule=rule, untrained=untrained) for rule in sanity.RULES]
    page = PAGE.read_text()
    assert rows(page) == rows(sanity.quantus_table(scores)) + rows(sanity.health_table(found))
    assert page.count(" `gradient` | `guided_backprop` |") == 2
    # Even a network that has hardly learned shows the difference.
    assert scores[1]["head"].mean() > scores[0]["head"].mean() + 0.1


def test_what_quantus_gets_is_the_map_of_the_class_that_it_asks_for(sanity, trained):
    model, probe, _ = trained
    arrays = probe.images[:3].numpy(), np.array([4, 5, 6])
    given = sanity.explain_for_quantus(model, *arrays, rule="gradient", device="cpu")
    expected = explain(model, probe.images[:3], torch.tensor([4, 5, 6]), rules=("gradient",))
    assert np.array_equal(given, expected["gradient"][:, 0].numpy())
