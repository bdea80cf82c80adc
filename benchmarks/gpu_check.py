"""The neutrality matrix on a GPU: precision × strategy × compile, and what an observation costs.

    python benchmarks/gpu_check.py            # needs a GPU; prints a table
    python benchmarks/gpu_check.py --rounds 3 # fewer rounds of the timing

A row trains the same seeded network twice without the callback and once with it. If the two without
it agree bitwise, the third must agree too.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import logging
import platform
import sys
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch, SaliencyCallback, explain

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true")
STRATEGIES = ("one device", "ddp", "fsdp", "fsdp2")
CLASSES = 10


class Net(pl.LightningModule):
    def __init__(self, compiled: bool, sharded: bool) -> None:
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=CLASSES)
        self.sharded = sharded
        if compiled:
            self.net.compile()

    def configure_model(self) -> None:
        if self.sharded:
            from torch.distributed.fsdp import fully_shard

            for layer in (self.net.layer1, self.net.layer2, self.net.layer3, self.net.layer4):
                fully_shard(layer, mesh=self.device_mesh["data_parallel"])
            fully_shard(self, mesh=self.device_mesh["data_parallel"])

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)

    def training_step(self, batch: list[Tensor], _: int) -> Tensor:
        return F.cross_entropy(self(batch[0]).float(), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class Digest(pl.Callback):
    """Hashes all weights when training ends."""

    value = ""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        digest = hashlib.sha256()
        for parameter in pl_module.parameters():
            whole = parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter
            digest.update(whole.detach().double().cpu().numpy().tobytes())
        self.value = digest.hexdigest()


def build_strategy(name: str) -> Any:
    if name == "ddp":
        return DDPStrategy()
    if name == "fsdp":
        return FSDPStrategy()
    if name == "fsdp2":
        return ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    return "auto"


def train(precision: str, strategy: str, compiled: bool, observed: bool) -> str:
    pl.seed_everything(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(96, 3, 64, 64, generator=generator)
    labels = torch.randint(CLASSES, (96,), generator=generator)
    probe = ProbeBatch(images[:4], labels[:4])
    digest = Digest()
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="gpu",
        devices=1,
        precision=precision,
        strategy=build_strategy(strategy),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[*([SaliencyCallback(probe)] if observed else []), digest],
    )
    loader = DataLoader(TensorDataset(images, labels), batch_size=16, shuffle=True)
    trainer.fit(Net(compiled, sharded=strategy == "fsdp2"), loader)
    return digest.value


def verdict(precision: str, strategy: str, compiled: bool) -> str:
    try:
        first, second = (train(precision, strategy, compiled, observed=False) for _ in range(2))
    except Exception as error:
        return f"cannot train here: {str(error).splitlines()[0][:60]}"
    try:
        third = train(precision, strategy, compiled, observed=True)
    except Exception as error:
        return f"FAILS: {str(error).splitlines()[0][:80]}"
    if first != second:
        return "works; not reproducible without the callback either"
    return "bitwise the same" if third == first else "DIFFERS"


def cost(rounds: int) -> None:
    """Time ``explain`` against the same passes without a rule, on the GPU."""
    model = torchvision.models.resnet18(num_classes=CLASSES).cuda().eval()
    images = torch.randn(8, 3, 224, 224, device="cuda")

    def bare() -> None:
        leaf = images.clone().requires_grad_()
        logits = model(leaf)
        for target in range(CLASSES):
            torch.autograd.grad(logits[:, target].sum(), leaf, retain_graph=True)

    def seconds(call: Any) -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    calls = {"bare": bare, "guided": lambda: explain(model, images)}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(3 + rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    bare_s, guided_s = (sorted(times[n][3:])[rounds // 2] for n in calls)
    print(f"\nResNet-18, 8×224², {CLASSES} classes: bare {1e3 * bare_s:.1f} ms, ", end="")
    print(f"explain {1e3 * guided_s:.1f} ms, {guided_s / bare_s:.2f}×")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds of the timing")
    rounds = parser.parse_args().rounds
    if not torch.cuda.is_available():
        sys.exit("No GPU here: this check has nothing to say.")
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.backends.cudnn.deterministic = True
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, ", end="")
    print(f"pytorch-lightning {pl.__version__}, Python {platform.python_version()}\n")
    print("| precision | strategy | compiled | with the callback |\n|---|---|---|---|")
    for precision, strategy, compiled in itertools.product(PRECISIONS, STRATEGIES, (False, True)):
        words = verdict(precision, strategy, compiled)
        print(f"| {precision} | {strategy} | {'yes' if compiled else 'no'} | {words} |", flush=True)
    cost(rounds)


if __name__ == "__main__":
    main()
