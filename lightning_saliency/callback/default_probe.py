"""A probe for those who pass none: a few images of the trainer's own data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import DataLoader

from lightning_saliency.callback.trainer import Trainer
from lightning_saliency.errors import SaliencyError
from lightning_saliency.isolation.module import undisturbed
from lightning_saliency.isolation.rng import own_streams_kept, random_streams_kept
from lightning_saliency.probe.batch import SEED, ProbeBatch
from lightning_saliency.probe.datasets import choose_items, collate_items

COUNT = 8
_REMEDY = "Pass `probe=ProbeBatch(images, labels)` with the images to explain."


def choose_probe(trainer: Trainer, pl_module: Any) -> ProbeBatch:
    """Choose eight images of the validation data, or of the training data if there is none.

    They are spread over the classes and the same in every run with the same data. They are
    collated by the loader's own ``collate_fn`` and pass the module's hooks for batches, which may
    normalise them. The loader itself is not iterated and no random stream moves; among generators
    that a dataset owns, those that :func:`rng.own_streams_kept` finds.

    Raises:
        SaliencyError: There are no such data, or no images in them; the message says what to pass.
    """
    with random_streams_kept(SEED), undisturbed(pl_module), torch.no_grad():
        loader, validating = _find_loader(trainer)
        with own_streams_kept(loader.dataset, loader.collate_fn):
            try:
                items = choose_items(loader.dataset, COUNT, COUNT)
            except TypeError as error:
                raise SaliencyError(str(error)) from error
            batch = collate_items(loader.dataset, items, loader.collate_fn)
        with _stage(trainer, validating):
            batch = pl_module._on_before_batch_transfer(batch, dataloader_idx=0)
            batch = trainer.strategy.batch_to_device(batch, pl_module.device, dataloader_idx=0)
        return ProbeBatch.from_batch(batch, loader.dataset)


def _find_loader(trainer: Trainer) -> tuple[DataLoader[Any], bool]:
    """Find the first loader of the trainer, and say whether it is a validation loader."""
    if trainer.state.fn == "test":
        sources = [(trainer.test_dataloaders, False)]
    else:
        sources = [(_validation_loaders(trainer), True), (trainer.train_dataloader, False)]
    for loaders, validating in sources:
        for loader in _flattened(loaders):
            if isinstance(loader, DataLoader):
                return loader, validating
    raise SaliencyError(f"no DataLoader to choose a probe from. {_REMEDY}")


def _validation_loaders(trainer: Trainer) -> Any:
    """The trainer's own, or new ones: it makes them only before its first validation."""
    if trainer.val_dataloaders is not None:
        return trainer.val_dataloaders
    try:
        source = trainer.fit_loop.epoch_loop.val_loop._data_source
        return source.dataloader() if source.is_defined() else None
    except AttributeError:  # private, so it may disappear; then the training data serve
        return None


def _flattened(loaders: Any) -> Iterator[Any]:
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        for loader in loaders:
            yield from _flattened(loader)
    elif loaders is not None:
        yield loaders


@contextmanager
def _stage(trainer: Trainer, validating: bool) -> Iterator[None]:
    """Let the module's hooks see the stage of the data: some hooks augment in training only."""
    found = trainer.state.stage
    try:
        if validating:
            trainer.validating = True
        yield
    finally:
        trainer.state.stage = found
