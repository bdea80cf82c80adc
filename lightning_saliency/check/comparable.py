"""Which runs can be compared: those that measured the same of the same images."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_saliency.record.facts import RunInfo


def why_not_comparable(
    first: RunInfo, second: RunInfo, first_classes: Tensor, second_classes: Tensor
) -> str | None:
    """Explain why two runs cannot be compared.

    Args:
        first: The metadata of one run.
        second: The metadata of the other.
        first_classes: ``(images,)`` int64, the measured class of each image in the first.
        second_classes: The same for the second.

    Returns:
        The reason in words, or ``None`` if they can be compared.
    """
    if second.fingerprint != first.fingerprint or second.areas.keys() != first.areas.keys():
        return (
            "their probes differ (images, labels or masks). Give all runs the same `ProbeBatch`, "
            "because the default one is chosen from the data of each run: write it to a file by "
            "`probe.save('probe.safetensors')`, and pass "
            "`ProbeBatch.load('probe.safetensors')` to each"
        )
    if (second.rule, second.reduce) != (first.rule, first.reduce):
        rules = " and ".join(f"{info.rule} ({info.reduce})" for info in (first, second))
        return f"they were measured by different rules, {rules}{_remedy(first, second)}"
    if second.class_names != first.class_names:
        return "their classes differ in their names or in their order"
    if not torch.equal(first_classes, second_classes):
        return (
            "different classes were measured; without labels, a probe measures the predicted "
            "classes, so give it labels"
        )
    return None


def _remedy(first: RunInfo, second: RunInfo) -> str:
    """What to do if one of two runs was measured before there was a better way."""
    if {first.reduce, second.reduce} != {"square", "joint"}:
        return ""
    return (
        "; earlier versions measured squares by default, so record the good runs again and make a "
        "new reference, or record this run with `AttentionCheck(…, reduce='square')`"
    )
