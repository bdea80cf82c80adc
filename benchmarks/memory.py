"""How much memory an observation needs in addition to its passes, as the system counts it.

    python benchmarks/memory.py

Each figure is the peak of the resident memory of a process of its own, above what it held before:
once with the passes alone, which discard each attribution, and once with the observation. The bound
is that of ``lightning_saliency/observe/reducers.py``. Attributions in full are what an observation
would hold if it kept them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import torch
from timing import Effort, table
from torch import nn

from lightning_saliency import ProbeBatch
from lightning_saliency.attribution.logits import call_plainly
from lightning_saliency.attribution.passes import PassOptions, compute
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from allocations import Nothing, stated_bound

# Images, classes, pixels per side and images in a chunk.
CASES = [(64, 10, 224, 8), (64, 10, 224, 64), (64, 10, 112, 8), (8, 1000, 96, 8)]
SIZE = 96  # pixels per side of a map


def build(count: int, classes: int, side: int, chunk: int) -> tuple[Observer, nn.Module]:
    torch.manual_seed(0)
    probe = ProbeBatch(
        torch.rand(count, 3, side, side),
        torch.arange(count) % classes,
        class_names=[str(index) for index in range(classes)],
    )
    layers = (nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU())
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, classes))
    options, meter = PassOptions(call_plainly, chunk), Meter.for_probe(probe, SIZE)
    return Observer(probe, None, ("guided_backprop",), SIZE, options, meter), model


def resident(name: str) -> int:
    """The bytes of resident memory now (``VmRSS``) or at most so far (``VmHWM``)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


def peak_here(kind: str, case: tuple[int, int, int, int]) -> int:
    """The peak of this process above what it holds before the work."""
    first, model = build(2, 2, 32, 2)
    first.observe(model, "", 0)  # Libraries that are loaded on first use do not count.
    observer, model = build(*case)
    Path("/proc/self/clear_refs").write_text("5")  # The peak so far, of making the probe, is reset.
    before = resident("VmRSS")
    if kind == "observation":
        observer.observe(model, "", 0)
    else:
        images, extras, requests = observer._inputs(model)
        discard = [(Nothing(),)] * len(requests)
        compute(observer.options, model, images, requests, extras, discard)
    return resident("VmHWM") - before


def peak(kind: str, case: tuple[int, int, int, int]) -> int:
    """The same of a fresh process, which returns freed memory to the system at once."""
    command = [sys.executable, __file__, "--kind", kind, "--case", *map(str, case)]
    found = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=found, capture_output=True, text=True, check=True)
    return int(done.stdout)


def report(effort: Effort) -> str:
    """The peaks of each case, next to the bound."""
    rows = []
    for case in CASES[-1:] if effort.quick else CASES:
        count, classes, side, chunk = case
        passes, observation = peak("passes", case), peak("observation", case)
        bound = stated_bound(build(*case)[0])
        sizes = (passes, observation, observation - passes, bound, 12 * count * classes * side**2)
        cells = (f"{size / 1e6:.0f} MB" for size in sizes)
        rows.append([f"{count} × {classes} at {side}²", chunk, *cells])
    head = ["images × classes", "chunk", "passes", "observation", "above", "bound", "in full"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", choices=["passes", "observation"], help=argparse.SUPPRESS)
    parser.add_argument("--case", nargs=4, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.kind:
        print(peak_here(options.kind, tuple(options.case)))
    else:
        print(report(Effort()))


if __name__ == "__main__":
    main()
