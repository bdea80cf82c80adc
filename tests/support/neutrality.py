"""Try every kind of run and every fault, and write `docs/neutrality.md`.

python tests/support/neutrality.py          # takes about two minutes
python tests/support/neutrality.py --print  # only prints the page
"""

from __future__ import annotations

import logging
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
from faults import COLUMNS, FAULTS, LOGGED, cells
from matrix import ROWS, judge
from paths import DOCS

PAGE = DOCS / "neutrality.md"

HEAD = """# A run is left as it was

A run with the callback ends bit for bit as the same run without it. This page is written by
`python tests/support/neutrality.py`; the test suite runs the same comparisons.

## Kinds of run

The network has dropout, two batch norms, one of them frozen, and a buffer that changes in every
forward pass. Its data are augmented with random numbers from torch, numpy and Python. Each row
trains it three times: without the callback; with it; and with every observation failing half-way,
under `on_error="warn"`. **Same** means bitwise equal: weights, buffers, optimizers, schedulers,
metrics, logged scalars, the random streams with their positions, modes, gradients, `requires_grad`,
hooks and attributes. Each run is recorded and measured, and also checked if the row says so.

| kind of run | observations | observed | failing |
|---|---|---|---|
"""

FAULTS_HEAD = """
## Faults

Each fault strikes at the end of the first epoch, which is observed and then fails a check. It is
tried twice: under `on_error="raise"`, which ends the run, compared with a run without the callback
that ends at that moment; and under `on_error="warn"`, compared with a run without the callback. A
tick says that this part of the run is bitwise equal in both comparisons. *Logged before*: the
earlier pictures and the record are complete, and no half-written file is left. In addition, the
test suite takes the calls that an observation makes, and a check that fails and is confirmed, and
lets them fail one by one: the first and the last from each line of the code, and with
`make test-all` every single one.

"""

TAIL = """
## What this does not cover

- **`max_time`** includes the time of observations, so such a run may end earlier. Nothing else
  changes.
- **16-mixed** on a CPU is turned into bf16-mixed by Lightning. On a GPU the callback never touches
  the gradient scaler. `python benchmarks/gpu_check.py` tries precision × strategy × compile there.
- **Several processes.** With DDP and FSDP2 in two processes on a CPU, weights, optimizer, metrics
  and random streams are the same too (`tests/runs/test_distributed.py`). One process writes the
  record, and both reach the same verdict, even if their metrics differ. Before and after the passes
  of an observation, the ranks exchange whether they succeeded, so that an error on one is an error
  on all. *Inside* a pass of a sharded model this is impossible: each layer needs all ranks, so the
  others wait for the failed one until the process group times out. Therefore `on_error="warn"` is
  refused there.
- **Weights cost a copy.** A forward pass can write to weights without a trace (`weight.data.…`), so
  each observation copies all parameters and buffers and compares every bit at its end. For a
  ResNet-50 (25.6 million parameters) on one core of a CPU this takes 0.13 s, less than half as long
  as one forward pass of two images, and 102 MB while the observation lasts. On a GPU, copies of
  tensors over 1 MiB are kept in the memory of the host, 4 GB for a billion parameters in float32,
  and transferred twice; the GPU itself holds the copy of one tensor at a time. Parameters that are
  sharded, or shared between processes, are not copied: a `forward` must not write to those.
- **Lazy layers.** The first training step makes their weights, so an untrained model that has any
  is not observed; a warning says so. Later observations are as usual. The picture of an untrained
  model whose `forward` makes a parameter by itself, or scales weights to its first batch (ActNorm),
  shows other weights than those that training will make.
- **State that cannot be given back.** Restored is what modules and the user's own objects hold in
  attributes, slots, class attributes and closures of hooks, in nested containers, numpy arrays and
  random generators. *Not* restored are global variables, what methods close over, files and other
  processes; python generators and nested iterators (`zip`, `itertools.cycle`) that a forward pass
  advances; entries that it adds to the `functools.lru_cache` of a function that is no attribute;
  objects of classes from the standard library, such as threads and queues, and from installed
  packages that no module of the model comes from; what lies beyond the first 50,000 objects; and
  writes by another thread while an observation lasts, which may be undone. Looking through a
  ResNet-50 takes 0.02 s.
- **A logger that draws random numbers in a thread of its own** may do so at any time.
- **State that a dataset hides.** A loader with workers is read by a worker of the probe's own, so
  the dataset of the training process is not touched. Without workers, and in
  `ProbeBatch.from_dataset`, its attributes, containers, closures and random generators are set back
  afterwards, and files that it opened are closed; so are those of what it is a `Subset` of, of its
  transforms and of the `collate_fn`. Module globals, cached functions, memory shared by processes,
  arrays beyond 64 MiB, and what objects of other packages keep are not. If a generator object was
  read from, a warning says so. In such a case, pass `probe=ProbeBatch(images, labels)`.
- **Memory.** If an observation does not fit, the number of images per pass is halved until it does,
  with a warning. With a sharded strategy it is an error that says which `chunk_size` to set.
- A mistake in an argument is always an error before the first step, because nothing is lost yet.
  A probe that cannot be chosen is a warning unless `on_error="raise"` is passed, and with
  `on_error="warn"` so is a model that cannot be tried; the run is then not observed. Outside of
  training (`validate`, `test`) any failure is only a warning, because the metrics are what was
  asked for.
"""


def kinds_of_run() -> Iterator[str]:
    for name, row in ROWS.items():
        with tempfile.TemporaryDirectory() as folder:
            verdict = judge(row, Path(folder))
        observed, failing = (_word(found) for found in (verdict.observed, verdict.failing))
        yield f"| {name} | {verdict.times} | {observed} | {failing if row.seen else '–'} |"


def _word(different: list[str]) -> str:
    return "**differs**: " + ", ".join(different) if different else "same"


def faults() -> Iterator[str]:
    columns = (*COLUMNS, LOGGED)
    yield f"| fault | {' | '.join(columns)} |"
    yield "|---" * (1 + len(columns)) + "|"
    for name, fault in FAULTS.items():
        with tempfile.TemporaryDirectory() as folder:
            kept = cells(fault, Path(folder))
        yield f"| {name} | {' | '.join('✓' if kept[c] else '**no**' for c in columns)} |"


def page() -> Iterator[str]:
    yield HEAD
    for line in kinds_of_run():
        yield line + "\n"
    yield FAULTS_HEAD
    for line in faults():
        yield line + "\n"
    yield TAIL
    versions = f"torch {torch.__version__}, pytorch-lightning {pl.__version__}"
    yield f"\nWritten with {versions}, Python {platform.python_version()}, on a CPU.\n"


def main() -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    written = []
    for part in page():
        print(part, end="", flush=True)
        written.append(part)
    if "--print" not in sys.argv[1:]:
        PAGE.write_text("".join(written))


if __name__ == "__main__":
    main()
