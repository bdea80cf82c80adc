"""What an observation costs, compared with the same passes without any rule.

    python benchmarks/cost.py

All variants run in one process and are interleaved. Times are medians, and ratios are medians of
the ratios of neighbours: the timings of a busy machine drift, those ratios do not.
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
from lightning_saliency.attribution.passes import Chunk, compute
from lightning_saliency.callback.build import build_observer, build_publisher
from lightning_saliency.callback.loggers import PictureLog
from lightning_saliency.callback.options import Options
from lightning_saliency.callback.publisher import Publisher
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.observe.history import History
from lightning_saliency.observe.meter import take_snapshot
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.provenance import run_info
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.observe.reducers import ShownMaps
from lightning_saliency.record.observation import Observation, Snapshot

MODELS = {"resnet18": (8, 64, 10), "mobilenet_v2": (8, 64, 5), "densenet121": (4, 64, 5)}


def bare_passes(model: nn.Module, images: Tensor, classes: int, more: int = 0) -> None:
    """The arithmetic floor: one forward pass, one input gradient per class, and some ``more``."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    for target in (*range(classes), *range(more)):
        torch.autograd.grad(logits[:, target].sum(), leaf, retain_graph=True)


def interleaved(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """The seconds that each call of each variant took; every round calls each variant once."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    for _ in range(rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], name: str, floor: str) -> float:
    return statistics.median(a / b for a, b in zip(seconds[name], seconds[floor], strict=True))


def cost_of_rules(name: str, rounds: int) -> None:
    count, size, classes = MODELS[name]
    model = torchvision.models.get_model(name, num_classes=classes).eval()
    images = torch.randn(count, 3, size, size)
    seconds = interleaved(
        {
            "bare": lambda: bare_passes(model, images, classes),
            "gradient": lambda: explain(model, images, rules=("gradient",)),
            "guided_backprop": lambda: explain(model, images),
        },
        rounds,
    )
    bare = statistics.median(seconds["bare"])
    ratios = "  ".join(f"{rule} {ratio(seconds, rule, 'bare'):.2f}×" for rule in list(seconds)[1:])
    print(f"{name:14} {count}×{size}², {classes} classes: bare {bare:.3f} s  {ratios}")


def observe(
    observer: Observer, publisher: Publisher, history: History, model: nn.Module
) -> Observation:
    """Observe a model as a session does: explain, measure, remember, record, draw and log."""
    step = history.next_step(0)
    profiles = {"first": history.first_profile, "previous": history.last_profile}
    observation = observer.observe(model, "", step, **profiles)
    publisher.publish(observation)
    scalars = publisher.scalars(observation.measures)
    history.add(observation, scalars, publisher.find_record(step))
    return observation


def with_step(observation: Observation, step: int) -> Observation:
    return replace(observation, snapshot=replace(observation.snapshot, step=step))


def cost_of_observing(folder: Path, rounds: int) -> None:
    """Everything that an observation does in addition to its own passes."""
    count, size, classes = MODELS["resnet18"]
    masks = {"left": torch.arange(size).expand(count, size, size) < size // 2}
    probe = ProbeBatch(torch.rand(count, 3, size, size), torch.arange(count), masks=masks)
    model = torchvision.models.resnet18(num_classes=classes).eval()
    logger = TensorBoardLogger(folder, name="", version="")
    trainer = pl.Trainer(accelerator="cpu", logger=logger, enable_checkpointing=False)
    options, history = Options(), History()
    observer = build_observer(trainer, model, probe, options, Ranks())
    publisher = build_publisher(trainer, observer, options)
    start = time.perf_counter()
    publisher.begin(run_info("saliency", observer.meter, {}), after=-1)
    begun = time.perf_counter() - start
    seen = observe(observer, publisher, history, model)
    label = explain(model, probe.images, probe.labels, rules=("gradient",))
    images, _, requests = observer._inputs(model)
    steps = itertools.count(10**6)  # the record's own steps are below these
    seconds = interleaved(
        {
            "the same passes without a rule": lambda: bare_passes(model, images, classes, 1),
            "explain": lambda: compute(observer.options, model, images, requests),
            "measure": lambda: observer.meter.measure(label),
            "record": lambda: publisher.writer.add(with_step(seen, next(steps))),
            "observe": lambda: observe(observer, publisher, history, model),
            "TensorBoard's thread, after it": logger.experiment.flush,
        },
        rounds,
    )
    floor = next(iter(seconds))
    for name in (floor, "measure", "record", "TensorBoard's thread, after it"):
        print(f"{name:31} {1e3 * statistics.median(seconds[name]):.1f} ms")
    print(f"begin a record, once per run    {1e3 * begun:.1f} ms")
    for name in ("explain", "observe"):
        print(f"{name:31} {ratio(seconds, name, floor):.2f}× the passes")
    logger.finalize("success")


def cost_of_pictures(rounds: int) -> None:
    """One picture of eleven tiles of a small network."""
    probe = ProbeBatch(torch.rand(1, 3, 224, 224), torch.tensor([3]))
    model = torchvision.models.squeezenet1_1(num_classes=10)
    explanation = explain(model, probe.images)
    renderer = MosaicRenderer(probe, style="signed", scale="map", size=96)

    def shrink() -> Snapshot:
        shown = ShownMaps(96)
        shown.begin(Chunk(slice(0, 1), 1, explanation.targets, explanation.logits))
        for column, attribution in enumerate(explanation["guided_backprop"].unbind(dim=1)):
            shown.take("guided_backprop", column, attribution)
        return take_snapshot(explanation, shown, step=0, caption="epoch 0")

    snapshot = shrink()
    picture = renderer.mosaic(snapshot, 0)
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        log = PictureLog([logger], None, "jpeg")
        seconds = interleaved(
            {
                "shrink to tiles": shrink,
                "draw a mosaic": lambda: renderer.mosaic(snapshot, 0),
                "encode and write it": lambda: log.add("saliency/image", picture, 0),
            },
            rounds,
        )
        logger.finalize("success")  # before its folder is removed
    for name, times in seconds.items():
        print(f"{name:20} {1e3 * statistics.median(times):.1f} ms")


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
