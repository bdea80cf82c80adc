"""Labels in every form that a dataset or a person keeps them in."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from lightning_saliency import ProbeBatch, SaliencyError
from lightning_saliency.probe.labels import check_labels_fit, read_labels

IMAGES = torch.rand(3, 1, 8, 8)
SEVERAL = [[1, 1, 0], [0, 0, 0], [0, 0, 1]]
ONE_HOT = [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


class Column:
    """A table column as in pandas, which numpy reads."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array([1, 2, 0])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        pytest.param([1, 2, 0], [1, 2, 0], id="list"),
        pytest.param((1, 2, 0), [1, 2, 0], id="tuple"),
        pytest.param([np.int64(1), np.int64(2), np.int64(0)], [1, 2, 0], id="list-of-numpy"),
        pytest.param([torch.tensor(1), torch.tensor(2), 0], [1, 2, 0], id="list-of-tensors"),
        pytest.param(np.array([1, 2, 0], dtype=">i4"), [1, 2, 0], id="array-of-another-order"),
        pytest.param(np.array([0, 2, 1])[::-1], [1, 2, 0], id="array-turned-round"),
        pytest.param(np.array([1, 2, 0], dtype=np.uint16), [1, 2, 0], id="unsigned-array"),
        pytest.param(Column(), [1, 2, 0], id="column"),
        pytest.param(torch.tensor([[1], [2], [0]]), [1, 2, 0], id="integers-n-1"),
        pytest.param(torch.tensor([[[1]], [[2]], [[0]]]), [1, 2, 0], id="integers-n-1-1"),
        pytest.param(torch.tensor([1, 2, 0], dtype=torch.uint8), [1, 2, 0], id="bytes"),
        pytest.param([True, False, True], [1, 0, 1], id="list-of-bools"),
        pytest.param(torch.tensor([True, False, True]), [1, 0, 1], id="bools"),
        pytest.param(torch.tensor([[True], [False], [True]]), [1, 0, 1], id="bools-n-1"),
        pytest.param(torch.tensor([1.0, 0.0, 1.0]), [1, 0, 1], id="floats-of-a-bce-loss"),
        pytest.param(torch.tensor([[1.0], [0.0], [1.0]]), [1, 0, 1], id="floats-n-1"),
        pytest.param(torch.tensor(ONE_HOT), [1, 2, 0], id="one-hot-integers"),
        pytest.param(torch.tensor(ONE_HOT).bool(), [1, 2, 0], id="one-hot-bools"),
        pytest.param(ONE_HOT, [1, 2, 0], id="one-hot-lists"),
        pytest.param(torch.tensor([1, -1, 0]), [1, -1, 0], id="one-without-a-label"),
        pytest.param(torch.tensor([1, -100, 0]), [1, -1, 0], id="one-that-losses-ignore"),
    ],
)
def test_one_class_per_image(labels: Any, expected: list[int]):
    for read in (read_labels(labels, 3), read_labels(labels, 3, from_data=True)):
        assert (read.dtype, read.tolist()) == (torch.int64, expected)
    probe = ProbeBatch(IMAGES, labels)
    assert not probe.multi_label
    assert probe.labels.tolist() == expected


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float32])
def test_several_labels_per_image(dtype: torch.dtype):
    labels = torch.tensor(SEVERAL).to(dtype)
    for read in (read_labels(labels, 3), read_labels(labels, 3, from_data=True)):
        assert (read.dtype, read.tolist()) == (torch.float32, SEVERAL)
    probe = ProbeBatch(IMAGES, labels)
    assert probe.multi_label
    assert probe.all_true_classes() == [[0, 1], [], [2]]


def test_one_hot_floats_are_several_labels_if_passed_and_one_class_if_found_in_data():
    """A person who passes floats has read that they mean several labels per image."""
    labels = torch.tensor(ONE_HOT).float()
    assert torch.equal(read_labels(labels, 3), labels)
    for found in (labels, labels.half(), labels * 0.8 + 0.2 / 3):
        assert read_labels(found, 3, from_data=True).tolist() == [1, 2, 0]


def test_unknown_labels_among_several_are_not_true():
    labels = torch.tensor([[1, -1, 1], [0, float("nan"), 1], [-1, 0, 0]])
    expected = [[1, 0, 1], [0, 0, 1], [0, 0, 0]]
    assert read_labels(labels, 3, from_data=True).tolist() == expected


