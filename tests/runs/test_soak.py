"""A thousand observations in one process leave nothing behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from matrix import Touchy, probe
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_saliency.attribution.passes import PassOptions
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


def test_a_thousand_observations(tmp_path):
    images, logger, module = probe(), TensorBoardLogger(tmp_path), Touchy()
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
        log=PictureLog([logger], tmp_path, "jpeg"),
        writer=RunWriter(tmp_path / "saliency", keep=20),
        recorded_at=tmp_path / "saliency",
    )
    history = History()
    module.log = lambda *args: None  # there is no trainer to log to
    for step in range(1000):
        observation = observer.observe(module, f"step {step}", step)
        history.add(observation, publisher.scalars(observation.measures))
        publisher.publish(observation)
        if step == 50:
            gc.collect()
            begun = memory(), open_files()
    publisher.publish_filmstrips(history.frames)
    gc.collect()
    assert memory() - begun[0] < 20
    assert open_files() <= begun[1]
    assert all(not (m._forward_hooks or m._backward_hooks) for m in module.modules())
    assert len(history.frames.spread()) == 12
    logger.finalize("success")
