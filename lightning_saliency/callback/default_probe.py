"""Choose a probe from the trainer's own data, if the user passed none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from lightning_saliency.callback.batch_hooks import transfer
from lightning_saliency.callback.trainer import Trainer, inform
from lightning_saliency.errors import SaliencyError
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.probe.reading import Reader

COUNT = 8
_REMEDY = "Pass `probe=ProbeBatch(images, labels)` with the images to explain."


def choose_probe(trainer: Trainer, pl_module: Any) -> ProbeBatch:
    """Choose eight images of the validation data, or of the training data if there is none.

    They are taken from the first loader that is not empty, spread over the classes, and the same in
    every run with the same data. They are read as the loader reads them, and pass the batch hooks,
    which may normalise them. The loader itself is not iterated, no random stream moves, and the
    dataset is left as it was; see :mod:`~lightning_saliency.probe.reading`.

    Raises:
        SaliencyError: There are no such data, they cannot be read, or they hold no images. The
            message says what to pass.
    """
    try:
        return _choose_probe(trainer, pl_module)
    except SaliencyError:
        raise
    except TypeError as error:
        if "a probe cannot be chosen" in str(error):  # It names the remedy.
            raise SaliencyError(str(error)) from error
        raise _unreadable(error) from error
    except Exception as error:
        raise _unreadable(error) from error


def _unreadable(error: Exception) -> SaliencyError:
    # The error of a worker holds its traceback, which ends in the error itself.
    lines = str(error).strip().splitlines() or [""]
    last = lines[-1] if len(lines) > 1 and "Traceback" in str(error) else lines[0]
    what = last if last.startswith(type(error).__name__) else f"{type(error).__name__}: {last}"
    return SaliencyError(f"reading images of the trainer's data failed: {what}\n{_REMEDY}")


def _choose_probe(trainer: Trainer, pl_module: Any) -> ProbeBatch:
    number, loader, validating = _find_loader(trainer)
    reader = Reader.for_loader(loader, announce=partial(inform, trainer))
    hooks = partial(transfer, trainer, pl_module, dataloader_idx=number, validating=validating)
    loaded = [replace(each, batch=hooks(each.batch)) for each in reader.read(COUNT, COUNT)]
    return ProbeBatch.join(loaded, loader.dataset, most=COUNT)


def _find_loader(trainer: Trainer) -> tuple[int, DataLoader[Any], bool]:
    """Find the first loader that is not empty.

    Returns:
        Its number among the loaders of its stage, the loader, and whether it is for validation.
    """
    if trainer.state.fn == "test":
        sources = [(trainer.test_dataloaders, False)]
    else:
        sources = [(_validation_loaders(trainer), True), (trainer.train_dataloader, False)]
    empty = 0
    for loaders, validating in sources:
        found = [pair for pair in enumerate(_flattened(loaders)) if isinstance(pair[1], DataLoader)]
        filled = [(number, loader) for number, loader in found if not _is_empty(loader)]
        # A probe cannot be chosen from a dataset that can only be iterated, so it comes last.
        filled.sort(key=lambda pair: isinstance(pair[1].dataset, IterableDataset))
        if filled:
            return (*filled[0], validating)
        empty += len(found)
    if empty:
        raise SaliencyError(f"all loaders are empty, so there is nothing to explain. {_REMEDY}")
    raise SaliencyError(f"no DataLoader to choose a probe from. {_REMEDY}")


def _validation_loaders(trainer: Trainer) -> Any:
    """Return the trainer's loaders, or new ones: it makes its own before its first validation."""
    if trainer.val_dataloaders is not None:
        return trainer.val_dataloaders
    try:
        source = trainer.fit_loop.epoch_loop.val_loop._data_source
        return source.dataloader() if source.is_defined() else None
    except AttributeError:
        # These attributes are private, so another version may lack them.
        return None


def _flattened(loaders: Any) -> Iterator[Any]:
    loaders = getattr(loaders, "iterables", loaders)  # A CombinedLoader keeps them there.
    if isinstance(loaders, dict):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        for loader in loaders:
            yield from _flattened(loader)
    elif loaders is not None:
        yield loaders


def _is_empty(loader: DataLoader[Any]) -> bool:
    """Return whether a loader has no batches, as far as is known without iterating it."""
    if isinstance(loader.dataset, IterableDataset):
        return False
    try:
        return len(loader) == 0
    except (TypeError, NotImplementedError):  # Its sampler has no length.
        return False
