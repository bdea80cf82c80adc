"""How the time of an observation grows: with images, classes, pixels and processes.

    python benchmarks/growth.py

One of them changes at a time. The exponent is the slope of a straight line through the medians, by
least squares with both axes logarithmic: 1 for what grows in proportion, −1 for what is divided.
Processes are real ones, which divide the images and exchange the results by gloo.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
import torchvision
from cost import BESIDE as PART_BESIDE
from cost import observed
from epoch import Classifier
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy
from timing import Effort, Stopwatch, table
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch, SaliencyCallback

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "growth.png"
IMAGES, CLASSES, SIDE = 8, 10, 64
WHOLE, BESIDE = "whole observation", "all but its passes"


@dataclass
class Growth:
    """The times of observations in which one thing changes.

    Attributes:
        name: What changes.
        sizes: Its values.
        seconds: For each line, the median seconds at each value.
    """

    name: str
    sizes: Sequence[int]
    seconds: dict[str, list[float]]

    def exponent(self, line: str) -> float:
        return fit_line(self.sizes, self.seconds[line])[0]


def fit_line(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """The exponent and the factor of the power law closest to the logarithms of the times."""
    slope, height = np.polyfit(np.log(sizes), np.log(seconds), 1)
    return float(slope), math.exp(height)


def observe_at(images: int, classes: int, side: int, rounds: int) -> dict[str, float]:
    with observed(images, classes, side) as case:
        for _ in range(rounds + 1):
            case.observe()
            case.publisher.log._loggers[0].experiment.flush()
        return {WHOLE: case.median("whole"), BESIDE: case.median(PART_BESIDE)}


def measure(effort: Effort) -> list[Growth]:
    """The growths with images, classes and pixels, in this process, then with processes."""
    quick = effort.quick
    rounds = 1 if quick else effort.rounds
    images = (2, 4, 8) if quick else (2, 4, 8, 16, 32)
    classes = (2, 5, 10) if quick else (2, 5, 10, 20, 50)
    sides = (32, 64) if quick else (64, 96, 128, 192, 256)
    cases = {
        "images": [(n, (n, CLASSES, SIDE)) for n in images],
        "classes": [(k, (IMAGES, k, SIDE)) for k in classes],
        "pixels": [(side**2, (IMAGES, CLASSES, side)) for side in sides],
    }
    growths = []
    for name, points in cases.items():
        found = [observe_at(*sizes, rounds) for _, sizes in points]
        lines = {line: [each[line] for each in found] for line in (WHOLE, BESIDE)}
        growths.append(Growth(name, [x for x, _ in points], lines))
    worlds = (1, 2)
    growths.append(Growth("processes", worlds, {WHOLE: [in_processes(w, quick) for w in worlds]}))
    return growths


# --- several processes


def in_processes(world: int, quick: bool) -> float:
    """The median seconds of an observation in a training of ``world`` processes."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--world", str(world), "--folder", folder, *(["--quick"] if quick else [])]
        found = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", __file__, *options]
        subprocess.run(command, env=found, check=True, capture_output=True)
        return float(json.loads(Path(folder, "seconds.json").read_text()))


