"""Two real processes train, observe, and write one set of events."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from matrix import differences
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

SCRIPT = Path(__file__).with_name("distributed_run.py")


def train(strategy: str, folder: Path, *, observed: bool) -> dict[str, Any]:
    folder.mkdir()
    command = [sys.executable, str(SCRIPT), strategy, str(folder), str(int(observed))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(folder / "kept.pt", weights_only=True)


@pytest.fixture(scope="module")
def single(tmp_path_factory) -> dict[str, Any]:
    return train("one", tmp_path_factory.mktemp("single") / "run", observed=True)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_train_as_if_unobserved_and_see_what_one_would(strategy, single, tmp_path):
    observed = train(strategy, tmp_path / "observed", observed=True)
    alone = train(strategy, tmp_path / "alone", observed=False)
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
