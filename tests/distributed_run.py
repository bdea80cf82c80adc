"""One training of two real processes: `python distributed_run.py STRATEGY FOLDER HOW`.

HOW is "alone", "observed", or what is to be done, "raise" or "warn", when rank 1 alone fails.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from matrix import Shapes, Touchy
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError

# Probes that divide by two, that do not, and that are smaller than the world.
COUNTS = {"even": 4, "odd": 3, "one": 1}


class Sharded(Touchy):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for part in (self.conv1, self.conv2, self.head):
            fully_shard(part, mesh=mesh)
        fully_shard(self, mesh=mesh)


class Kept(pl.Callback):
    """Writes down, on rank 0, how the training ended and what was seen of it."""

    def __init__(self, folder: Path, watchers: list[SaliencyCallback]) -> None:
        self.folder, self.watchers = folder, watchers

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        whole = {k: _whole(v) for k, v in pl_module.state_dict().items()}
        moments = [_whole(v["exp_avg"]) for v in trainer.optimizers[0].state.values()]
        seen = {w.name: [s.state() for s in w._logbook.history.spread()] for w in self.watchers}
        exact = {w.name: [s.maps for s in w._logbook.history.spread()] for w in self.watchers}
        if trainer.is_global_zero:
            kept = {"weights": whole, "moments": moments, "seen": seen, "maps": exact}
            theirs = [k for k in trainer.callback_metrics if k.split("/")[0] not in COUNTS]
            kept["metrics"] = {k: float(trainer.callback_metrics[k]) for k in theirs}
            kept["rng"] = torch.get_rng_state()
            torch.save(kept, self.folder / "kept.pt")


class Told(SaliencyCallback):
    """Writes down what each rank raises, which then waits for the other to have done the same."""

    def _observe(self, trainer: Any, *rest: Any) -> None:
        folder = Path(trainer.loggers[0].log_dir)
        try:
            super()._observe(trainer, *rest)
        except SaliencyError as error:
            (folder / f"rank {trainer.global_rank}.txt").write_text(str(error))
            waited = time.monotonic()
            while len(list(folder.glob("rank *.txt"))) < 2 and time.monotonic() - waited < 20:
                time.sleep(0.01)
            raise


def fails_on_rank_1(module: Touchy, images: torch.Tensor) -> torch.Tensor:
    """A forward pass that fails on one of the ranks, at the end of the first epoch."""
    if module.global_rank == 1 and module.global_step == 2:
        raise ArithmeticError("only here")
    return module(images)


def _whole(tensor: Any) -> torch.Tensor:
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().clone()


def strategy_of(name: str) -> Any:
    if name == "ddp":
        return DDPStrategy(start_method="fork", process_group_backend="gloo")
    if name == "fsdp2":
        return ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo"
        )
    return "auto"


def main() -> None:
    name, folder, how = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    pl.seed_everything(7)
    data = Shapes(16, augment=False)
    ours: dict[str, Any] = {"tile_size": 24}
    if how in ("raise", "warn"):
        ours |= {"forward": fails_on_rank_1, "on_error": how}
    watchers = [
        Told(ProbeBatch.from_dataset(data, count=n), name=w, **ours)
        for w, n in COUNTS.items()
        if how != "alone"
    ]
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1 if name == "one" else 2,
        strategy=strategy_of(name),
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[*watchers, Kept(folder, watchers)],
    )
    train = DataLoader(Shapes(32, augment=True), batch_size=8, shuffle=True)
    module = Sharded() if name == "fsdp2" else Touchy()
    trainer.fit(module, train, DataLoader(data, batch_size=8))


if __name__ == "__main__":
    main()
