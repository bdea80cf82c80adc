"""Argument checks that several parts of the package share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

from torch import Tensor


def is_integer(value: Any) -> TypeGuard[int]:
    """Return whether ``value`` is an int but not a bool, which is a subclass of int in Python.

    Example:
        >>> is_integer(3), is_integer(True)
        (True, False)
    """
    return isinstance(value, int) and not isinstance(value, bool)


def check_integer(name: str, value: object, least: int) -> None:
    """Refuse anything but an integer of at least ``least``.

    Args:
        name: The name of the argument, for the message.
        value: What was passed.
        least: The smallest valid integer.

    Raises:
        ValueError: ``value`` is not an integer, or is too small.
    """
    if not is_integer(value) or value < least:
        raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}.")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Refuse anything but one of ``choices``.

    Args:
        name: The name of the argument, for the message.
        value: What was passed.
        choices: The valid values.

    Raises:
        ValueError: ``value`` is not among them.
    """
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def check_images(images: Any) -> None:
    """Refuse anything but a batch of floating-point images ``(N, C, H, W)``.

    Raises:
        TypeError: ``images`` is not a tensor, or not floating point.
        ValueError: The shape is wrong, or there are no images.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"`images` must be a tensor, got {type(images).__name__}. Convert arrays with "
            "`torch.from_numpy`, and read photos with `ProbeBatch.from_files`."
        )
    if images.ndim != 4:
        raise ValueError(
            f"`images` must have shape (N, C, H, W), got {tuple(images.shape)}. "
            "Add a batch axis with `images[None]` to explain one image."
        )
    if images.numel() == 0:
        raise ValueError(
            f"`images` must not be empty, got shape {tuple(images.shape)}. Pass at least one image."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"`images` must be floating point, as the model expects them, got {images.dtype}. "
            "Scale and normalise them as in training, for example `images / 255`."
        )
