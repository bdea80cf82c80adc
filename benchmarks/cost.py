"""What an observation costs, against the same passes without any rule.

    python benchmarks/cost.py

One process, the variants interleaved, medians and ratios of medians: timings of a busy machine
drift, ratios of neighbours do not.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
import torchvision
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.loggers import PictureLog
from lightning_saliency.pictures import Artist
from lightning_saliency.snapshot import Snapshot

MODELS = {"resnet18": (8, 64, 10), "mobilenet_v2": (8, 64, 5), "densenet121": (4, 64, 5)}


def bare_passes(model: nn.Module, images: Tensor, classes: int) -> None:
    """The arithmetic floor: one forward pass and one input gradient a class."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    for target in range(classes):
        last = target == classes - 1
        torch.autograd.grad(logits[:, target].sum(), leaf, retain_graph=not last)


def medians(variants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for call in variants.values():
        call()
    for _ in range(rounds):
        for name, call in variants.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def cost_of_rules(name: str, rounds: int) -> None:
    count, size, classes = MODELS[name]
    model = torchvision.models.get_model(name, num_classes=classes).eval()
    images = torch.randn(count, 3, size, size)
    found = medians(
        {
            "bare": lambda: bare_passes(model, images, classes),
            "gradient": lambda: explain(model, images, rules=("gradient",)),
            "guided_backprop": lambda: explain(model, images),
        },
        rounds,
    )
    ratios = "  ".join(f"{rule} {found[rule] / found['bare']:.2f}×" for rule in list(found)[1:])
    print(f"{name:14} {count}×{size}², {classes} classes: bare {found['bare']:.3f} s  {ratios}")


def cost_of_pictures(rounds: int) -> None:
    probe = ProbeBatch(torch.rand(1, 3, 224, 224), torch.tensor([3]))
    model = torchvision.models.squeezenet1_1(num_classes=10)
    explanation = explain(model, probe.images)
    artist = Artist(probe, style="signed", scale="map", size=96, rule="guided_backprop")
    with tempfile.TemporaryDirectory() as folder:
        logger = TensorBoardLogger(folder)
        log = PictureLog([logger], None, "jpeg")
        snapshot = Snapshot.of(explanation, "guided_backprop", step=0, caption="epoch 0", size=96)
        picture = artist.mosaic(snapshot, 0)
        found = medians(
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
        print(f"{name:20} {1e3 * seconds:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {rounds} rounds")
    for name in MODELS:
        cost_of_rules(name, rounds)
    cost_of_pictures(rounds)


if __name__ == "__main__":
    main()
