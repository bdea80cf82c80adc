"""Argument checks that several parts of the package share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from keyword import iskeyword
from typing import Any, TypeGuard

import numpy as np
import torch
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


def plain_text(text: str) -> str:
    """Return the characters of a string as a plain ``str``.

    Members of an enumeration and numpy's strings are subclasses of ``str``, which
    ``torch.load(weights_only=True)`` refuses in a checkpoint.

    Example:
        >>> plain_text(np.str_("cat"))
        'cat'
    """
    return str.__str__(text)


def plain_tensor(tensor: Tensor) -> Tensor:
    """Return the same data as a plain tensor, without a subclass such as MONAI's ``MetaTensor``.

    A checkpoint that holds a subclass is refused by ``torch.load(weights_only=True)``, and the
    operations of a subclass put views into the graph, which hide in-place activations. A subclass
    that dispatches by itself is returned as it is, because it may have no memory of its own.
    """
    own = type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__
    if type(tensor) is Tensor or own:
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def as_plain_tensor(values: Any) -> Tensor:
    """Convert numbers in any usual container to a plain tensor.

    Args:
        values: A tensor, an array, a table column, or a list of numbers, arrays or tensors.

    Raises:
        TypeError: The values are not numbers.
        ValueError: The items of a list have different lengths.
    """
    if isinstance(values, Tensor):
        return plain_tensor(values)
    if isinstance(values, list | tuple) and any(isinstance(item, Tensor) for item in values):
        return torch.stack([as_plain_tensor(item) for item in values])
    if isinstance(values, str | bytes | set | frozenset | dict):
        raise TypeError(f"a {type(values).__name__} is not a list of numbers")
    # Numpy also reads table columns, and a list of bools as bools.
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"values of type {array.dtype} are not numbers")
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))


def looks_channels_last(shape: Sequence[int]) -> bool:
    """Whether images of a shape ``(N, C, H, W)`` are more likely ``(N, H, W, C)``.

    Example:
        >>> looks_channels_last((8, 32, 32, 3)), looks_channels_last((8, 3, 32, 32))
        (True, False)
    """
    if len(shape) != 4 or min(shape[1:3]) <= 4:
        return False
    # A last axis of 1 may also be that of a series in time, which is rarely as long as it is wide.
    return shape[3] in (3, 4) or (shape[3] == 1 and shape[1] == shape[2])


def looks_frames_first(shape: Sequence[int]) -> bool:
    """Whether images of a shape ``(N, C, D, H, W)`` are more likely clips ``(N, T, C, H, W)``.

    Example:
        >>> looks_frames_first((8, 16, 3, 32, 32)), looks_frames_first((8, 3, 16, 32, 32))
        (True, False)
    """
    return len(shape) == 5 and shape[2] in (1, 3) and shape[1] not in (1, 3)


def frames_first_remedy() -> str:
    """Say how clips ``(N, T, C, H, W)`` can be explained."""
    return (
        "If the frames come first, pass `images.transpose(1, 2)`, with "
        "`forward=lambda model, images: model(images.transpose(1, 2))` if the model takes them so."
    )


def check_images(images: Any) -> None:
    """Refuse anything but a batch of floating-point images ``(N, C, H, W)`` or volumes.

    Raises:
        TypeError: ``images`` is not a tensor, or not floating point.
        ValueError: The shape is wrong, or there are no images.
    """
    if not isinstance(images, Tensor):
        raise TypeError(
            f"`images` must be a tensor, got {type(images).__name__}. Convert it with "
            "`torch.as_tensor`, and read photos with `ProbeBatch.from_files`."
        )
    if images.ndim not in (4, 5):
        raise ValueError(
            f"`images` must have shape (N, C, H, W) or (N, C, D, H, W), got "
            f"{tuple(images.shape)}. "
            f"{_remedy_for_shape(images.shape)}"
        )
    if images.numel() == 0:
        raise ValueError(
            f"`images` must not be empty, got shape {tuple(images.shape)}. Pass at least one image."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"`images` must be floating point, as the model expects them, got {images.dtype}. "
            f"{FLOAT_REMEDY}"
        )


# Names that `forward(model, images, **extras)` and `Module.forward(self, images)` already have.
_TAKEN = ("model", "images", "self")


def check_extras(extras: Any, count: int) -> None:
    """Refuse further inputs of a model that cannot be passed along with the images.

    Args:
        extras: For each name, a tensor of numbers or bools with one row per image.
        count: The number of images.

    Raises:
        TypeError: It is not a mapping from names to such tensors.
        ValueError: A name cannot be that of an argument, or the number of rows is wrong.
    """
    if not isinstance(extras, Mapping):
        raise TypeError(
            '`extras` must be a dict from names to tensors, such as {"age": ages}, got '
            f"{type(extras).__name__}."
        )
    for name, rows in extras.items():
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name):
            raise ValueError(
                f"`extras` are passed to the model as keyword arguments, so {name!r} must be a "
                'name such as "age".'
            )
        if name in _TAKEN:
            raise ValueError(
                f"`extras` must not be named {', '.join(_TAKEN)}, got {name!r}. Give it another "
                "name, and translate it in `forward=lambda model, images, age: …`."
            )
        if not isinstance(rows, Tensor) or rows.is_complex():
            kind = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
            raise TypeError(
                f"`extras[{name!r}]` must be a tensor of numbers or bools, got {kind}. Convert it "
                "with `torch.as_tensor`."
            )
        if rows.ndim == 0 or len(rows) != count:
            raise ValueError(
                f"`extras[{name!r}]` must have one row for each of {count} image(s), got shape "
                f"{tuple(rows.shape)}. Repeat a value that all images share: "
                f"`value.expand({count}, …)`."
            )


# True whether or not the model scales its images itself: in each case it sees the same numbers.
FLOAT_REMEDY = (
    "If `forward` divides by 255 itself, pass `images.float()`; otherwise scale and normalise them "
    "as in training, for example `images / 255`."
)


def _remedy_for_shape(shape: Sequence[int]) -> str:
    """Say how images of another number of axes can be passed."""
    if len(shape) > 5:
        return fold_remedy(shape)
    if len(shape) == 3:
        return (
            "Add a batch axis with `images[None]` to explain one image, or a channel axis with "
            f"`images[:, None]` if these are several grey ones. {SIGNAL_REMEDY}"
        )
    if len(shape) == 2:
        return "Add the missing axes with `images[None, None]` if this is one grey image."
    return "Bring them to four axes: images, channels, rows and columns."


SIGNAL_REMEDY = (
    "Pass signals (N, C, L) as images of one row, `signals[:, :, None]`, with "
    "`forward=lambda model, images: model(images[:, :, 0])`."
)


def fold_remedy(shape: Sequence[int]) -> str:
    """Say how images of more than three axes of space can be explained."""
    last = len(shape) - 4
    sides = ", ".join(map(str, shape[1 : last + 1]))
    return (
        f"Fold the first axes, such as those of time, into the channels with "
        f"`images.flatten(1, {last})`, and unfold them again in "
        f"`forward=lambda model, images: model(images.unflatten(1, ({sides})))`."
    )
