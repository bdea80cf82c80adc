"""Two real processes train, observe, and write one set of events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matrix import differences, probe
from pytorch_lightning.strategies import ModelParallelStrategy
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency import SaliencyCallback, SaliencyError

SCRIPT = Path(__file__).with_name("distributed_run.py")


def start(strategy: str, folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), strategy, str(folder), how]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def train(strategy: str, folder: Path, how: str = "observed") -> dict[str, Any]:
    done = start(strategy, folder, how)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "kept.pt", weights_only=True)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> dict[str, Any]:
    return train("one", tmp_path_factory.mktemp("single") / "run")


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_as_if_unobserved_and_see_what_one_would(strategy, single, tmp_path):
    observed = train(strategy, tmp_path / "observed")
    alone = train(strategy, tmp_path / "alone", "alone")
    for part in ("weights", "moments", "metrics", "rng"):
        assert differences(alone[part], observed[part]) == [], part

    for name, count in (("even", 4), ("odd", 3), ("one", 1)):
        untrained = observed["seen"][name][0]
        assert untrained["caption"] == "untrained"
        assert len(untrained["maps"]) == count
        # The weights are those of the single process still, and the arithmetic is the same.
        assert torch.equal(untrained["targets"], single["seen"][name][0]["targets"])
        torch.testing.assert_close(
            observed["maps"][name][0], single["maps"][name][0], rtol=0, atol=1e-6
        )
        torch.testing.assert_close(
            untrained["peaks"], single["seen"][name][0]["peaks"], rtol=1e-6, atol=0
        )

    assert len(list((tmp_path / "observed").glob("events*"))) == 1
    events = EventAccumulator(str(tmp_path / "observed"), size_guidance={"images": 0}).Reload()
    tags = events.Tags()["images"]
    assert len([t for t in tags if "filmstrip" not in t]) == 4 + 3 + 1
    steps = {tag: [e.step for e in events.Images(tag)] for tag in tags if "filmstrip" not in tag}
    assert set(map(tuple, steps.values())) == {(0, 1, 3)}


def test_a_rank_that_fails_alone_is_raised_on_all(tmp_path):
    """The other one would otherwise wait for it, until its process group loses patience."""
    done = start("ddp", tmp_path / "run", "raise")
    assert done.returncode != 0
    failed, other = ((tmp_path / "run" / f"rank {rank}.txt").read_text() for rank in (1, 0))
    assert "observing the model (epoch 0) failed: ArithmeticError: only here" in failed
    assert "another process failed while explaining the probe; its log says why" in other


def test_a_rank_that_fails_alone_lets_training_go_on(tmp_path):
    observed = train("ddp", tmp_path / "observed", "warn")
    alone = train("ddp", tmp_path / "alone", "alone")
    for part in ("weights", "moments", "metrics", "rng"):
        assert differences(alone[part], observed[part]) == [], part
    captions = {name: [s["caption"] for s in seen] for name, seen in observed["seen"].items()}
    assert captions == {name: ["untrained", "epoch 1"] for name in ("even", "odd", "one")}


def test_failures_cannot_be_overlooked_where_each_pass_needs_all_ranks():
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    trainer = SimpleNamespace(strategy=strategy, world_size=2, global_rank=0)
    with pytest.raises(SaliencyError, match="`on_error='warn'` cannot be kept under a sharded"):
        SaliencyCallback(probe(), on_error="warn")._prepare(trainer, None)
