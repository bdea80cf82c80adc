"""Pictures and numbers to any Lightning logger, by the name of its class: of both namespaces."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning_saliency.files import safe_name, write_whole
from lightning_saliency.grid import ImageFormat, Picture, encode


class PictureLog:
    """Sends pictures to every logger that takes them, to files where none does.

    Args:
        loggers: Those of the trainer.
        folder: Where files go, ``None`` for nowhere (a ``fast_dev_run``).
        image_format: Of the pictures in TensorBoard; files are PNG.

    Attributes:
        files_at: The folder of the pictures, once one was written there.
    """

    def __init__(
        self, loggers: Iterable[Any], folder: Path | None, image_format: ImageFormat
    ) -> None:
        self._loggers = list(loggers)
        self._takers = [(_TAKERS[kind], one) for one in self._loggers if (kind := _kind(one))]
        self._folder, self._format = folder, image_format
        self.files_at: Path | None = None

    def add(self, tag: str, picture: Picture, step: int) -> None:
        """Log ``picture`` under ``tag``, such as ``"saliency/3 · cat"``, at ``step``."""
        for take, logger in self._takers:
            take(logger, tag, picture, step, self._format)
        if not self._takers and self._folder is not None:
            path = self._folder.joinpath(*_path_of(tag), f"{step:08d}.png")
            write_whole(path, encode(picture, "png"))
            self.files_at = self._folder

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by their tag at ``step``, to every logger."""
        for logger in self._loggers if scalars else ():
            logger.log_metrics(dict(scalars), step=step)


def _path_of(tag: str, *, ascii_only: bool = False) -> list[str]:
    """The folder and the name that a tag stands for, as file systems take them."""
    return [safe_name(part, ascii_only=ascii_only) for part in tag.split("/", 1)]


# The folders of runs whose loggers give them none: several callbacks of a trainer share one.
_FOLDERS: WeakKeyDictionary[Any, Path] = WeakKeyDictionary()


def run_folder(trainer: Any) -> Path | None:
    """The folder of this run and no other, or ``None`` where nothing is kept.

    Collective: call it on every rank. Where a logger keeps all runs in one folder, or there is
    none, the run is given a folder of its own.
    """
    log_dir = trainer.log_dir  # collective
    if trainer.fast_dev_run:
        return None
    folder = _folder_in(trainer, log_dir) if trainer.is_global_zero else None
    chosen = trainer.strategy.broadcast(folder and str(folder))
    return Path(chosen)


def _folder_in(trainer: Any, log_dir: str | None) -> Path:
    first = next(iter(trainer.loggers), None)
    if log_dir is not None and first is not None:
        if _of_class(first, _KEEPING_RUNS_APART):
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


def _kind(logger: Any) -> str | None:
    return _of_class(logger, _TAKERS)


def _of_class(logger: Any, names: Container[str]) -> str | None:
    """The first of ``names`` that is the name of a class of ``logger``."""
    return next((c.__name__ for c in type(logger).__mro__ if c.__name__ in names), None)


def _to_tensorboard(
    logger: Any, tag: str, picture: Picture, step: int, image_format: ImageFormat
) -> None:
    writer = logger.experiment
    events = getattr(writer, "_get_file_writer", None)
    if events is None or not type(writer).__module__.startswith("torch.utils.tensorboard"):
        writer.add_image(tag, picture, step, dataformats="HWC")
        return
    # `add_image` takes the picture through floating point and the slowest of PNG encoders; the
    # event file holds any encoded picture, so the bytes go straight there.
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, _ = picture.shape
    encoded = encode(picture, image_format)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    events().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def _to_wandb(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    # Its own name for the file that a tag becomes may be a path, or too long for one.
    key = "/".join(_path_of(tag))
    logger.log_image(key=key, images=[picture], step=step, caption=[f"step {step}"])


def _to_mlflow(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    key = "/".join(_path_of(tag, ascii_only=True))
    logger.experiment.log_image(logger.run_id, picture, key=key, step=step)


def _to_nowhere(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    """A ``fast_dev_run``'s logger has every attribute and keeps nothing."""


_KEEPING_RUNS_APART = ("TensorBoardLogger", "CSVLogger")

_TAKERS = {
    "TensorBoardLogger": _to_tensorboard,
    "WandbLogger": _to_wandb,
    "MLFlowLogger": _to_mlflow,
    "DummyLogger": _to_nowhere,
}
