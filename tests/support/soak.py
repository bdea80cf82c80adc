"""A thousand observations in one process, and what they leave behind."""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from pathlib import Path

import records
from matrix import Touchy, probe
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.callback.filmstrips import read_strips
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.callback.publisher import Publisher
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.observe.history import History
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer
from lightning_saliency.record.writer import RunWriter


def memory() -> float:
    """The resident memory of the process in megabytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@dataclass(frozen=True)
class Leftovers:
    """What is there after the last observation that was not after the fiftieth.

    Attributes:
        megabytes: Of resident memory.
        files: Open files.
        hooks: On the network.
        frames: Of the film strip, which shows some of all observations.
    """

    megabytes: float
    files: int
    hooks: int
    frames: int


def observe_for_long(folder: Path) -> Leftovers:
    """Observe a thousand times, and record and log it, in this process."""
    images, logger, module = probe(), TensorBoardLogger(folder), Touchy()
    observer = Observer(
        probe=images,
        targets=None,
        rules=("guided_backprop",),
        size=24,
        options=PassOptions(lambda model, x: model(x)),
        meter=Meter.for_probe(images, 24),
    )
    publisher = Publisher(
        tag="saliency",
        probe=images,
        renderer=MosaicRenderer(images, style="signed", scale="map", size=24),
        ranks=observer.ranks,
        log=PictureLog([logger], folder, "jpeg"),
        writer=RunWriter(folder / "saliency", keep=20),
        recorded_at=folder / "saliency",
    )
    names = tuple(f"image {i}" for i in range(len(images)))
    areas = {name: float(mask.float().mean()) for name, mask in images.masks.items()}
    facts = {"images": names, "labels": None, "class_names": None, "areas": areas}
    publisher.begin(records.info(fingerprint=images.fingerprint, **facts), after=None)
    history = History()
    module.log = lambda *args: None  # there is no trainer to log to
    for step in range(1000):
        observation = observer.observe(module, f"step {step}", step)
        publisher.publish(observation)
        recorded_at = publisher.find_record(observation.step)
        history.add(observation, publisher.scalars(observation.measures), recorded_at)
        if step == 50:
            gc.collect()
            begun = memory(), open_files()
    publisher.publish_filmstrips(history)
    gc.collect()
    logger.finalize("success")
    return Leftovers(
        megabytes=memory() - begun[0],
        files=open_files() - begun[1],
        hooks=sum(len(m._forward_hooks) + len(m._backward_hooks) for m in module.modules()),
        frames=len(next(read_strips(history, 1))[1]),
    )
