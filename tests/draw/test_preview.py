"""How explanations show themselves in a notebook."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from lightning_saliency import explain
from lightning_saliency.draw import preview as previews


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def network(classes: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("classes", [1, 5, 40])
def test_an_explanation_is_a_small_picture(count, classes):
    explanation = explain(network(classes), torch.rand(count, 3, 8, 8))
    data = explanation._repr_png_()
    height, width, _ = picture(data).shape
    assert width <= 620
    assert height <= 530
    assert len(data) < 200_000


def test_the_strongest_classes_come_first(monkeypatch):
    drawn = []
    tile = previews._tile
    monkeypatch.setattr(
        previews, "_tile", lambda map_, c, v: drawn.append((c, round(v, 4))) or tile(map_, c, v)
    )
    explanation = explain(network(40), torch.rand(2, 3, 8, 8))
    explanation._repr_png_()
    strongest = explanation.logits.topk(6)
    assert [c for c, _ in drawn] == strongest.indices.flatten().tolist()
    values = strongest.values.flatten().tolist()
    assert [v for _, v in drawn] == [round(value, 4) for value in values]


def test_a_map_that_is_not_finite_and_one_that_is_zero():
    maps = torch.zeros(1, 2, 3, 8, 8)
    maps[0, 0, 0, 0, 0] = torch.nan
    data = previews.preview({"gradient": maps}, torch.tensor([[0, 1]]), torch.zeros(1, 2))
    assert picture(data).size
