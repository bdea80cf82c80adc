"""Hiding what gained most shows whether a model relies on it."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency import ProbeBatch
from lightning_saliency.attribution.logits import call_plainly
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.check.verdict import Growth, Verdict
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.meter import whole as all_rows
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.occlusion import find_place, hidden, probabilities_without
from lightning_saliency.record.observation import Measured


class Corner(nn.Module):
    """Predicts class 1 if the top left pixel is bright, and draws random numbers for dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        bright = self.dropout(self.weight * images[:, 0, 0, 0])
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


def images() -> ProbeBatch:
    bright = torch.zeros(2, 3, 16, 16)
    bright[:, :, 0, 0] = 8.0
    mark = torch.zeros(2, 16, 16, dtype=torch.bool)
    mark[:, :2, :2] = True
    return ProbeBatch(bright, torch.tensor([1, 1]), masks={"mark": mark})


def measured() -> Measured:
    return Measured(
        classes=torch.tensor([1, 1]),
        probabilities=torch.full((2,), 0.9997),
        maps=torch.zeros(2, 4, 4).half(),
        views=torch.zeros(2, 1, 8, 8).double(),
    )


def confirm(verdict: Verdict, model: nn.Module, probe: ProbeBatch, seen: Measured) -> Verdict:
    meter = Meter.for_probe(probe, 4)
    observer = Observer(probe, None, ("gradient",), 4, PassOptions(call_plainly), meter)
    return observer.confirm(verdict, model, seen)


def grown(region: str | None, row: int = 0, column: int = 0) -> Verdict:
    return Verdict("fail", growth=Growth(region, row, column, 0.1, 0.5))


@pytest.mark.parametrize("verdict", [grown("mark"), grown(None)])
def test_hiding_what_the_model_relies_on_lowers_the_probability_of_the_label(verdict):
    found = confirm(verdict, Corner(), images(), measured())
    assert found.occluded.before == pytest.approx(0.9997)
    assert found.occluded.after == pytest.approx(0.5, abs=0.01)  # 1/256 of the image is bright


def test_hiding_another_place_changes_nothing():
    found = confirm(grown(None, 5, 5), Corner(), images(), measured())
    assert found.occluded.after == pytest.approx(0.9997, abs=1e-4)


def test_a_clean_verdict_is_not_confirmed():
    clean = Verdict("pass", growth=Growth(None, 0, 0, 0.1, 0.2))
    assert confirm(clean, Corner(), images(), measured()) is clean


def test_the_model_is_left_as_it_was():
    model = Corner().train()
    before = torch.get_rng_state()
    confirm(grown("mark"), model, images(), measured())
    assert model.training
    assert model.dropout.training
    assert model.weight.grad is None
    assert torch.equal(before, torch.get_rng_state())


def test_places_by_hand():
    cell = find_place(Growth(None, 1, 0, 0, 1), images())
    assert cell.shape == (2, 16, 16)
    assert cell[0].nonzero().tolist() == [[2, 0], [2, 1], [3, 0], [3, 1]]
    assert torch.equal(find_place(Growth("mark", 0, 0, 0, 1), images()), images().masks["mark"])


def test_a_place_is_filled_with_the_mean_colour():
    picture = torch.tensor([[[[8.0, 1.0, 3.0]], [[0.0, 5.0, 4.0]]]])
    place = torch.tensor([[[True, False, False]]])
    assert hidden(picture, place).tolist() == [[[[4.0, 1.0, 3.0]], [[3.0, 5.0, 4.0]]]]


def test_a_pass_holds_at_most_chunk_size_images():
    class Counting(Corner):
        count = mock.Mock()  # A list of the class would be given back as it was.

        def forward(self, images: Tensor) -> Tensor:
            self.count(len(images))
            return super().forward(images)

    growth = grown("mark").growth
    options, classes = PassOptions(call_plainly), measured().classes
    whole = probabilities_without(growth, Corner(), images(), classes, options, all_rows)
    options = PassOptions(call_plainly, chunk_size=1)
    found = probabilities_without(growth, Counting(), images(), classes, options, all_rows)
    assert Counting.count.mock_calls == [mock.call(1), mock.call(1)]
    assert torch.equal(found, whole)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_images_of_another_precision_are_hidden_and_passed_as_they_are_explained(dtype):
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 2))
    growth, options = grown("mark").growth, PassOptions(call_plainly)
    other = ProbeBatch(images().images[:, :1].to(dtype), masks=images().masks)
    classes = torch.zeros(len(other), dtype=torch.long)
    found = probabilities_without(growth, model, other, classes, options, all_rows)
    assert found.shape == classes.shape
    assert bool(torch.isfinite(found).all())
