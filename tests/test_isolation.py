"""What a computation may disturb is given back, also what no run of the other tests has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_saliency import ProbeBatch
from lightning_saliency.isolation import random_streams_kept
from lightning_saliency.photos import to_tensor


def _of_a_dataset() -> None:
    ProbeBatch.from_dataset([(torch.rand(1, 4, 4), 0), (torch.rand(1, 4, 4), 1)])


def _of_a_photo() -> None:
    from PIL import Image

    to_tensor(Image.new("RGB", (8, 8)), transform=lambda _: torch.rand(3, 8, 8))


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="nothing is queued once CUDA is in use")
@pytest.mark.parametrize("doing", [_of_a_dataset, _of_a_photo])
def test_the_seed_that_cuda_will_start_from_is_left_alone(doing: Callable[[], None]):
    torch.manual_seed(42)
    queue = torch.cuda._lazy_seed_tracker.get_calls()
    doing()
    assert torch.cuda._lazy_seed_tracker.get_calls() == queue


def test_the_stream_of_cuda_is_seeded_where_it_is_in_use(monkeypatch: pytest.MonkeyPatch):
    called: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["state"])
    monkeypatch.setattr(torch.cuda, "manual_seed_all", called.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", called.append)
    with random_streams_kept(7):
        assert called == [7]
    assert called == [7, ["state"]]


def test_the_stream_of_mps_is_seeded_and_kept_where_there_is_one(monkeypatch: pytest.MonkeyPatch):
    stream = torch.Generator().manual_seed(1)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", stream.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", stream.set_state)
    monkeypatch.setattr(torch.mps, "manual_seed", stream.manual_seed)
    before = stream.get_state()
    with random_streams_kept(7):
        inside = torch.rand((), generator=stream)
    assert torch.equal(inside, torch.rand((), generator=torch.Generator().manual_seed(7)))
    assert torch.equal(stream.get_state(), before)


def test_no_stream_is_asked_of_mps_elsewhere(monkeypatch: pytest.MonkeyPatch):
    def touched(*_: Any) -> Tensor:
        raise AssertionError("a device that is not there was used")

    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("get_rng_state", "set_rng_state", "manual_seed"):
        monkeypatch.setattr(torch.mps, name, touched)
    with random_streams_kept(7):
        torch.rand(())