def test_an_image_without_a_label_has_no_true_class():
    probe = ProbeBatch(IMAGES, [1, -1, 0])
    assert probe.all_true_classes() == [[1], [], [0]]
    assert probe.names == ("image 0 · class 1", "image 1", "image 2 · class 0")
    assert probe.first_labels() is None
    assert ProbeBatch(IMAGES, [-1, -1, -100]).labels is None


def test_a_column_of_one_named_class_stays_several_labels():
    labels = torch.tensor([[1.0], [0.0], [1.0]])
    probe = ProbeBatch(IMAGES, labels, class_names=["defect"])
    assert probe.multi_label
    assert probe.all_true_classes() == [[0], [], [0]]
    assert not ProbeBatch(IMAGES, labels, class_names=["good", "defect"]).multi_label


def test_labels_are_a_copy():
    labels = torch.tensor([1, 2, 0])
    probe = ProbeBatch(IMAGES, labels)
    labels[0] = 0
    assert probe.labels.tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        pytest.param(["cat", "dog", "cat"], TypeError, "Number the names", id="names"),
        pytest.param({"a": 1}, TypeError, "Number the names", id="dict"),
        pytest.param([[1], [1, 2], []], TypeError, "must be class indices", id="ragged"),
        pytest.param(
            torch.ones(3, dtype=torch.complex64), TypeError, "Pass integers", id="complex"
        ),
        pytest.param([1, 2], ValueError, r"each of 3 image.*torch.int64 \(2,\)", id="too-few"),
        pytest.param(7, ValueError, r"each of 3 image\(s\), got torch.int64 \(\)", id="number"),
        pytest.param([0.5, 1.0, 2.0], ValueError, r"`labels.long\(\)`", id="numbers"),
        pytest.param([3.0, 1.0, 2.0], ValueError, r"`labels.long\(\)`", id="classes-as-floats"),
        pytest.param([1, -7, 0], ValueError, "got 1, -7, 0. -1 stands for", id="negative"),
        pytest.param([[3, 1], [4, 0], [1, 1]], ValueError, "must be 0 or 1, got 3", id="pairs"),
        pytest.param(torch.ones(3, 4, 4), ValueError, "Maps of classes", id="maps"),
    ],
)
def test_what_no_labels_are_is_refused(labels: Any, error: type[Exception], message: str):
    for from_data in (False, True):
        with pytest.raises(error, match=message):
            read_labels(labels, 3, from_data=from_data)


def test_floats_of_data_outside_of_0_to_1_are_no_labels():
    with pytest.raises(ValueError, match=r"must be 0 or 1, got 12.5, 3, .*Pass one class per im"):
        read_labels(torch.tensor([[12.5, 3.0], [4.0, 1.0], [2.0, 2.0]]), 3, from_data=True)


@pytest.mark.parametrize(
    ("labels", "num_logits"),
    [
        pytest.param([0, 4], 5, id="classes"),
        pytest.param([0, 1], 1, id="two-classes-of-one-logit"),
        pytest.param([1, -1], 2, id="one-unknown"),
        pytest.param([[1.0, 1.0, 0.0]] * 2, 3, id="several"),
    ],
)
def test_labels_that_fit_a_model(labels: list[Any], num_logits: int):
    check_labels_fit(torch.tensor(labels), num_logits)
    check_labels_fit(None, num_logits)


@pytest.mark.parametrize(
    ("labels", "num_logits", "message"),
    [
        pytest.param([0, 5], 5, "5 logit(s), for classes from 0 to 4, but {} classes 0, 5", id="5"),
        pytest.param([0, 2], 1, "1 logit(s), for classes from 0 to 1, but {} classes 0, 2", id="1"),
        pytest.param([[0.0, 1.0]] * 2, 3, "3 logit(s), for classes from 0 to 2, but {} 2 columns"),
    ],
)
def test_labels_that_do_not_fit_a_model(labels: list[Any], num_logits: int, message: str):
    passed = re.escape(message.format("they have")) + r".*Pass the labels .*ProbeBatch\(images, lab"
    with pytest.raises(ValueError, match=passed):
        check_labels_fit(torch.tensor(labels), num_logits)
    found = re.escape(message.format("`batch[1]` has")) + ".*an attribute `targets` of the dataset"
    with pytest.raises(SaliencyError, match=found):
        check_labels_fit(torch.tensor(labels), num_logits, "`batch[1]`")
