"""A run ends bitwise as it would without the callback, whatever kind of run it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import matrix
import neutrality
import pytest
import torch
from faults import FAULTS
from matrix import ROWS, Row, Verdict, differences, judge, run
from older import skip_if_torch_is_unable

from lightning_saliency import SaliencyCallback

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

_results: dict[str, str] = {}


@pytest.fixture(scope="module", autouse=True)
def printed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Print the matrix once it is complete, even if pytest captures output."""
    yield
    width = max(map(len, _results), default=0)
    lines = [f"{name:{width}}  {result}" for name, result in _results.items()]
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            "\n\nNeutrality: a run with the callback compared with the same run without",
            *lines,
            sep="\n",
        )


@pytest.mark.parametrize("name", [pytest.param(name, id=name) for name in ROWS])
def test_a_run_does_not_notice_that_it_is_observed(name, tmp_path):
    row = ROWS[name]
    if row.needs:
        pytest.importorskip(row.needs)
    skip_if_torch_is_unable(name)
    _results[name] = "fails"
    verdict = judge(row, tmp_path)
    _results[name] = verdict.words
    assert (verdict.times >= 1) == row.seen
    assert verdict == Verdict(verdict.times, observed=[], failing=[])


def test_the_matrix_stands_in_the_docs():
    """If this fails, `python tests/support/neutrality.py` rewrites the page."""
    lines = neutrality.PAGE.read_text().splitlines()
    rows = [line for line in lines if line.startswith("| ") and not line.endswith("failing |")]
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert names == [*ROWS, "fault", *FAULTS]
    assert not [row for row in rows if "**" in row]


@pytest.mark.parametrize(
    ("sloppy", "disturbed"),
    [
        pytest.param(lambda t, m: torch.rand(1), "torch RNG", id="draws-a-random-number"),
        pytest.param(lambda t, m: m.norm2.eval(), "modes", id="leaves-a-layer-in-eval-mode"),
        pytest.param(lambda t, m: m.calls.add_(1), "weights and buffers", id="moves-a-buffer"),
    ],
)
def test_the_comparison_sees_a_careless_observer(sloppy, disturbed, tmp_path, monkeypatch):
    alone, _ = run(Row({"max_epochs": 1}), tmp_path, observed=False)
    monkeypatch.setattr(
        SaliencyCallback, "on_train_end", lambda self, trainer, module: sloppy(trainer, module)
    )
    observed, _ = run(Row({"max_epochs": 1}), tmp_path, observed=True)
    assert any(disturbed in place for place in differences(alone, observed))


def test_without_the_callback_the_runs_agree_at_all(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first, second = (run(Row(), tmp_path, observed=False)[0] for _ in range(2))
    assert differences(first, second) == []
    assert len(first["weights and buffers"]["head.bias"]) == matrix.CLASSES
