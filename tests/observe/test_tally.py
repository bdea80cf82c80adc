"""What is counted is what is true, whatever the chunks."""

from __future__ import annotations

import itertools

import pytest
import torch
from matrix import Touchy, probe
from torch import Tensor, nn

from lightning_saliency.attribution.logits import call_plainly
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer

RULES = ("guided_backprop", "deconvnet")


def count(targets: Tensor | None, chunk: int | None, forward=call_plainly) -> list[tuple[int, int]]:
    """What is noted while four images are observed by two rules, and measured by a third."""
    torch.manual_seed(0)
    notes: list[tuple[int, int]] = []
    images = probe()
    Observer(
        images,
        targets,
        RULES,
        12,
        PassOptions(forward, chunk),
        Meter.for_probe(images, 12),
        note=lambda done, total: notes.append((done, total)),
    ).observe(Touchy(), "now", 0)
    return notes


@pytest.mark.parametrize("chunk", [None, 1, 2, 3, 4])
@pytest.mark.parametrize("columns", [None, 1, 2])
def test_maps_are_counted_one_by_one(columns, chunk):
    targets = None if columns is None else torch.arange(columns).repeat(4, 1)
    notes = count(targets, chunk)
    per_image = 2 * (columns or 4) + 1
    sizes = {None: [4], 1: [1] * 4, 2: [2, 2], 3: [3, 1], 4: [4]}[chunk]
    steps = [size for size in sizes for _ in range(per_image)]
    assert notes == [(done, 4 * per_image) for done in itertools.accumulate(steps)]


def test_the_count_falls_back_to_what_is_true_when_memory_runs_out():
    fitting = [8, 99, 3]  # of nine passes per chunk, those before memory runs out

    def forward(model: nn.Module, images: Tensor) -> Tensor:
        left = fitting.pop(0) if fitting else 99

        def spend(gradient: Tensor) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise torch.OutOfMemoryError("CUDA out of memory")

        images.register_hook(spend)
        return model(images)

    with pytest.warns(match="memory ran out"):
        notes = count(None, None, forward)
    counted = [*range(4, 36, 4), *range(2, 20, 2), 20, 22, 24, *range(19, 37)]
    assert notes == [(done, 36) for done in counted]
