"""Several trainings of two processes in one go: `python distributed_run.py STRATEGY ROOT HOW…`.

Each HOW is the name of a folder in ROOT and of what is done there: "alone" trains without the
callback; "observed", with three of them; "single", in one process; "raise" and "warn", with a
failure on rank 1 alone; "full", with a rank 0 that cannot write down how the run ended; "gate",
with a check that raises if it fails. ROOT holds the reference of that check.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from callables import of_captum, slope
from matrix import Shapes, Touchy
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.strategies import DDPStrategy, ModelParallelStrategy
from torch.distributed.fsdp import fully_shard
from torch.utils.data import DataLoader
from training import shown

from lightning_saliency import AttentionCheck, ProbeBatch, SaliencyCallback, SaliencyError
from lightning_saliency.callback.checking import Checking
from lightning_saliency.record.writer import RunWriter

# Probes of an even number of images, of an odd one, and of fewer images than processes.
COUNTS = {"even": 4, "odd": 3, "one": 1}
CHECKED = "even"


class Ranked(Touchy):
    """Logs a metric that differs between ranks, and one that is reduced late."""

    def validation_step(self, batch: Any, index: int) -> None:
        super().validation_step(batch, index)
        self.log("first_rank", float(self.global_rank == 0))
        self.log("mean_rank", float(self.global_rank), sync_dist=True)


class Sharded(Ranked):
    def configure_model(self) -> None:
        mesh = self.device_mesh["data_parallel"]
        for part in (self.conv1, self.conv2, self.head):
            fully_shard(part, mesh=mesh)
        fully_shard(self, mesh=mesh)


class Kept(pl.Callback):
    """Writes down on each rank how training ended and what was observed."""

    def __init__(self, folder: Path, watchers: list[Reported]) -> None:
        self.folder, self.watchers = folder, watchers

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        whole = {k: _whole(v) for k, v in pl_module.state_dict().items()}
        moments = [_whole(v["exp_avg"]) for v in trainer.optimizers[0].state.values()]
        seen = {w.name: [s.state() for s in shown(w)] for w in self.watchers}
        numbers = {k: float(v) for k, v in trainer.callback_metrics.items()}
        kept = {"weights": whole, "moments": moments, "rng": torch.get_rng_state(), "seen": seen}
        kept["metrics"] = {k: v for k, v in numbers.items() if k.split("/")[0] not in COUNTS}
        kept["measured"] = {k: v for k, v in numbers.items() if k.split("/")[0] in COUNTS}
        kept["verdicts"] = list(VERDICTS)
        kept["states"] = {w.name: w.state_dict() for w in self.watchers}
        torch.save(kept, self.folder / f"rank {trainer.global_rank}.pt")


VERDICTS: list[str] = []  # of this process


@contextmanager
def noting_verdicts() -> Iterator[None]:
    act_on = Checking._act_on

    def noted(self: Checking, verdict: Any, *rest: Any) -> None:
        VERDICTS.append(repr(verdict))
        act_on(self, verdict, *rest)

    with mock.patch.object(Checking, "_act_on", noted):
        yield


class Reported(SaliencyCallback):
    """Writes down what each rank raises."""

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        with self._reported(trainer):
            super().on_validation_batch_end(trainer, pl_module, *batch)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with self._reported(trainer):
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        session, end = self._session, self._session.end

        def reported(*args: Any) -> None:
            with self._reported(trainer):
                end(*args)

        session.end = reported
        super().on_train_end(trainer, pl_module)

    @contextmanager
    def _reported(self, trainer: Any) -> Iterator[None]:
        """Wait with an error until the other rank has raised its own, and write both down."""
        folder = Path(trainer.loggers[0].log_dir)
        try:
            yield
        except SaliencyError as error:
            (folder / f"rank {trainer.global_rank}.txt").write_text(str(error))
            waited = time.monotonic()
            while len(list(folder.glob("rank *.txt"))) < 2 and time.monotonic() - waited < 20:
                time.sleep(0.01)
            raise


class Nudged(pl.Callback):
    """Changes the weights when training has ended, as averaging does."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            for parameter in pl_module.parameters():
                parameter.mul_(1.5)


def fails_on_rank_1(module: Touchy, images: torch.Tensor) -> torch.Tensor:
    """A forward pass that fails on one of the ranks, at the end of the first epoch."""
    if module.global_rank == 1 and module.global_step == 2:
        raise ArithmeticError("only here")
    return module(images)


def _whole(tensor: Any) -> torch.Tensor:
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().clone()


def build_strategy(name: str) -> Any:
    if name == "ddp":
        return DDPStrategy(start_method="fork", process_group_backend="gloo")
    return ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, process_group_backend="gloo"
    )


def watchers(root: Path, how: str) -> list[Reported]:
    ours: dict[str, Any] = {"tile_size": 24}
    if how in ("raise", "warn"):
        ours |= {"forward": fails_on_rank_1, "on_error": how}
    check = AttentionCheck(
        str(root / "reference"),
        require=["corner.share <= 0"],
        start_after="first_rank>0.5",
        on_fail="raise" if how == "gate" else "warn",
    )
    found = []
    for name, count in COUNTS.items():
        corner = torch.zeros(count, 12, 12, dtype=torch.bool)
        for image in range(count):  # each image is unique, except those of the reference
            top = 0 if name == CHECKED else 2 * image
            corner[image, top : top + 6, :6] = True
        data = Shapes(16, augment=False)
        probe = ProbeBatch.from_dataset(data, count=count, masks={"corner": corner})
        own = {"check": check} if name == CHECKED else {}
        if name == "odd":
            own = {"rule": ("guided_backprop", slope, of_captum("LayerGradCam", layer="conv2"))}
        found.append(Reported(probe, name=name, **own, **ours))
    return found


def train(strategy: str, root: Path, how: str) -> None:
    pl.seed_everything(7)
    ours = [] if how == "alone" else watchers(root, how)
    folder = root / how
    folder.mkdir(exist_ok=True)
    trainer = pl.Trainer(
        max_epochs=2,
        accelerator="cpu",
        devices=1 if how == "single" else 2,
        strategy="auto" if how == "single" else build_strategy(strategy),
        logger=TensorBoardLogger(folder, name="", version=""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        callbacks=[*ours, *([Nudged()] if how == "nudged" else []), Kept(folder, ours)],
    )
    data = DataLoader(Shapes(32, augment=True), batch_size=8, shuffle=True)
    module = Sharded() if strategy == "fsdp2" else Ranked()
    with noting_verdicts():
        trainer.fit(module, data, DataLoader(Shapes(16, augment=False), batch_size=8))


def main() -> None:
    strategy, root, *ways = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    full = mock.patch.object(RunWriter, "end", side_effect=OSError(28, "No space left on device"))
    for how in ways:
        with full if how == "full" else nullcontext():
            try:
                train(strategy, Path(root), how)
            except Exception as error:
                if how not in ("raise", "full", "gate"):
                    raise
                (Path(root) / how / "raised.txt").write_text(str(error))


if __name__ == "__main__":
    main()
