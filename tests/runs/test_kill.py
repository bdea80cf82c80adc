"""A run that is killed at any moment leaves complete files, and can be resumed.

The suite tries fifty moments, the slow tests two hundred. Children are forked, because a new
process would spend seconds on imports.
"""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from records import info, observation, photos

from lightning_saliency.record.metrics import METRICS_FILE
from lightning_saliency.record.run import OBSERVATION_FILE, PHOTOS_FILE, RUN_FILE, open_run
from lightning_saliency.record.writer import RunWriter

LATEST = 0.04  # seconds after the start, when there are about twenty files
IN_A_FOLDER = 5  # kills; each run resumes the one that was killed before


def record_for_ever(folder: Path, keep: int | None, after: int) -> None:
    """Record without end, as the child does until it is killed."""
    recorder = RunWriter(folder, keep)
    recorder.begin(info(), photos(), after=after)
    for step in range(after + 1, after + 1_000_000):
        recorder.add(observation(step=step))
        if step % 3 == 0:
            recorder.end({"val_acc": 0.5}, finished=False)


def kill_after(seconds: float, folder: Path, keep: int | None, after: int) -> None:
    """Record in a child process and kill it."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(tell, b"!")
            record_for_ever(folder, keep, after)
        finally:
            os._exit(1)  # so that the child does not run the rest of pytest
    os.read(ready, 1)  # A fork of a process as large as that of the tests takes a while.
    os.close(ready)
    os.close(tell)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the child must have been at work"


def parts(folder: Path) -> list[Path]:
    return list(folder.glob(".*.part"))


def all_read(folder: Path, keep: int | None) -> list[int]:
    """Read every file in the folder; return the steps."""
    for path in folder.glob("[!.]*"):
        known = path.name in (RUN_FILE, PHOTOS_FILE, METRICS_FILE, "set_aside")
        assert known or path.match(OBSERVATION_FILE.format(0)[:12] + "*.safetensors"), path
    if not (folder / RUN_FILE).exists():  # it is written before the first observation
        assert not list(folder.glob("observation-*"))
        return []
    run = open_run(folder)
    assert run.info == info() or run.info == info(metrics={"val_acc": 0.5})
    assert len(run.photos()) == len(run.info.images)
    steps = run.steps()
    for step in steps:
        assert run.observation(step).step == step
    if keep is not None:
        assert len(steps) <= keep + 1  # the last was added, and the surplus one not yet removed
    return steps


def kill_often(kills: int, keep: int | None, place: Path) -> None:
    draw = random.Random(0)
    halves = begun = 0
    left: list[int] = []
    for kill in range(kills):
        folder = place / str(kill // IN_A_FOLDER)
        steps = left if folder.exists() else []
        past = steps[-1] if steps and kill % 4 else draw.choice([*steps, -1])
        kill_after(draw.uniform(0, LATEST), folder, keep, past)
        halves += bool(parts(folder))
        left = all_read(folder, keep)
        begun += bool(left)
        go_on(folder, keep, left)
        left = all_read(folder, keep)
    assert halves > kills // 20, "few were killed as they wrote: the moments are badly chosen"
    assert begun > kills // 2


def go_on(folder: Path, keep: int | None, left: list[int]) -> None:
    """Resume the run after its last observation, and add one."""
    past = left[-1] if left else -1
    again = RunWriter(folder, keep)
    again.begin(info(), photos(), after=past)
    again.add(observation(step=past + 1))
    assert not parts(folder)
    assert open_run(folder).steps()[-1] == past + 1


@pytest.mark.parametrize("keep", [None, 5])
def test_a_run_that_is_killed_reads_whole_and_goes_on(keep, tmp_path):
    kill_often(25, keep, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("keep", [None, 5])
def test_two_hundred_kills(keep, tmp_path):
    kill_often(100, keep, tmp_path)
