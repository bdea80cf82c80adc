"""What is relied on of a Lightning trainer, and how it is read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lightning_saliency.attribution.logits import Forward, call_plainly
from lightning_saliency.callback.loggers import class_name_among
from lightning_saliency.observe.ranks import Ranks


class Trainer(Protocol):
    """What is relied on of a trainer of either namespace.

    The private counters and data sources that a few functions look at, each with a fallback, are
    reached through ``fit_loop`` and the other loops.
    """

    callbacks: list[Any]
    callback_metrics: Mapping[str, Any]
    checkpoint_callbacks: Sequence[Any]
    ckpt_path: Any  # the checkpoint that the run goes on from, if any
    current_epoch: int
    datamodule: Any
    default_root_dir: str
    fast_dev_run: bool | int
    fit_loop: Any
    global_rank: int
    global_step: int
    is_global_zero: bool
    lightning_module: Any
    lr_scheduler_configs: Sequence[Any]
    log_dir: str | None  # a collective: to be asked for on every rank
    loggers: Sequence[Any]
    precision_plugin: Any
    progress_bar_callback: Any  # None if there is no bar
    sanity_checking: bool
    should_stop: bool
    state: Any
    strategy: Any
    test_loop: Any
    validate_loop: Any
    world_size: int

    # Which data are there, and how often a validation looks at them.
    train_dataloader: Any
    val_dataloaders: Any
    test_dataloaders: Any
    val_check_interval: float | int | None
    check_val_every_n_epoch: int | None
    validating: bool


def build_ranks(trainer: Trainer) -> Ranks:
    """The processes of a trainer."""
    return Ranks(trainer.strategy, int(trainer.world_size), int(trainer.global_rank))


def callable_model(trainer: Trainer, pl_module: Any) -> Any:
    """What to call for a forward pass: FSDP 1 gathers weights only in its wrapper."""
    fsdp = class_name_among(trainer.strategy, ("FSDPStrategy",))
    return trainer.strategy.model if fsdp else pl_module


def wrap_forward(trainer: Trainer, forward: Forward | None) -> Forward:
    """Make a forward pass that runs in the trainer's own precision."""
    plugin = trainer.precision_plugin

    def in_precision(model: Any, images: Tensor, **extras: Tensor) -> Any:
        images = plugin.convert_input(_in_default(model, images))
        extras = {
            name: rows.to(images.dtype) if rows.is_floating_point() else rows
            for name, rows in extras.items()
        }
        with plugin.forward_context():
            return (forward or call_plainly)(model, images, **extras)

    return in_precision


def _in_default(model: Any, images: Tensor) -> Tensor:
    """Cast images of another precision to the default one if the model has it too.

    A probe in float64, as numpy makes them, or in half precision, is meant as it is in training.
    """
    default = torch.get_default_dtype()
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return images.to(default) if kinds == {default} else images


def current_step(trainer: Trainer) -> int:
    """The step at which Lightning logs the scalars of this moment."""
    try:
        return int(trainer.fit_loop.epoch_loop._batches_that_stepped)
    except AttributeError:  # private, so it may disappear; optimizer steps are nearly the same
        return int(trainer.global_step)


def is_last_batch_of_epoch(trainer: Trainer) -> bool:
    """Whether training has taken the last batch of its epoch."""
    return bool(trainer.fit_loop.epoch_loop.batch_progress.is_last_batch)


def is_last_batch_of_evaluation(trainer: Trainer) -> bool:
    """Whether the validation or test that is running has taken its last batch, if it can tell."""
    try:
        loops = {
            "fit": trainer.fit_loop.epoch_loop.val_loop,
            "validate": trainer.validate_loop,
            "test": trainer.test_loop,
        }
        return bool(loops[trainer.state.fn].batch_progress.is_last_batch)
    except AttributeError:  # private, so it may disappear; then the hook at the end serves
        return False


def logged_metrics(trainer: Trainer, ours: Sequence[str]) -> dict[str, float]:
    """What a run has logged, without the scalars of our callbacks, whose names are ``ours``."""
    found = {str(name): float(value) for name, value in trainer.callback_metrics.items()}
    prefixes = tuple(f"{name}/" for name in ours)
    return {name: value for name, value in found.items() if not name.startswith(prefixes)}


def inform(trainer: Trainer, message: str) -> None:
    """Say something at level INFO through the logger of the trainer's own namespace, once."""
    if trainer.is_global_zero:
        # Users may have a class of that name too, so the last one counts.
        kinds = [c for c in type(trainer).__mro__ if c.__name__ == "Trainer"]
        module = kinds[-1].__module__
        namespace = module.partition(".trainer")[0]
        logging.getLogger(f"{namespace}.saliency").info(message)
