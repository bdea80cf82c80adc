"""A thousand observations in one process leave nothing behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path

from matrix import Touchy, probe
from pytorch_lightning.loggers import TensorBoardLogger

from lightning_saliency.attribution import Plan
from lightning_saliency.gauge import Gauge
from lightning_saliency.logbook import Logbook
from lightning_saliency.loggers import PictureLog
from lightning_saliency.observer import Observer
from lightning_saliency.pictures import Artist
from lightning_saliency.ranks import Ranks
from lightning_saliency.recorder import Recorder


class OneProcess:
    """What `Ranks` asks of a trainer."""

    strategy, world_size, global_rank = None, 1, 0


def memory() -> float:
    """Megabytes that the process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_thousand_observations(tmp_path):
    images, logger, module = probe(), TensorBoardLogger(tmp_path), Touchy()
    observer = Observer(
        probe=images,
        targets=None,
        rule="guided_backprop",
        plan=Plan(lambda model, x: model(x)),
        tag="saliency",
        artist=Artist(images, style="signed", scale="map", size=24, rule="guided_backprop"),
        log=PictureLog([logger], tmp_path, "jpeg"),
        ranks=Ranks(OneProcess()),
        logbook=Logbook(),
        gauge=Gauge.for_probe(images, 24),
        recorder=Recorder(tmp_path / "saliency", keep=20),
    )
    module.log = lambda *args: None  # outside of a trainer
    for step in range(1000):
        observer.keep(*observer.observe(module, f"step {step}", step))
        if step == 50:
            gc.collect()
            begun = memory(), open_files()
    observer.draw_filmstrips()
    gc.collect()
    assert memory() - begun[0] < 20
    assert open_files() <= begun[1]
    assert all(not (m._forward_hooks or m._backward_hooks) for m in module.modules())
    assert len(observer.logbook.history.spread()) == 12
    logger.finalize("success")
