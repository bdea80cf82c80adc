"""Which classes are explained if an image has several labels."""

from __future__ import annotations

import pytest
import torch

from lightning_saliency import ProbeBatch
from lightning_saliency.attribution.targets import choose_targets, resolve_targets

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
