"""Two real processes train, observe, judge, and write one set of events and one record."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from matrix import Shapes, Touchy, differences, failing_check, probe
from older import skip_if_torch_is_unable, torch_is_unable
from paths import SUPPORT
from pytorch_lightning.strategies import ModelParallelStrategy
from records import RULE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError
from lightning_saliency.record.observation import Observation
from lightning_saliency.record.run import OBSERVATION_FILE, open_run

SCRIPT = SUPPORT / "distributed_run.py"
COUNTS = {"even": 4, "odd": 3, "one": 1}

# All of these are done in one start of Python, which takes longer than they do together.
WAYS = {
    "ddp": ("observed", "alone", "warn", "raise", "full", "gate", "single", "nudged"),
    "fsdp2": ("observed", "alone", "nudged"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which both strategies trained, each in a folder of its name."""
    root = tmp_path_factory.mktemp("distributed")
    started = []
    for strategy, ways in WAYS.items():
        if torch_is_unable(strategy):
            continue  # The tests of it are skipped.
        failing_check().reference.save(root / strategy / "reference")
        command = [sys.executable, str(SCRIPT), strategy, str(root / strategy), *ways]
        options = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
        started.append(subprocess.Popen(command, **options))
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors[-3000:]
    finally:
        for process in started:  # with its children, which may wait for each other
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return root


@pytest.fixture(autouse=True)
def able(request: pytest.FixtureRequest) -> None:
    """Skip the tests of a strategy that this PyTorch does not have."""
    named = getattr(request.node, "callspec", None)
    if named is not None:
        skip_if_torch_is_unable(named.params.get("strategy", ""))


def kept(folder: Path, rank: int = 0) -> dict[str, Any]:
    return torch.load(folder / f"rank {rank}.pt", weights_only=True)


@pytest.mark.parametrize(
    ("strategy", "how"), [("ddp", "observed"), ("fsdp2", "observed"), ("ddp", "warn")]
)
def test_two_processes_train_as_if_unobserved(strategy, how, root):
    """This holds if an observation fails on one of them, too."""
    for rank in (0, 1):
        alone, observed = (kept(root / strategy / name, rank) for name in ("alone", how))
        for part in ("weights", "moments", "metrics", "rng"):
            assert differences(alone[part], observed[part]) == [], part
    assert {"loss", "val_acc", "first_rank", "mean_rank"} <= alone["metrics"].keys()


@pytest.mark.parametrize("strategy", WAYS)
def test_two_processes_see_what_one_would(strategy, root):
    """Compared before training, while the weights equal those of the single process."""
    observed, single = kept(root / strategy / "observed"), kept(root / "ddp" / "single")
    for name, count in COUNTS.items():
        assert len(observed["seen"][name][0]["maps"][RULE]) == count
        theirs, ours = (
            open_run(folder / name).observation(0)
            for folder in (root / "ddp" / "single", root / strategy / "observed")
        )
        assert ours.caption == single["seen"][name][0]["caption"] == "untrained"
        for path in ("targets", "measured.classes"):
            assert torch.equal(of(ours, path), of(theirs, path))
        for path in ("peaks", "probabilities", "measured.probabilities", "measured.profiles"):
            torch.testing.assert_close(of(ours, path), of(theirs, path), rtol=1e-6, atol=1e-7)
        for path in ("maps", "measured.maps"):  # in half precision, so equal except for zeros
            torch.testing.assert_close(of(ours, path), of(theirs, path), rtol=0, atol=1e-6)
        shares = [o.measured.shares["corner"] for o in (ours, theirs)]
        torch.testing.assert_close(*shares, rtol=1e-6, atol=0)
        assert ours.measures.keys() == theirs.measures.keys() >= {"corner.share"}


@pytest.mark.parametrize("strategy", WAYS)
def test_callables_are_called_by_both_processes(strategy, root):
    theirs, ours = (
        open_run(folder / "odd").observation(0).snapshot
        for folder in (root / "ddp" / "single", root / strategy / "observed")
    )
    assert ours.rules == ("guided_backprop", "slope", "LayerGradCam")
    for rule in ours.rules:
        assert float(ours.peaks[rule].min()) > 0
        torch.testing.assert_close(ours.peaks[rule], theirs.peaks[rule], rtol=1e-5, atol=1e-7)
        # In eight bits, values may be rounded to either side.
        torch.testing.assert_close(ours.maps[rule], theirs.maps[rule], rtol=0, atol=0.01)


def of(observation: Observation, path: str) -> torch.Tensor:
    found: Any = observation if path.startswith("measured") else observation.snapshot
    for name in path.split("."):
        found = getattr(found, name)
    return found[RULE] if isinstance(found, dict) else found


