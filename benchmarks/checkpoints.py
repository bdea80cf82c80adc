"""What a callback adds to a checkpoint: the state of a run, and the images of its probe.

    python benchmarks/checkpoints.py

The observations are made up, and none is written to disk: their number and size are those of long
runs of large models, and what a checkpoint keeps of them depends on nothing else.
"""

from __future__ import annotations

import argparse
import io
import time
from dataclasses import replace
from pathlib import Path

import torch
from timing import Effort, table

from lightning_saliency import ProbeBatch
from lightning_saliency.draw.mosaics import FILMSTRIP_COLUMNS
from lightning_saliency.observe.history import History
from lightning_saliency.record.observation import Measured, Observation, Snapshot

SIDE, CELLS, OBSERVATIONS = 96, 8, 50
FRAMES = 2 * FILMSTRIP_COLUMNS  # the most that a run keeps which is not recorded
RUNS = {"8 × 10 × 96²": (8, 10), "8 × 1000 × 96²": (8, 1000)}
PROBES = {"8 × 224²": (8, 224, 224), "1 × 3000 × 4000": (1, 3000, 4000)}


def size_of(state: object) -> int:
    """The bytes that a checkpoint takes for ``state``."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.tell()


def make_observation(images: int, classes: int) -> Observation:
    """An observation of the size that a run of so many images and classes has."""
    shape = (images, classes)
    snapshot = Snapshot(
        step=0,
        caption="epoch 0",
        targets=torch.arange(classes).repeat(images, 1),
        probabilities=torch.rand(shape),
        predicted=torch.zeros(images, dtype=torch.int64),
        maps={"guided_backprop": torch.rand(*shape, SIDE, SIDE, dtype=torch.float16)},
        peaks={"guided_backprop": torch.rand(shape)},
    )
    measured = Measured(
        classes=torch.zeros(images, dtype=torch.int64),
        probabilities=torch.rand(images),
        maps=torch.rand(images, SIDE, SIDE).half(),
        views=torch.full((images, 2, CELLS, CELLS), 1 / CELLS**2, dtype=torch.float64),
    )
    return Observation(snapshot, 0, "f" * 64, measured)


def size_of_run(observation: Observation, observations: int, folder: Path | None) -> int:
    """The bytes of a run's history, recorded in ``folder`` or not at all."""
    history = History()
    for step in range(observations):
        snapshot = replace(observation.snapshot, step=step)
        history.add(replace(observation, snapshot=snapshot), {"saliency/drift.first": 0.1}, folder)
    return size_of(history.state())


def report(effort: Effort) -> str:
    """The sizes of a run's state, recorded and not, and of the images of a probe."""
    folder = Path("logs/version_0/saliency")
    rows = []
    for name, (images, classes) in RUNS.items():
        observation = make_observation(images, classes)
        recorded = size_of_run(observation, OBSERVATIONS, folder)
        unrecorded = max(size_of_run(observation, count, None) for count in (2, FRAMES))
        rows.append([name, as_size(recorded), as_size(unrecorded)])
    head = [f"{OBSERVATIONS} observations", "recorded", "`record=False`, at most"]
    return table(head, rows) + "\n" + table(*tabulate_probes(effort))


def tabulate_probes(effort: Effort) -> tuple[list[str], list[list[str]]]:
    rows = []
    for name, (count, height, width) in list(PROBES.items())[: 1 if effort.quick else None]:
        photos = torch.randint(256, (count, 3, height, width)).float() / 255
        probe = ProbeBatch((photos - 0.45) / 0.225, torch.zeros(count, dtype=torch.int64))
        start = time.perf_counter()
        state = probe.compact_state()
        seconds = time.perf_counter() - start
        sizes = (as_size(size_of(each)) for each in (probe.state(), state))
        rows.append([name, *sizes, f"{seconds:.2f} s"])
    return ["normalised photos", "as float32", "in the checkpoint", "encoded once in"], rows


def as_size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(report(Effort()))


if __name__ == "__main__":
    main()
