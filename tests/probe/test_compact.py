"""A probe in a checkpoint is small, and the same bit for bit."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency import ProbeBatch
from lightning_saliency.probe.compact import compact_images, restore_images

SHAPE = (4, 3, 40, 50)
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def levels(seed: int = 0) -> Tensor:
    return torch.randint(256, SHAPE, generator=torch.Generator().manual_seed(seed))


def photos() -> Tensor:
    return levels().float() / 255


def through_a_file(state: Any) -> tuple[Any, int]:
    """What a checkpoint of tensors and primitives gives back, and its size."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    size = buffer.tell()
    buffer.seek(0)
    return torch.load(buffer, weights_only=True), size


# The images and the most bytes that each pixel may take.
KINDS = {
    "photos": (photos(), 1),
    "normalised": ((photos() - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1), 1),
    "normalised-in-float64": ((photos().double() - 0.5) / 0.3, 1),
    "photos-times-the-inverse": (levels().float() * (1 / 255), 1),
    "whole-numbers": (levels().float(), 1),
    "binary": ((levels() > 100).float(), 1),
    "constant": (torch.zeros(SHAPE), 1),
    "zeros-of-both-signs": (torch.where(levels() > 9, -0.0, 0.0), 1),
    "photos-in-bfloat16": (photos().bfloat16(), 1),
    "half-precision": (torch.randn(SHAPE).half().float(), 2),
    "brain-floats": ((torch.randn(SHAPE) * 1e30).bfloat16().float(), 2),
    "half-precision-of-float64": (torch.randn(SHAPE).half().double(), 2),
    "float32-in-float64": (torch.randn(SHAPE).double(), 4),
    "noise": (torch.rand(SHAPE) + 1e-8, 4),
    "noise-in-float64": (torch.rand(SHAPE, dtype=torch.float64) / 3, 8),
    "257-values": ((torch.arange(24000).view(SHAPE) % 257).float() / 257, 4),
    "a-column-that-is-different": (photos().index_fill(3, torch.tensor([49]), 0.12345), 4),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_are_the_same_and_small(kind):
    images, most = KINDS[kind]
    state, size = through_a_file(compact_images(images))
    found = restore_images(state)
    assert found.dtype == images.dtype
    assert found.shape == images.shape
    assert found.contiguous().view(torch.uint8).equal(images.contiguous().view(torch.uint8))
    assert size <= most * images.numel() + 10_000


def test_values_that_a_sample_misses_are_found(monkeypatch):
    monkeypatch.setattr("lightning_saliency.probe.compact._SAMPLE", 7)
    for kind in ("normalised", "257-values"):
        images = KINDS[kind][0]
        state = compact_images(images)
        assert ("places" in state) == (kind == "normalised")
        assert torch.equal(restore_images(state), images)


def test_a_tiny_image_is_not_given_a_table_that_is_larger_than_itself():
    assert "values" in compact_images(torch.rand(1, 3, 4, 4))


def full_probe() -> ProbeBatch:
    mask = torch.zeros(4, 40, 50, dtype=torch.bool)
    mask[:, 3:17, 5:] = True
    return ProbeBatch(
        KINDS["normalised"][0],
        torch.tensor([0, 2, 1, -1]),
        class_names=["cat", "dog", "cow"],
        masks={"object": mask, "rest": ~mask},
        extras={"age": torch.tensor([1.0, 2.0, 3.0, 4.0])},
        mean=MEAN.tolist(),
        std=STD.tolist(),
    )


def test_a_probe_comes_back_whole_and_takes_a_quarter():
    probe = full_probe()
    state, size = through_a_file(probe.compact_state())
    found = ProbeBatch.from_state(state)
    assert found.fingerprint == probe.fingerprint == state["compact"]["fingerprint"]
    for name in ("class_names", "names", "mean", "std"):
        assert getattr(found, name) == getattr(probe, name)
    assert found.labels.tolist() == probe.labels.tolist()
    assert size < probe.images.numel() + 2 * probe.images.shape[0] * 40 * 50 / 8 + 15_000


def test_a_state_with_other_images_is_refused():
    state = full_probe().compact_state()
    state["compact"]["images"]["places"][0, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="not those of its fingerprint"):
        ProbeBatch.from_state(state)


def test_a_state_of_another_type_is_refused():
    state = compact_images(photos())
    for wrong in ("save", "int8"):
        with pytest.raises(ValueError, match="is not the type of images"):
            restore_images({**state, "dtype": wrong})


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda s: s["images"].update(tables=s["images"]["tables"][:, :9]), id="table"),
        pytest.param(lambda s: s["images"].update(tables=s["images"]["tables"][:1]), id="channel"),
        pytest.param(lambda s: s["images"].update(places=s["images"]["places"].long()), id="type"),
        pytest.param(lambda s: s["images"].update(places=s["images"]["places"][0]), id="shape"),
        pytest.param(lambda s: s["masks"]["rest"].update(shape=[4, 10**6, 10**6]), id="huge-mask"),
        pytest.param(lambda s: s["masks"]["rest"].update(bits=torch.zeros(3)), id="mask-type"),
    ],
)
def test_a_damaged_state_is_refused(damage):
    state = full_probe().compact_state()
    damage(state["compact"])
    with pytest.raises(ValueError, match=r"its images|a mask of the shape"):
        ProbeBatch.from_state(state)
