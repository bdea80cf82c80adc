"""What each kind of logger wants of a picture, and of the page that shows a whole run.

To add a logger, write a function that sends a picture, and put it into :data:`ADAPTERS` under the
name of the logger's class. A function for the page is optional. The package of a logger is imported
by the functions only, so it is needed by those who use that logger.
"""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from lightning_saliency.callback.failures import warn
from lightning_saliency.draw.canvas import ImageFormat, encode
from lightning_saliency.draw.colours import Picture
from lightning_saliency.storage.files import safe_name

# These send to a logger, under a tag and at a step, a picture or the HTML of a page.
_SendPicture: TypeAlias = Callable[[Any, str, Picture, int, ImageFormat], None]
_SendPage: TypeAlias = Callable[[Any, str, str, int], None]


@dataclass(frozen=True, slots=True)
class Adapter:
    """How a kind of logger is served.

    Attributes:
        send_picture: Sends a picture.
        send_page: Sends an HTML page; ``None`` if this kind of logger shows none.
    """

    send_picture: _SendPicture
    send_page: _SendPage | None = None


def split_tag(tag: str, *, ascii_only: bool = False) -> list[str]:
    """Split a tag into a folder and a name that file systems accept."""
    return [safe_name(part, ascii_only=ascii_only) for part in tag.split("/", 1)]


def has_log_image(logger: Any) -> bool:
    """Whether ``logger`` has the method that :data:`BY_LOG_IMAGE` calls."""
    try:
        inspect.signature(logger.log_image).bind(key="", images=[], step=0, caption=[])
    except (AttributeError, TypeError, ValueError):
        return False
    return True


def _by_log_image(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    """Send a picture by the method of Lightning's ``WandbLogger``, which other loggers have too."""
    # W&B makes a file name of the key, which may be a path, or too long for one.
    key = "/".join(split_tag(tag))
    logger.log_image(key=key, images=[picture], step=step, caption=[f"step {step}"])


# TensorBoard


def _picture_to_tensorboard(
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


# Weights & Biases


def _page_to_wandb(logger: Any, tag: str, html: str, step: int) -> None:
    import wandb

    # By default W&B adds a style sheet from its server, which the page's own policy forbids.
    logger.log_metrics({tag: wandb.Html(html, inject=False)}, step=step)


# MLflow


def _picture_to_mlflow(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    key = "/".join(split_tag(tag, ascii_only=True))
    logger.experiment.log_image(logger.run_id, picture, key=key, step=step)


def _page_to_mlflow(logger: Any, tag: str, html: str, _: int) -> None:
    name = safe_name(tag, ascii_only=True)
    logger.experiment.log_text(logger.run_id, html, f"{name}.html")


# Comet


def _picture_to_comet(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    # Comet stretches the contrast of arrays, but takes the bytes of an image file as they are.
    file = io.BytesIO(encode(picture, "png"))
    caption = {"caption": f"step {step}"}
    if logger.experiment.log_image(file, name=tag, step=step, metadata=caption) is None:
        # Comet raises no error. Without this warning, nobody would notice before the run has ended.
        warn(
            "Comet did not take a picture. Its experiment is disabled or has ended, or the picture "
            "is too large. `CometLogger(online=False)` of Lightning disables the experiment, so "
            "that not even metrics are kept; to log offline, set the environment variable "
            "COMET_START_ONLINE=0 and leave `online` out."
        )


def _page_to_comet(logger: Any, tag: str, html: str, step: int) -> None:
    # An asset, because `log_html` would append the pages of several callbacks to one another.
    file = io.BytesIO(html.encode())
    logger.experiment.log_asset(file, file_name=f"{safe_name(tag)}.html", step=step)


# SwanLab


def _page_to_swanlab(logger: Any, tag: str, html: str, step: int) -> None:
    import swanlab

    logger.log_metrics({tag: swanlab.Html(html)}, step=step)


# Lightning's own


def _to_nowhere(logger: Any, tag: str, picture: Picture, step: int, _: ImageFormat) -> None:
    """Ignore the logger of a ``fast_dev_run``, which has every attribute and keeps nothing."""


# For loggers that are not in the table, such as those that users write themselves.
BY_LOG_IMAGE = Adapter(_by_log_image)

ADAPTERS = {
    "TensorBoardLogger": Adapter(_picture_to_tensorboard),
    "WandbLogger": Adapter(_by_log_image, _page_to_wandb),
    "MLFlowLogger": Adapter(_picture_to_mlflow, _page_to_mlflow),
    "CometLogger": Adapter(_picture_to_comet, _page_to_comet),
    "SwanLabLogger": Adapter(_by_log_image, _page_to_swanlab),
    "DummyLogger": Adapter(_to_nowhere),
}
