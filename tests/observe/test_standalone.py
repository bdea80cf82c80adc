"""References from models at hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency import ProbeBatch
from lightning_saliency.errors import NotComparableError, RecordError, SaliencyError
from lightning_saliency.observe.standalone import reference_from_models


class Net(nn.Module):
    def __init__(self, seed: int, classes: int = 3) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, 64, generator=generator))
        self.dropout = nn.Dropout()

    def forward(self, images: Tensor) -> Tensor:
        return self.dropout(images.flatten(1).relu()) @ self.weight.T


def probe(**known: object) -> ProbeBatch:
    images = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ProbeBatch(images, **{"labels": [0, 1, 2, 0]} | known)


def test_the_models_are_left_as_they_were():
    models = [Net(seed).train() for seed in range(3)]
    before = torch.get_rng_state()
    reference = reference_from_models(models, probe(), reason="they are good")
    assert [run.caption for run in reference.runs] == ["model 1", "model 2", "model 3"]
    assert reference.reason == "they are good"
    assert reference.classes.tolist() == [0, 1, 2, 0]
    assert torch.equal(before, torch.get_rng_state())
    for model in models:
        assert model.training
        assert model.weight.grad is None


def test_one_model_at_a_time():
    """A generator loads the second model only after the first is done with."""
    calls: list[int] = []

    class Noting(Net):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(int(self.seed))
            return super().forward(images)

    def load() -> Iterator[nn.Module]:
        for seed in range(3):
            model = Noting(seed)
            model.seed = seed
            yield model

    assert len(reference_from_models(load(), probe(), names="abc").runs) == 3
    assert calls == sorted(calls)
    assert set(calls) == {0, 1, 2}


def test_extras_and_masks_are_taken_into_account():
    masks = {"half": torch.arange(8).expand(4, 8, 8) < 4}
    known = probe(masks=masks, extras={"scale": torch.ones(4, 1)})

    def forward(model: nn.Module, images: Tensor, scale: Tensor) -> Tensor:
        return model(images) * scale

    reference = reference_from_models([Net(0)], known, ["half.share >= 0.1"], forward=forward)
    assert reference.shares["half"].shape == (1, 4)


def test_a_model_with_one_logit():
    reference = reference_from_models([Net(0, 1)], probe(labels=[0, 1, 1, 0]))
    assert reference.classes.tolist() == [0, 1, 1, 0]


def test_what_cannot_be_a_reference():
    with pytest.raises(RecordError, match="model 1 and model 2 hold identical maps"):
        reference_from_models([Net(0), Net(0)], probe())
    with pytest.raises(ValueError, match="mask of the region 'object'"):
        reference_from_models([Net(0)], probe(), ["object.share >= 0.5"])
    with pytest.raises(ValueError, match="label"):
        reference_from_models([Net(0, 2)], probe())
    with pytest.raises(TypeError, match="`models` must hold modules, got str"):
        reference_from_models(["last.ckpt"], probe())
    with pytest.raises(NotComparableError, match="model 1 and model 2 cannot be compared: diff"):
        reference_from_models([Net(0), Net(1)], probe(labels=None))
    with pytest.raises(SaliencyError, match="trying Linear on images of the probe"):
        reference_from_models([nn.Linear(3, 3)], probe())
