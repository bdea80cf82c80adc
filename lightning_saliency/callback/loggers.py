"""Pictures, numbers and the page of a run, sent to whatever loggers a trainer has."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from lightning_saliency.callback.adapters import (
    ADAPTERS,
    BY_LOG_IMAGE,
    Adapter,
    has_log_image,
    split_tag,
)
from lightning_saliency.draw.canvas import ImageFormat, encode
from lightning_saliency.draw.colours import Picture
from lightning_saliency.storage.files import write_whole
from lightning_saliency.storage.places import Place


class PictureLog:
    """Sends pictures to every logger that takes them, or to files if none does.

    Args:
        loggers: Those of the trainer.
        folder: Where files go; ``None`` for nowhere (a ``fast_dev_run``).
        image_format: Of the pictures in TensorBoard; elsewhere they are PNG.

    Attributes:
        files_at: The folder of the pictures, once one was written there.
    """

    def __init__(
        self, loggers: Iterable[Any], folder: Place | None, image_format: ImageFormat
    ) -> None:
        self._loggers = list(loggers)
        adapters = [(_find_adapter(logger), logger) for logger in self._loggers]
        self._takers = [(adapter, logger) for adapter, logger in adapters if adapter is not None]
        self._folder, self._format = folder, image_format
        self.files_at: Place | None = None

    def add(self, tag: str, picture: Picture, step: int) -> None:
        """Log ``picture`` under ``tag``, such as ``"saliency/3 · cat"``, at ``step``."""
        for adapter, logger in self._takers:
            adapter.send_picture(logger, tag, picture, step, self._format)
        if not self._takers and self._folder is not None:
            path = self._folder.joinpath(*split_tag(tag), f"{step:08d}.png")
            write_whole(path, encode(picture, "png"))
            self.files_at = self._folder

    def add_scalars(self, scalars: Mapping[str, float], step: int) -> None:
        """Log numbers by their tag at ``step``, to every logger."""
        for logger in self._loggers if scalars else ():
            logger.log_metrics(dict(scalars), step=step)

    @property
    def shows_pages(self) -> bool:
        """Whether a logger takes HTML pages."""
        return any(adapter.send_page for adapter, _ in self._takers)

    def add_page(self, tag: str, html: str, step: int) -> None:
        """Log a page of HTML under ``tag`` at ``step``, to the loggers that take one."""
        for adapter, logger in self._takers:
            if adapter.send_page is not None:
                adapter.send_page(logger, tag, html, step)


def _find_adapter(logger: Any) -> Adapter | None:
    """Find out how pictures are sent to ``logger``; ``None`` if it takes none."""
    kind = class_name_among(logger, ADAPTERS)
    if kind is not None:
        return ADAPTERS[kind]
    return BY_LOG_IMAGE if has_log_image(logger) else None


def class_name_among(instance: Any, names: Container[str]) -> str | None:
    """The first of ``names`` that a class of ``instance`` has; by name, for both namespaces."""
    return next((c.__name__ for c in type(instance).__mro__ if c.__name__ in names), None)