@pytest.mark.parametrize("strategy", WAYS)
def test_one_process_writes_one_set_of_pictures(strategy, root):
    folder = root / strategy / "observed"
    assert len(list(folder.glob("events*"))) == 1
    events = EventAccumulator(str(folder), size_guidance={"images": 0}).Reload()
    steps = {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps.pop("even_attention/difference") == [1, 3]
    assert len([t for t in steps if "filmstrip" not in t]) == sum(COUNTS.values())
    found = {tuple(s) for tag, s in steps.items() if "filmstrip" not in tag}
    assert found == {(0, 1, 3)}


@pytest.mark.parametrize("strategy", WAYS)
def test_one_process_writes_one_record(strategy, root):
    folder = root / strategy / "observed"
    expected = {
        "run.json",
        "metrics.json",
        "photos.safetensors",
        *map(OBSERVATION_FILE.format, (0, 1, 3)),
    }
    for name, count in COUNTS.items():
        judged = {"verdict.json"} if name == "even" else set()
        assert {path.name for path in (folder / name).iterdir()} == expected | judged
        run = open_run(folder / name)
        assert run.info.finished
        assert run.info.metrics["first_rank"] == 1
        assert run.info.metrics["mean_rank"] == 0.5
        assert [len(run.observation(step).snapshot.maps[RULE]) for step in run.steps()] == [
            count
        ] * 3
    assert {path.name for path in folder.iterdir() if path.is_dir()} == set(COUNTS)


@pytest.mark.parametrize("strategy", WAYS)
def test_scalars_and_verdicts_are_the_same_on_both_ranks(strategy, root):
    """They agree although the metric that the check waits for misses its bound on rank 1."""
    first, second = (kept(root / strategy / "observed", rank) for rank in (0, 1))
    assert (first["metrics"]["first_rank"], second["metrics"]["first_rank"]) == (1, 0)
    assert first["measured"] == second["measured"]
    assert {"even/corner.share", "odd/drift.first"} <= first["measured"].keys()
    assert first["verdicts"] == second["verdicts"]
    assert len(first["verdicts"]) == 2  # one at the end of each epoch
    for verdict in first["verdicts"]:
        assert verdict.startswith("Verdict(outcome='fail'")
        assert "occluded=Occluded(before=" in verdict


@pytest.mark.parametrize("strategy", WAYS)
def test_a_rank_that_does_not_record_keeps_no_frames_either(strategy, root):
    """Both know where the first one records, and the state of both is small."""
    folder = root / strategy / "observed"
    for rank in (0, 1):
        for name, state in kept(folder, rank)["states"].items():
            assert state["history"]["kept"] == []
            assert state["history"]["last"] is None
            (part,) = state["recorded"]
            assert (part["folder"], part["first"]) == (str(folder / name), 0)
            assert part["last"] == state["last_step"]


def raised(folder: Path) -> list[str]:
    return [(folder / f"rank {rank}.txt").read_text() for rank in (0, 1)]


@pytest.mark.parametrize("strategy", WAYS)
def test_weights_that_change_when_training_has_ended_are_observed(strategy, root):
    module, folder = Touchy(), root / strategy / "nudged"
    module.load_state_dict(kept(folder)["weights"])
    run = open_run(folder / "one")
    last, shown = run.last(), ProbeBatch.from_dataset(Shapes(16, augment=False), count=1)
    assert (last.caption, last.step, run.info.finished) == ("trained", 4, True)
    now = module.eval()(shown.images).softmax(dim=1)[0, shown.labels]
    torch.testing.assert_close(last.measured.probabilities, now.detach())


def test_a_rank_that_fails_alone_is_raised_on_all(root):
    """Otherwise the other one would wait until its process group times out."""
    other, failed = raised(root / "ddp" / "raise")
    assert "observing the model (epoch 0) failed: ArithmeticError: only here" in failed
    assert "another process failed while explaining the probe; its log says why" in other


def test_a_rank_that_fails_alone_lets_training_go_on(root):
    seen = kept(root / "ddp" / "warn")["seen"]
    captions = {name: [s["caption"] for s in by_name] for name, by_name in seen.items()}
    assert captions == {name: ["untrained", "epoch 1"] for name in COUNTS}


def test_a_record_that_the_first_rank_cannot_end_is_raised_on_all(root):
    failed, other = raised(root / "ddp" / "full")
    assert "writing down how the run ended failed: OSError: [Errno 28] No space left" in failed
    assert "another process failed while writing down how the run ended" in other
    assert not open_run(root / "ddp" / "full" / "even").info.finished


def test_a_check_that_raises_does_so_on_all_ranks_with_everything_written(root):
    folder = root / "ddp" / "gate"
    first, second = raised(folder)
    assert first == second
    assert first.startswith("FAIL  even at epoch 0")
    run = open_run(folder / "even")
    assert run.steps() == [0, 1]
    assert run.info.metrics["mean_rank"] == 0.5
    tags = EventAccumulator(str(folder)).Reload().Tags()["images"]
    assert len([tag for tag in tags if tag.startswith("even_filmstrip/")]) == COUNTS["even"]


def test_failures_cannot_be_overlooked_where_each_pass_needs_all_ranks():
    strategy = ModelParallelStrategy(data_parallel_size=2, tensor_parallel_size=1)
    trainer = SimpleNamespace(strategy=strategy, world_size=2, global_rank=0)
    with pytest.raises(SaliencyError, match="`on_error='warn'` cannot be kept under a sharded"):
        SaliencyCallback(probe(), on_error="warn")._session.start(trainer, None)
