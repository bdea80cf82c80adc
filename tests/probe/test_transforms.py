"""Restoring the colours of images: what a wrong normalisation would hide is warned of."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision import transforms
from training import fit

from lightning_saliency import ProbeBatch, SaliencyCallback
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.probe.transforms import IMAGENET

PHOTOS = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
# White strokes on black, as digits are: most pixels are 0 in any unit.
DIGITS = (PHOTOS[:, :1] > 0.8).float()


def normalised(images: Tensor, mean: Any, std: Any) -> Tensor:
    return transforms.Normalize(mean, std)(images)


USUAL: list[Any] = [
    pytest.param(normalised(PHOTOS, *IMAGENET), *IMAGENET, id="ImageNet"),
    pytest.param(normalised(DIGITS, [0.1307], [0.3081]), [0.1307], [0.3081], id="digits"),
    pytest.param(normalised(PHOTOS, [0.5] * 3, [0.5] * 3), 0.5, 0.5, id="minus-one-to-one"),
    pytest.param(PHOTOS, None, None, id="not-normalised"),
    pytest.param(PHOTOS, *IMAGENET, id="normalised-by-the-module"),
    pytest.param(PHOTOS * 255, None, None, id="bytes"),
    pytest.param(PHOTOS * 255, 0, 1 / 255, id="bytes-restored"),
    pytest.param(torch.randn(4, 3, 8, 8), *IMAGENET, id="noise"),
    pytest.param(normalised(PHOTOS, *IMAGENET) * 1.05 + 0.05, *IMAGENET, id="brightened"),
    pytest.param(torch.randn(4, 3, 8, 8), 0, 1, id="standardised"),
    pytest.param(normalised(PHOTOS, *IMAGENET), 0, 1, id="meant-as-none"),
    pytest.param(torch.ones(2, 3, 4, 4), 0.0, 1.0, id="white"),
]


@pytest.mark.parametrize(("images", "mean", "std"), USUAL)
def test_usual_normalisations_are_not_doubted(images, mean, std):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shown = ProbeBatch(images, mean=mean, std=std).displayed()
    assert shown.min() >= 0
    assert shown.max() <= 1


WRONG: list[Any] = [
    pytest.param(normalised(PHOTOS, [0.48] * 3, [0.23] * 3), 123, 58, id="of-bytes"),
    pytest.param(normalised(DIGITS, [0.13], [0.31]), 33.15, 79.05, id="bytes-on-black"),
    pytest.param(normalised(PHOTOS, [0.48] * 3, [0.23] * 3), 0.48, 58, id="only-std"),
    pytest.param(PHOTOS * 255, *IMAGENET, id="images-that-are-not-normalised"),
]


@pytest.mark.parametrize(("images", "mean", "std"), WRONG)
def test_a_normalisation_that_restores_no_photos_is_warned_of(images, mean, std):
    probe = ProbeBatch(images, mean=mean, std=std)
    remedy = r"divide those for images in \[0, 255\] by 255, such as `mean=\[123 / 255\]`"
    with pytest.warns(SaliencyWarning, match=rf"restore pixels from .*{remedy}") as caught:
        probe.displayed()
    assert caught[0].filename == __file__


@pytest.mark.usefixtures("one_thread")
def test_it_is_warned_of_before_training(tmp_path):
    images = normalised(torch.rand(1, 3, 12, 12), [0.48] * 3, [0.23] * 3)
    probe = ProbeBatch(images, torch.tensor([0]), mean=[123.0] * 3, std=[58.0] * 3)
    callback = SaliencyCallback(probe, targets="label", at_start=False, every_n_epochs=0)
    with pytest.warns(SaliencyWarning, match="`mean` and `std` restore pixels from") as caught:
        fit(tmp_path, callback, max_epochs=1)
    assert len([w for w in caught if "restore pixels" in str(w.message)]) == 1
