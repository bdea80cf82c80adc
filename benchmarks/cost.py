"""What an observation costs, part by part, compared with the same passes without any rule.

    python benchmarks/cost.py

The parts are timed while whole observations run: of ResNet-18, with a mask of a region, recorded
and logged to TensorBoard.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytorch_lightning as pl
import torch
import torchvision
from pytorch_lightning.loggers import TensorBoardLogger
from timing import Effort, Stopwatch, bare_passes, interleaved, ratio, table
from torch import nn

from lightning_saliency import ProbeBatch
from lightning_saliency.callback.build import build_observer, build_publisher
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.callback.options import Options
from lightning_saliency.callback.publisher import Publisher
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.observe import observer as observing
from lightning_saliency.observe.history import History
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.observe.reducers import MeasuredMaps, ShownMaps
from lightning_saliency.record.writer import RunWriter

PASSES = "the passes, with what takes their maps"
# These run within the passes.
REDUCERS = {
    "shrinking the maps to tiles": [(ShownMaps, "take")],
    "shares and profiles": [(MeasuredMaps, "begin"), (MeasuredMaps, "take")],
}
AFTERWARDS = {
    "snapshot, drift and other scalars": [
        (observing, "take_snapshot"),
        (Meter, "collect"),
        (Meter, "summarize"),
        (PictureLog, "add_scalars"),
        (History, "add"),
    ],
    "the record, synced to disk": [(RunWriter, "add")],
    "drawing the mosaics": [(MosaicRenderer, "mosaic")],
    "encoding them and handing them to TensorBoard": [(PictureLog, "add")],
}
PARTS = {PASSES: [(observing, "compute")], **REDUCERS, **AFTERWARDS}
REST = "the rest"
BESIDE = "everything beside the passes"


@dataclass
class Observed:
    """A model that can be observed again and again.

    Attributes:
        begun: The seconds that the beginning of its record took, once per run.
        parts: For each observation, the seconds of each part.
        busy: Likewise, but the processor's time in the thread that observes.
    """

    observer: Observer
    publisher: Publisher
    model: nn.Module
    history: History
    begun: float
    parts: list[dict[str, float]] = field(default_factory=list)
    busy: list[dict[str, float]] = field(default_factory=list)

    def observe(self) -> None:
        """Observe as a session does: explain, measure, record, draw, log and remember."""
        step = self.history.next_step(0)
        stopwatches = Stopwatch(), Stopwatch(time.thread_time)
        starts = [each.clock() for each in stopwatches]
        with stopwatches[0].watching(PARTS), stopwatches[1].watching(PARTS):
            profiles = {"first": self.history.first_profile, "previous": self.history.last_profile}
            observation = self.observer.observe(self.model, "", step, **profiles)
            self.publisher.publish(observation)
            scalars = self.publisher.scalars(observation.measures)
            self.history.add(observation, scalars, self.publisher.find_record(step))
        for kept, each, start in zip((self.parts, self.busy), stopwatches, starts, strict=True):
            kept.append(complete(each.seconds, each.clock() - start))

    def median(self, part: str, *, busy: bool = False) -> float:
        """The median seconds of a part, without the first observation, which warms up."""
        return statistics.median(parts[part] for parts in (self.busy if busy else self.parts)[1:])


def complete(parts: dict[str, float], whole: float) -> dict[str, float]:
    """Add the rest, the whole, and all that is not passes."""
    rest = whole - parts[PASSES] - sum(parts[name] for name in AFTERWARDS)
    beside = whole - parts[PASSES] + sum(parts[name] for name in REDUCERS)
    return parts | {REST: rest, "whole": whole, BESIDE: beside}


@contextmanager
def observed(images: int, classes: int, side: int) -> Iterator[Observed]:
    """ResNet-18 and a probe of the given size, in a run of its own."""
    torch.manual_seed(0)
    masks = {"left": torch.arange(side).expand(images, side, side) < side // 2}
    labels = torch.arange(images) % classes
    names = [f"class {index}" for index in range(classes)]
    photos = torch.rand(images, 3, side, side)
    probe = ProbeBatch(photos, labels, class_names=names, masks=masks)
    model = torchvision.models.resnet18(num_classes=classes).eval()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder, name="", version="")
        trainer = pl.Trainer(
            accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False
        )
        options = Options(targets="all")
        observer = build_observer(trainer, model, probe, options, Ranks())
        publisher = build_publisher(trainer, observer, options)
        start = time.perf_counter()
        publisher.begin(run_info("saliency", observer.meter, {}), after=-1)
        begun = time.perf_counter() - start
        yield Observed(observer, publisher, model, History(), begun)
        logger.finalize("success")  # before its folder is removed


def report(effort: Effort) -> str:
    """The parts of an observation of 8 images and 10 classes at 224²."""
    images, classes, side = (8, 10, 64 if effort.quick else 224)
    with observed(images, classes, side) as case:
        photos, _, _ = case.observer._inputs(case.model)
        # TensorBoard's thread goes on after an observation, and must not slow down the floor.
        logger = case.publisher.log._loggers[0]
        variants = {
            "floor": lambda: bare_passes(case.model, photos, classes, 1),
            "observation": case.observe,
            "TensorBoard": logger.experiment.flush,
        }
        seconds = interleaved(variants, effort.rounds)
        flushing, floor = (statistics.median(seconds[name]) for name in ("TensorBoard", "floor"))
        whole = ratio(seconds, "observation", "floor")
    parts = (*REDUCERS, *AFTERWARDS, REST)
    rows = [
        [
            "floor: a forward pass, a gradient per class, that of the label",
            as_time(floor),
            "",
        ],
        [PASSES, *as_times(case, PASSES)],
        *([f"{'of which: ' * (name in REDUCERS)}{name}", *as_times(case, name)] for name in parts),
        [f"**{BESIDE}** (aim: below 60 ms)", *as_times(case, BESIDE)],
        ["the whole observation, of the floor", f"{whole:.2f}×", ""],
        ["after it, in TensorBoard's own thread", as_time(flushing), ""],
        ["once per run: thumbnails and `run.json`", as_time(case.begun), ""],
    ]
    head = [f"ResNet-18, {images} × {classes} at {side}²", "median", "processor"]
    return table(head, rows)


def as_times(case: Observed, part: str) -> tuple[str, str]:
    return as_time(case.median(part)), as_time(case.median(part, busy=True))


def as_time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.1f} ms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="images of 64²")
    arguments = parser.parse_args()
    print(report(Effort(arguments.rounds, arguments.quick)))


if __name__ == "__main__":
    main()
