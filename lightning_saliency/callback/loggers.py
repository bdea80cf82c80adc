"""Pictures and numbers to any Lightning logger, recognised by the name of its class.

To add a logger, write a function that takes a picture and put it into :data:`_TAKERS`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from lightning_saliency.draw.canvas import ImageFormat, encode
from lightning_saliency.draw.colours import Picture
from lightning_saliency.storage.files import safe_name, write_whole
from lightning_saliency.storage.places import Place


class PictureLog:
    """Sends pictures to every logger that takes them, or to files if none does.

    Args:
        loggers: Those of the trainer.
        folder: Where files go; ``None`` for nowhere (a ``fast_dev_run``).
        image_format: Of the pictures in TensorBoard; files are PNG.

    Attributes:
        files_at: The folder of the pictures, once one was written there.
    """

    def __init__(
        self, loggers: Iterable[Any], folder: Place | None, image_format: ImageFormat
    ) -> None:
        self._loggers = list(loggers)
        kinds = [(class_name_among(logger, _TAKERS), logger) for logger in self._loggers]
        self._takers = [(_TAKERS[kind], logger) for kind, logger in kinds if kind]
        self._folder, self._format = folder, image_format
        self.files_at: Place | None = None

    def add(self, tag: str, picture: Picture, step: int) -> None:
        """Log ``picture`` under ``tag``, such as ``"saliency/3 · cat"``, at ``step``."""
        for take, logger in self._takers:
            take(logger, tag, picture, step, self._format)
        if not self._takers and self._folder is not None:
            path = self._folder.joinpath(*_split_tag(tag), f"{step:08d}.png")
            write_whole(path, encode(picture, "png"))
            self.files_at = self._folder

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by their tag at ``step``, to every logger."""
        for logger in self._loggers if scalars else ():
            logger.log_metrics(dict(scalars), step=step)


def _split_tag(tag: str, *, ascii_only: bool = False) -> list[str]:
    """Split a tag into a folder and a name that file systems accept."""
    return [safe_name(part, ascii_only=ascii_only) for part in tag.split("/", 1)]


def class_name_among(instance: Any, names: Container[str]) -> str | None:
    """The first of ``names`` that a class of ``instance`` has; by name, for both namespaces."""
    return next((c.__name__ for c in type(instance).__mro__ if c.__name__ in names), None)


def _to_tensorboard(
    logger: Any, tag: str, picture: Picture, step: int, image_format: ImageFormat
) -> None:
    writer = logger.experiment
    events = getattr(writer, "_get_file_writer", None)
    if events is None or not type(writer).__module__.startswith("torch.utils.tensorboard"):
        writer.add_image(tag, picture, step, dataformats="HWC")
        return
    # `add_image` converts the picture to floating point and back and encodes it slowly as PNG. An
    # event file takes any encoded picture, so the bytes are written there directly.
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width, _ = picture.shape
    encoded = encode(picture, image_format)
    image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
    events().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)


def _to_wandb(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    # W&B makes a file name of the key, which may be a path, or too long for one.
    key = "/".join(_split_tag(tag))
    logger.log_image(key=key, images=[picture], step=step, caption=[f"step {step}"])


def _to_mlflow(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    key = "/".join(_split_tag(tag, ascii_only=True))
    logger.experiment.log_image(logger.run_id, picture, key=key, step=step)


def _to_nowhere(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    """Ignore the logger of a ``fast_dev_run``, which has every attribute and keeps nothing."""


_TAKERS = {
    "TensorBoardLogger": _to_tensorboard,
    "WandbLogger": _to_wandb,
    "MLFlowLogger": _to_mlflow,
    "DummyLogger": _to_nowhere,
}
