"""How large the file of `lightning-saliency report` gets, what it leaves out, how long it takes.

    python benchmarks/viewer_report.py [--observations N] [--budget SIZE]

The maps are made up: smooth noise of a run and fresh noise of each observation, which compress
about as badly as those of gradients.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_saliency.cli.sizes import describe_size, parse_size
from lightning_saliency.functional.measures import CELLS
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import Measured, Observation, Snapshot
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.viewer.report import build_report, open_records

# Images, classes, and pixels per side of a map.
SIZES = ((10, 10, 28), (8, 10, 96), (8, 10, 224), (64, 10, 96), (8, 1000, 28))
FINGERPRINT = "0" * 64


def observe(step: int, base: Tensor, generator: torch.Generator) -> Observation:
    """Make up an observation."""
    images, classes = base.shape[:2]
    maps = base + 0.2 * torch.randn(base.shape, generator=generator)
    maps = (maps / maps.abs().amax(dim=(-2, -1), keepdim=True)).half()
    probabilities = torch.rand(images, classes, generator=generator).softmax(dim=1)
    snapshot = Snapshot(
        step=step,
        caption=f"epoch {step}",
        targets=torch.arange(classes).expand(images, classes).contiguous(),
        probabilities=probabilities,
        predicted=None,
        maps={"guided_backprop": maps},
        peaks={"guided_backprop": torch.ones(images, classes)},
    )
    measured = Measured(
        classes=torch.arange(images) % classes,
        probabilities=probabilities[:, 0].contiguous(),
        maps=maps[:, 0].abs(),
        views=torch.full((images, 1, CELLS, CELLS), 1 / CELLS**2, dtype=torch.float64),
    )
    return Observation(snapshot, step, FINGERPRINT, measured)


def record(folder: Path, images: int, classes: int, side: int, observations: int) -> None:
    """Make up a recorded run."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(images, classes, side, side, generator=generator)
    base = F.avg_pool2d(noise, 3, stride=1, padding=1) + 0.3 * noise
    photos = torch.randint(256, (images, side, side, 3), dtype=torch.uint8, generator=generator)
    names = tuple(f"image {image}" for image in range(images))
    labels = tuple((image % classes,) for image in range(images))
    writer = RunWriter(folder / "saliency")
    writer.begin(RunInfo("saliency", FINGERPRINT, names, labels), photos, after=-1)
    for step in range(observations):
        writer.add(observe(step, base, generator))
    writer.end({}, finished=True)


def main(arguments: list[str] | None = None) -> None:
    """Print a line for each size of a probe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=50)
    parser.add_argument("--budget", default="10MB")
    parser.add_argument("--sizes", default=",".join("x".join(map(str, size)) for size in SIZES))
    options = parser.parse_args(arguments)
    budget = parse_size("--budget", options.budget)
    for size in options.sizes.split(","):
        images, classes, side = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            record(Path(folder, "run"), images, classes, side, options.observations)
            begun = time.perf_counter()
            report = build_report(open_records([Path(folder, "run")]), budget=budget)
            seconds = time.perf_counter() - begun
        length = describe_size(len(report.html.encode()))
        print(f"{images} images × {classes} classes at {side}²: {length} in {seconds:.1f} s")
        for sentence in report.cut[0]:
            print(f"  {sentence}")


if __name__ == "__main__":
    main()
