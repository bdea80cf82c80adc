"""What an observation costs, against the same passes without any rule.

    python benchmarks/cost.py

One process, the variants interleaved, medians of times and of ratios of neighbours: timings of a
busy machine drift, those ratios do not.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytorch_lightning as pl
import torch
import torchvision
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.attribution.passes import compute
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.callback.options import Options
from lightning_saliency.callback.publisher import begin_record
from lightning_saliency.callback.session import build_observer
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.observe.history import History_
from lightning_saliency.record.observation import Snapshot

MODELS = {"resnet18": (8, 64, 10), "mobilenet_v2": (8, 64, 5), "densenet121": (4, 64, 5)}


def bare_passes(model: nn.Module, images: Tensor, classes: int, more: int = 0) -> None:
    """The arithmetic floor: one forward pass and one input gradient a class, and some ``more``."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    for target in (*range(classes), *range(more)):
        torch.autograd.grad(logits[:, target].sum(), leaf, retain_graph=True)


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call of each variant, all of them once a round."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    for _ in range(rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(found: dict[str, list[float]], name: str, floor: str) -> float:
    return statistics.median(a / b for a, b in zip(found[name], found[floor], strict=True))


def cost_of_rules(name: str, rounds: int) -> None:
    count, size, classes = MODELS[name]
    model = torchvision.models.get_model(name, num_classes=classes).eval()
    images = torch.randn(count, 3, size, size)
    found = interleaved(
        {
            "bare": lambda: bare_passes(model, images, classes),
            "gradient": lambda: explain(model, images, rules=("gradient",)),
            "guided_backprop": lambda: explain(model, images),
        },
        rounds,
    )
    bare = statistics.median(found["bare"])
    ratios = "  ".join(f"{rule} {ratio(found, rule, 'bare'):.2f}×" for rule in list(found)[1:])
    print(f"{name:14} {count}×{size}², {classes} classes: bare {bare:.3f} s  {ratios}")


def cost_of_observing(folder: Path, rounds: int) -> None:
    """Everything that an observation does, beside its own passes."""
    count, size, classes = MODELS["resnet18"]
    masks = {"left": torch.arange(size).expand(count, size, size) < size // 2}
    probe = ProbeBatch(torch.rand(count, 3, size, size), torch.arange(count), masks=masks)
    model = torchvision.models.resnet18(num_classes=classes).eval()
    logger = TensorBoardLogger(folder, name="", version="")
    trainer = pl.Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False)
    observer = build_observer(trainer, model, probe, Options(), History_())
    start = time.perf_counter()
    begin_record(observer, "saliency", {}, after=-1)
    begun = time.perf_counter() - start
    steps = itertools.count()
    seen = observer.observe(model, "", next(steps))
    label = explain(model, probe.images, probe.labels, rules=("gradient",))
    images, requests = observer._asked()
    found = interleaved(
        {
            "the same passes without a rule": lambda: bare_passes(model, images, classes, 1),
            "explain": lambda: compute(observer.plan, model, images, requests),
            "measure": lambda: observer.gauge.read(label, lambda rows: rows),
            "record": lambda: observer.recorder.add(replace(seen, step=next(steps))),
            "observe": lambda: observer.observe(model, "", next(steps)),
            "TensorBoard's thread, after it": logger.experiment.flush,
        },
        rounds,
    )
    floor = next(iter(found))
    for name in (floor, "measure", "record", "TensorBoard's thread, after it"):
        print(f"{name:31} {1e3 * statistics.median(found[name]):.1f} ms")
    print(f"begin a record, once a run      {1e3 * begun:.1f} ms")
    for name in ("explain", "observe"):
        print(f"{name:31} {ratio(found, name, floor):.2f}× the passes")
    logger.finalize("success")


def cost_of_pictures(rounds: int) -> None:
    probe = ProbeBatch(torch.rand(1, 3, 224, 224), torch.tensor([3]))
    model = torchvision.models.squeezenet1_1(num_classes=10)
    explanation = explain(model, probe.images)
    artist = MosaicRenderer(probe, style="signed", scale="map", size=96, rule="guided_backprop")
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        log = PictureLog([logger], None, "jpeg")
        snapshot = Snapshot.of(explanation, "guided_backprop", step=0, caption="epoch 0", size=96)
        picture = artist.mosaic(snapshot, 0)
        found = interleaved(
            {
                "shrink to tiles": lambda: Snapshot.of(
                    explanation, "guided_backprop", step=0, caption="", size=96
                ),
                "draw a mosaic": lambda: artist.mosaic(snapshot, 0),
                "encode and write it": lambda: log.add("saliency/image", picture, 0),
            },
            rounds,
        )
        logger.finalize("success")  # before its folder goes
    for name, seconds in found.items():
        print(f"{name:20} {1e3 * statistics.median(seconds):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    for name in MODELS:
        cost_of_rules(name, rounds)
    cost_of_pictures(rounds)
    with tempfile.TemporaryDirectory() as folder:
        cost_of_observing(Path(folder), rounds)


if __name__ == "__main__":
    main()
