"""Probabilities worked out by hand: the odds e^logit are 1, 2, 3."""

from __future__ import annotations

import math

import pytest
import torch

from lightning_saliency.functional.probabilities import gather_probabilities, probabilities

LOGITS = torch.tensor([[0.0, math.log(2), math.log(3)]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("logits", "multi_label", "expected"),
    [
        pytest.param(LOGITS, False, [[1 / 6, 2 / 6, 3 / 6]], id="softmax"),
        pytest.param(LOGITS, True, [[1 / 2, 2 / 3, 3 / 4]], id="sigmoid-for-several-labels"),
        pytest.param(LOGITS[:, 2:], False, [[3 / 4]], id="sigmoid-for-one-logit"),
    ],
)
def test_probabilities_by_hand(logits, multi_label, expected):
    found = probabilities(logits, multi_label=multi_label)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("multi_label", "expected"),
    [pytest.param(False, [1 / 6, 3 / 6], id="one"), pytest.param(True, [1 / 2, 3 / 4], id="many")],
)
def test_one_class_per_image_is_gathered(multi_label, expected):
    classes = torch.tensor([0, 2])
    found = gather_probabilities(LOGITS.expand(2, -1), classes, multi_label=multi_label)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_one_logit_stands_for_class_1_against_class_0():
    logits, classes = LOGITS[:, 2:].expand(2, -1), torch.tensor([1, 0])
    found = gather_probabilities(logits, classes, multi_label=False)
    torch.testing.assert_close(found, torch.tensor([3 / 4, 1 / 4], dtype=torch.float64))


def test_one_logit_of_a_multi_label_model_is_its_only_class():
    found = gather_probabilities(LOGITS[:, 2:], torch.tensor([0]), multi_label=True)
    torch.testing.assert_close(found, torch.tensor([3 / 4], dtype=torch.float64))
