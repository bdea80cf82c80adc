"""`assert_attention`, of a recorded run and of a model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from records import record
from torch import Tensor, nn

from lightning_saliency import ProbeBatch
from lightning_saliency.check.reference import Reference
from lightning_saliency.errors import RecordError, SaliencyWarning
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.observe.standalone import build_observer
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.testing import assert_attention


@pytest.fixture
def good(tmp_path: Path) -> Path:
    runs = [record(tmp_path / f"good_{seed}", seed) for seed in range(4)]
    Reference.from_runs(runs).save(tmp_path / "attention")
    return tmp_path / "attention"


def test_a_good_run_passes(good, tmp_path):
    assert_attention(record(tmp_path / "new", 9), good)
    assert_attention(str(record(tmp_path / "newer", 10)), Reference.load(good))


def test_a_run_that_looks_elsewhere_fails_with_the_full_report(good, tmp_path):
    bad = record(tmp_path / "bad", 9, on_mark=0.6)
    with pytest.raises(AssertionError) as raised:
        assert_attention(bad, good)
    told = str(raised.value)
    assert told.startswith(f"FAIL  {bad}, against 4 good runs")
    assert "What grew: the region 'mark'" in told


def test_requirements_of_the_test_are_added(good, tmp_path):
    new = record(tmp_path / "new", 9)
    with pytest.raises(AssertionError, match=r"fail  object.share .* at least 0\.990"):
        assert_attention(new, good, require=["object.share >= 0.99"])


def test_a_missing_reference_is_an_error_and_is_not_created(tmp_path):
    with pytest.raises(RecordError, match=r"there is no file .*attention/reference\.json"):
        assert_attention(record(tmp_path / "new"), tmp_path / "attention")
    assert not (tmp_path / "attention").exists()


# --- a model


class Looking(nn.Module):
    """Looks at the left half, and at the corner as much more as ``corner`` says; a bit noisy."""

    def __init__(self, seed: int, corner: float) -> None:
        super().__init__()
        noise = torch.rand(16, 16, generator=torch.Generator().manual_seed(seed))
        weight = 1 + 0.2 * noise
        weight[:, 8:] = 0
        weight[:2, :2] *= 1 + corner
        self.weight = nn.Parameter(torch.stack([weight, -weight]))

    def forward(self, images: Tensor) -> Tensor:
        return 0.01 * torch.einsum("nchw,khw->nk", images, self.weight)


def images(**known) -> ProbeBatch:
    generator = torch.Generator().manual_seed(0)
    return ProbeBatch(
        torch.rand(4, 1, 16, 16, generator=generator), torch.tensor([0, 1, 0, 1]), **known
    )


@pytest.fixture
def models(tmp_path: Path) -> Reference:
    runs = []
    for seed in range(3):
        model = Looking(seed, 0)
        observer = build_observer(model, images())
        writer = RunWriter(tmp_path / f"model_{seed}")
        info = run_info("now", observer.meter, {})
        writer.begin(info, torch.zeros(4, 16, 16, 3, dtype=torch.uint8), after=-1)
        writer.add(observer.observe(model, "now", step=0))
        runs.append(writer.folder)
    return Reference.from_runs(runs)


def test_a_model_that_looks_where_it_should(models):
    model = Looking(7, 0).train()
    before = torch.get_rng_state()
    assert_attention(model, models, probe=images())
    assert model.training
    assert model.weight.grad is None
    assert torch.equal(before, torch.get_rng_state())


def test_a_model_that_looks_elsewhere_and_relies_on_it(models):
    with pytest.raises(AssertionError) as raised:
        assert_attention(Looking(7, 30), models, probe=images())
    told = str(raised.value)
    assert told.startswith("FAIL  Looking, against 3 good runs")
    assert "What grew: row 1, column 1 of the 8×8 grid" in told
    assert "Hiding it lowers the probability of the label" in told


def test_other_images_cannot_be_compared(models):
    other = ProbeBatch(torch.rand(4, 1, 16, 16), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(AssertionError, match="NOT COMPARABLE  Looking: their probes differ"):
        assert_attention(Looking(7, 0), models, probe=other)


def test_a_model_needs_a_probe(models):
    with pytest.raises(TypeError, match="`probe` is needed with a model"):
        assert_attention(Looking(7, 0), models)


def test_warnings_are_raised_as_warnings(tmp_path):
    """With one good run nothing can fail, but a silent test would hide the warnings."""
    reference = Reference.from_runs([record(tmp_path / "good")])
    with pytest.warns(SaliencyWarning, match="PASS, with warnings"):
        assert_attention(record(tmp_path / "bad", 9, on_mark=0.6), reference)
