"""Where the record and the picture files of a run go."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning_saliency.callback.loggers import class_name_among
from lightning_saliency.callback.trainer import Trainer, inform
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.storage.files import safe_name
from lightning_saliency.storage.places import Place, find_place

_KEEPING_RUNS_APART = ("TensorBoardLogger", "CSVLogger")

# The folders of runs whose loggers give them none: several callbacks of a trainer share one.
_FOLDERS: WeakKeyDictionary[Any, Place] = WeakKeyDictionary()


def find_run_folder(trainer: Trainer, ranks: Ranks, *, needed: bool = False) -> Place | None:
    """Find the folder of this run and no other; ``None`` if nothing is kept.

    Collective: call it on every rank. If a logger keeps all runs in one folder, or there is no
    logger, the run is given a folder of its own. Nothing is kept of a ``fast_dev_run``, or if the
    user asked for nothing to be kept: the trainer has no logger and no checkpoints, and no root
    folder was passed to it.

    Args:
        trainer: Of the run.
        ranks: Its processes.
        needed: Whether the folder is needed all the same, for a check that is judged by it.
    """
    log_dir = trainer.log_dir  # collective
    if trainer.fast_dev_run:
        return None
    with ranks.synchronized("choosing the run's folder"):
        keeps = needed or _keeps_files(trainer)
        folder = str(_folder_in(trainer, log_dir)) if ranks.rank == 0 and keeps else None
    found = ranks.broadcast(folder)
    if found is None:
        inform(
            trainer,
            "Neither the pictures nor the record are kept: this trainer has no logger, no "
            "checkpoints and no `default_root_dir`. Pass one of them to keep both there",
        )
    return None if found is None else find_place(found)


def _keeps_files(trainer: Trainer) -> bool:
    """Whether anything says that files are to be kept, and where."""
    # Lightning fills in the working directory, so that nobody can tell whether it was passed.
    by_default = trainer.default_root_dir == str(Path.cwd())
    return bool(trainer.loggers or trainer.checkpoint_callbacks or not by_default)


def _folder_in(trainer: Trainer, log_dir: str | None) -> Place:
    first = next(iter(trainer.loggers), None)
    if log_dir is not None and first is not None:
        if class_name_among(first, _KEEPING_RUNS_APART):
            return find_place(log_dir)
        if first.version is not None:
            run = safe_name(str(first.name)), safe_name(str(first.version))
            return find_place(log_dir).joinpath(*run)
    if trainer not in _FOLDERS:
        root = find_place(log_dir or trainer.default_root_dir)
        _FOLDERS[trainer] = _next_version(root / "saliency_logs")
    return _FOLDERS[trainer]


def _next_version(folder: Place) -> Place:
    taken = [path.name.removeprefix("version_") for path in folder.glob("version_*")]
    number = max((int(name) for name in taken if name.isdecimal()), default=-1) + 1
    return folder / f"version_{number}"
