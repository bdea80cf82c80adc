"""Pass batches through the hooks that a trainer calls between its loaders and its model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from lightning_saliency.callback.trainer import Trainer
from lightning_saliency.errors import SaliencyError
from lightning_saliency.isolation.dataset import dataset_kept
from lightning_saliency.isolation.module import undisturbed
from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.probe.fetching import SEED


def transfer(
    trainer: Trainer,
    pl_module: Any,
    batch: Any,
    dataloader_idx: int = 0,
    *,
    validating: bool = True,
) -> Any:
    """Pass ``batch`` through the batch hooks of the module or datamodule, and to the device.

    Random numbers are drawn from a fixed seed, and whatever the hooks change is restored.

    Args:
        trainer: The trainer whose hooks are called.
        pl_module: Its module.
        batch: As a loader yields it. Hooks may write to it.
        dataloader_idx: The number of the loader, which is passed to the hooks.
        validating: Whether the trainer is set to validating meanwhile, because hooks may augment
            batches in training.
    """
    with (
        random_streams_kept(SEED),
        dataset_kept(trainer.datamodule),
        undisturbed(pl_module),
        torch.no_grad(),
        _stage(trainer, validating=validating),
    ):
        batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=dataloader_idx)
        return trainer.strategy.batch_to_device(
            batch, pl_module.device, dataloader_idx=dataloader_idx
        )


def transfer_probe(trainer: Trainer, pl_module: Any, probe: ProbeBatch) -> ProbeBatch:
    """Pass the images of a probe that come from data through the batch hooks, once.

    Raises:
        SaliencyError: The hooks fail or do not return as many images, or the batches were lost
            when the probe was sent to this process.
    """
    try:
        return probe.transferred(partial(transfer, trainer, pl_module))
    except (SaliencyError, ValueError):
        raise
    except Exception as error:
        raise SaliencyError(
            f"the batch hooks of {type(pl_module).__name__} or its datamodule failed on the probe: "
            f"{type(error).__name__}: {error}\nPass `probe=ProbeBatch(images, labels)` with images "
            "as the model takes them."
        ) from error


@contextmanager
def _stage(trainer: Trainer, *, validating: bool) -> Iterator[None]:
    found = trainer.state.stage
    try:
        if validating:
            trainer.validating = True
        yield
    finally:
        trainer.state.stage = found