def train(world: int, folder: Path, quick: bool) -> None:
    """Train a batch per epoch and observe each epoch; rank 0 writes down how long that took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, side = (4, 32) if quick else (16, SIDE)
    data = TensorDataset(torch.rand(images, 3, side, side), torch.arange(images) % CLASSES)
    loader = DataLoader(data, batch_size=2)
    labels = torch.arange(images) % CLASSES
    callback = SaliencyCallback(ProbeBatch(data.tensors[0], labels), at_start=False)
    stopwatch = Stopwatch()
    seconds: list[float] = []

    class Turn(pl.Callback):
        def on_train_epoch_start(self, *_: object) -> None:
            seconds.append(stopwatch.seconds.get("observation", 0.0))

    strategy = DDPStrategy(process_group_backend="gloo") if world > 1 else "auto"
    trainer = pl.Trainer(
        max_epochs=3 if quick else 8,
        limit_train_batches=1,
        accelerator="cpu",
        devices=world,
        strategy=strategy,
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Turn(), callback],
    )
    module = Classifier(torchvision.models.resnet18(num_classes=CLASSES))
    with stopwatch.watching({"observation": [(callback, "on_train_epoch_end")]}):
        trainer.fit(module, loader)
    if trainer.global_rank == 0:
        taken = [after - before for before, after in itertools.pairwise(seconds)]
        (folder / "seconds.json").write_text(json.dumps(statistics.median(taken[1:])))


# --- the picture

INK, FAINT = "#202124", "#70757a"
COLOURS = {WHOLE: "#1f5fa8", BESIDE: "#d9730d"}
TITLES = {
    "images": f"images ({CLASSES} classes, {SIDE}²)",
    "classes": f"classes ({IMAGES} images, {SIDE}²)",
    "pixels": f"pixels ({IMAGES} images, {CLASSES} classes)",
    "processes": f"processes (16 images, {SIDE}²)",
}


def draw(growths: Sequence[Growth], path: Path) -> None:
    """One panel per growth, both axes logarithmic, all with the same scale of time."""
    figure = Figure(figsize=(11, 3.4), dpi=160, layout="constrained")
    axes = figure.subplots(1, len(growths), sharey=True)
    for axis, growth in zip(axes, growths, strict=True):
        draw_panel(axis, growth)
    axes[0].set_ylabel("seconds per observation", color=INK)
    axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    handles = [axes[0].get_lines()[0], axes[0].get_lines()[2]]
    figure.legend(
        handles, [WHOLE, BESIDE], loc="outside upper center", ncols=2, frameon=False, labelcolor=INK
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_panel(axis: Axes, growth: Growth) -> None:
    axis.set_xscale("log")
    axis.set_yscale("log")
    for line, seconds in growth.seconds.items():
        exponent, factor = fit_line(growth.sizes, seconds)
        colour, sizes = COLOURS[line], np.array(growth.sizes, dtype=float)
        axis.plot(sizes, seconds, "o", color=colour, markersize=5, zorder=3)
        axis.plot(sizes, factor * sizes**exponent, color=colour, linewidth=1.4, alpha=0.7)
        middle = math.sqrt(sizes[0] * sizes[-1])
        axis.annotate(
            f"{growth.name}$^{{\\,{exponent:.2f}}}$".replace("-", "{-}"),
            (middle, factor * middle**exponent),
            xytext=(0, 9),
            textcoords="offset points",
            ha="right" if exponent > 0 else "left",
            color=colour,
        )
    axis.set_xlabel(TITLES[growth.name], color=INK)
    axis.set_xticks(growth.sizes, [name_size(growth.name, size) for size in growth.sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.margins(x=0.12, y=0.12)
    axis.grid(axis="y", color="#e8eaed", linewidth=0.8)
    axis.tick_params(colors=FAINT, which="both", length=0, labelsize=9)
    for side, spine in axis.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color("#dadce0")


def name_size(name: str, size: int) -> str:
    return f"{math.isqrt(size)}²" if name == "pixels" else str(size)


def report(effort: Effort, picture: Path = PICTURE) -> str:
    """The exponents, with the smallest and the largest case; the picture is drawn on the way."""
    growths = measure(effort)
    draw(growths, picture)
    rows = []
    for growth in growths:
        ends = [name_size(growth.name, growth.sizes[end]) for end in (0, -1)]
        cells = [growth.name, " → ".join(ends)]
        for line in (WHOLE, BESIDE):
            seconds = growth.seconds.get(line)
            if seconds is None:
                cells += ["", ""]
                continue
            cells += [f"{seconds[0]:.2f} → {seconds[-1]:.2f} s", f"{growth.exponent(line):.2f}"]
        rows.append(cells)
    return table(["", "from → to", WHOLE, "exponent", BESIDE, "exponent"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--quick", action="store_true", help="fewer and smaller cases")
    parser.add_argument("--world", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.world:
        train(arguments.world, arguments.folder, arguments.quick)
    else:
        print(report(Effort(quick=arguments.quick), arguments.picture))


if __name__ == "__main__":
    main()
