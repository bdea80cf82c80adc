"""Where the record and the picture files of a run go."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning_saliency.callback.loggers import class_name_among
from lightning_saliency.callback.trainer import Trainer
from lightning_saliency.observe.ranks import Ranks
from lightning_saliency.storage.files import safe_name

_KEEPING_RUNS_APART = ("TensorBoardLogger", "CSVLogger")

# The folders of runs whose loggers give them none: several callbacks of a trainer share one.
_FOLDERS: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()


def find_run_folder(trainer: Trainer, ranks: Ranks) -> Path | None:
    """Find the folder of this run and no other; ``None`` if nothing is kept.

    Collective: call it on every rank. If a logger keeps all runs in one folder, or there is no
    logger, the run is given a folder of its own.
    """
    log_dir = trainer.log_dir  # collective
    if trainer.fast_dev_run:
        return None
    with ranks.synchronized("choosing the run's folder"):
        folder = str(_folder_in(trainer, log_dir)) if ranks.rank == 0 else None
    return Path(ranks.broadcast(folder))


def _folder_in(trainer: Trainer, log_dir: str | None) -> Path:
    first = next(iter(trainer.loggers), None)
    if log_dir is not None and first is not None:
        if class_name_among(first, _KEEPING_RUNS_APART):
            return Path(log_dir)
        if first.version is not None:
            return Path(log_dir, safe_name(str(first.name)), safe_name(str(first.version)))
    if trainer not in _FOLDERS:
        root = Path(log_dir or trainer.default_root_dir)
        _FOLDERS[trainer] = _next_version(root / "saliency_logs")
    return _FOLDERS[trainer]


def _next_version(folder: Path) -> Path:
    taken = [path.name.removeprefix("version_") for path in folder.glob("version_*")]
    number = max((int(name) for name in taken if name.isdecimal()), default=-1) + 1
    return folder / f"version_{number}"
