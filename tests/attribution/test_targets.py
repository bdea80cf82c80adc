"""Which classes are explained if an image has several labels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lightning_saliency import ProbeBatch
from lightning_saliency.attribution.targets import choose_targets, read_words, resolve_targets

CLASSES = 12


def labelled(*counts: int) -> ProbeBatch:
    """Make one image per count, labelled with that many of the last classes."""
    labels = torch.tensor([[float(c >= CLASSES - n) for c in range(CLASSES)] for n in counts])
    return ProbeBatch(torch.rand(len(counts), 1, 4, 4), labels)


@pytest.mark.parametrize(
    ("counts", "columns"),
    [
        pytest.param((1, 2), 6, id="few"),
        pytest.param((9, 1), 12, id="nine-of-twelve"),
        pytest.param((12, 0), 12, id="all"),
        pytest.param((0, 0), 5, id="none"),
    ],
)
def test_auto_asks_for_no_more_classes_than_exist(counts, columns):
    probe = labelled(*counts)
    targets = choose_targets("auto", CLASSES, probe.all_true_classes())
    assert targets.shape == (2, columns)
    found = resolve_targets(targets, torch.arange(float(CLASSES)).expand(2, -1))
    for image, row in enumerate(found.tolist()):
        assert len(set(row)) == columns
        assert probe.true_classes(image) <= set(row)


@pytest.mark.parametrize("counts", [(12, 0), (9, 3), (1, 1)])
def test_shorter_rows_of_labels_are_filled_with_distinct_classes(counts):
    probe = labelled(*counts)
    targets = choose_targets("label", CLASSES, probe.all_true_classes())
    assert targets.shape == (2, max(counts))
    found = resolve_targets(targets, torch.arange(float(CLASSES)).expand(2, -1))
    assert all(len(set(row)) == max(counts) for row in found.tolist())


@pytest.mark.parametrize(
    ("wanted", "read"),
    [
        pytest.param([np.int64(1), 2], [1, 2], id="numbers-of-numpy"),
        pytest.param(np.array([3, 1]), [3, 1], id="array"),
        pytest.param(np.array(["cat", "dog"]), ["cat", "dog"], id="names"),
        pytest.param((1, 2), [1, 2], id="tuple"),
        pytest.param(np.str_("top3"), "top3", id="word"),
    ],
)
def test_classes_are_read_as_types_that_a_record_can_keep(wanted, read):
    found = read_words(wanted)
    assert found == read
    assert {type(item) for item in [found, *found]} <= {list, int, str}


@pytest.mark.parametrize("wanted", [[1.5], [True], [None], np.array([0.5])])
def test_items_that_are_no_classes_are_refused(wanted):
    with pytest.raises(TypeError, match=r"^`targets` must be a list of indices or class names"):
        read_words(wanted)


@pytest.mark.parametrize(
    ("counts", "num_classes", "true"),
    [
        pytest.param((40, 3), 40, 12, id="all-of-forty"),
        pytest.param((20, 3), 40, 8, id="half-of-forty"),
        pytest.param((38, 1), 40, 10, id="all-but-two"),
    ],
)
def test_auto_shows_twelve_classes_of_many_labels(counts, num_classes, true):
    labels = [list(range(count)) for count in counts]
    targets = choose_targets("auto", num_classes, labels)
    assert targets.shape == (2, 12)
    assert targets[0, :true].tolist() == list(range(true))
    assert (targets[0, true:] == -1).all()
    assert choose_targets("label", num_classes, labels).shape == (2, max(counts))
