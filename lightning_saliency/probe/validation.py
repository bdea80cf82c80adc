"""Validate the arguments of a probe batch.

Each function returns the value that the probe keeps. It raises ``TypeError`` for a wrong type or
dtype, and ``ValueError`` for a wrong shape or value.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.functional.arguments import (
    as_plain_tensor,
    check_extras,
    check_images,
    frames_first_remedy,
    is_integer,
    looks_channels_last,
    looks_frames_first,
    plain_tensor,
    plain_text,
)
from lightning_saliency.functional.projection import AXES, DEPTHS, Depth
from lightning_saliency.functional.text import shorten
from lightning_saliency.probe.labels import UNLABELLED, read_labels

_LABELS_NAMED = 3  # in the default name of an image, which is a tag in the logger
_LONGEST_LABEL = 24  # letters of each, if there are several


def checked_images(images: Tensor) -> Tensor:
    """Check that ``images`` can be explained, and copy them to the CPU as a plain tensor."""
    check_images(images)
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            "`images` must be finite, got NaN or infinite values. Look for a division by zero "
            "in their normalisation."
        )
    if looks_channels_last(images.shape):
        warnings.warn(
            f"`images` of shape {tuple(images.shape)} look like (N, H, W, C), but are read as "
            "(N, C, H, W). If the channels come last, pass `images.permute(0, 3, 1, 2)`; if the "
            "model takes them last as well, add "
            "`forward=lambda model, images: model(images.permute(0, 2, 3, 1))`.",
            SaliencyWarning,
            stacklevel=4,  # the call of `ProbeBatch`
        )
    if looks_frames_first(images.shape):
        warnings.warn(
            f"`images` of shape {tuple(images.shape)} look like clips (N, T, C, H, W), but are "
            f"read as (N, C, D, H, W). {frames_first_remedy()}",
            SaliencyWarning,
            stacklevel=4,  # the call of `ProbeBatch`
        )
    return plain_tensor(images).detach().to("cpu", copy=True).contiguous()


def checked_depth(depth: Any, axis: Any, shape: Sequence[int]) -> tuple[Depth | None, int | None]:
    """Check how volumes of a ``shape`` are drawn, and fill in the defaults.

    Returns:
        The depth and its axis, counted from the last; ``None`` twice for flat images.
    """
    if len(shape) == 4:
        if depth is not None or axis is not None:
            raise ValueError(
                "`depth` and `depth_axis` say how images (N, C, D, H, W) are drawn, got images of "
                f"shape {tuple(shape)}. Leave them out."
            )
        return None, None
    axis = AXES[0] if axis is None else axis
    if not is_integer(axis) or axis not in AXES:
        raise ValueError(f"`depth_axis` must be -3, -2 or -1, for D, H or W, got {axis!r}.")
    depth = DEPTHS[0] if depth is None else depth
    count = shape[axis]
    if depth not in DEPTHS and not (is_integer(depth) and 0 <= depth < count):
        raise ValueError(
            f"`depth` must be 'max', 'middle' or the number of a slice, from 0 to {count - 1}, "
            f"got {depth!r}."
        )
    chosen: Depth = depth if is_integer(depth) else plain_text(depth)  # type: ignore[assignment]
    return chosen, axis


def checked_labels(labels: Any, count: int, class_names: Sequence[str] | None) -> Tensor | None:
    """Read labels as :func:`labels.read_labels` does, and check them against the class names.

    Returns:
        ``(N,)`` int64, or ``(N, num_classes)`` float32 if an image may have several labels;
        ``None`` if no image has a label.
    """
    num_classes = None if class_names is None else len(class_names)
    column = isinstance(labels, Tensor) and labels.shape == (count, 1)
    if num_classes == 1 and column and labels.is_floating_point():
        # The one class has a name, so a column says which images have it: not class 0 or 1.
        return plain_tensor(labels).detach().to("cpu", torch.float32, copy=True)
    read = read_labels(labels, count)
    if read.ndim == 2:
        return read
    if bool((read == UNLABELLED).all()):
        return None
    if num_classes is not None and int(read.max()) >= num_classes:
        raise ValueError(
            f"`labels` must be classes from 0 to {num_classes - 1}, got {int(read.min())} to "
            f"{int(read.max())}. Give every class a name in `class_names`."
        )
    return read


def checked_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """Check that there is a unique name for each of ``count`` images."""
    names = checked_strings("names", names)
    if len(names) != count:
        raise ValueError(
            f"`names` must hold one name for each of {count} images, got {len(names)}. Without "
            "`names`, images are named by number and class."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise ValueError(
            f"`names` must be unique and not empty, got {(twice or [''])[0]!r}"
            f"{' twice' if twice else ''}. Number the duplicates: pictures are filed by name."
        )
    return names


def default_name(image: int, labels: Sequence[str]) -> str:
    """Name an image by its number and its labels; of many, by the first three."""
    if len(labels) > 1:
        labels = [shorten(label, _LONGEST_LABEL) for label in labels]
    if len(labels) > _LABELS_NAMED:
        labels = [*labels[:_LABELS_NAMED], f"{len(labels) - _LABELS_NAMED} more"]
    return " · ".join([f"image {image}", *labels])


def checked_class_names(names: Any) -> tuple[str, ...]:
    """Check class names, which may also be a dict between classes and names.

    Args:
        names: A list; or a dict from each class ``0…n-1`` to its name, or from names to classes,
            in any order.
    """
    if not isinstance(names, Mapping):
        return checked_strings("class_names", names)
    pairs = list(names.items())
    if all(isinstance(name, str) and _is_class(index) for name, index in pairs):
        pairs = [(index, name) for name, index in pairs]
    by_class = {int(index): name for index, name in pairs if _is_class(index)}
    if sorted(by_class) != list(range(len(pairs))):
        raise ValueError(
            f"`class_names` as a dict must name each class from 0 to {len(pairs) - 1}, got the "
            f"keys {', '.join(map(repr, names))}. Pass a list of names in the order of the classes."
        )
    return checked_strings("class_names", [by_class[index] for index in range(len(pairs))])


def _is_class(key: Any) -> bool:
    return isinstance(key, Integral) and not isinstance(key, bool)


def checked_strings(argument: str, value: Any) -> tuple[str, ...]:
    """Check that ``value`` holds strings that can be written as UTF-8; return them as ``str``."""
    if isinstance(value, set | frozenset):
        raise TypeError(
            f"`{argument}` must be a list of strings, got {value!r}. A set has no order: pass a "
            "list, in the order of the classes or images."
        )
    listed = isinstance(value, Iterable) and not isinstance(value, str | Mapping)
    items = list(value) if listed else value  # a generator can be read only once
    if not listed or not all(isinstance(item, str) for item in items):
        raise TypeError(
            f"`{argument}` must be a list of strings, got {items!r}. Pass one name per item."
        )
    strings = tuple(map(plain_text, items))
    for item in strings:
        if not item.isascii() and item.encode(errors="ignore").decode() != item:
            raise ValueError(
                f"`{argument}` must be text that can be written as UTF-8, got {item!r}. Convert "
                "a file name in another encoding with "
                "`name.encode(errors='replace').decode()`."
            )
    return strings


def checked_masks(masks: Any, images: Tensor, depth_axis: int | None = None) -> dict[str, Tensor]:
    """Check that masks have the size of the images, and copy them to the CPU as plain tensors.

    Args:
        masks: A bool tensor for each region.
        images: ``(N, C, H, W)``, or ``(N, C, D, H, W)`` with a ``depth_axis``.
        depth_axis: The axis of the volumes along which flat masks are repeated.
    """
    if masks is None:
        return {}
    if not isinstance(masks, Mapping) or not all(isinstance(name, str) for name in masks):
        got = f"the keys {list(masks)!r}" if isinstance(masks, Mapping) else type(masks).__name__
        raise TypeError(
            f"`masks` must be a dict from the name of a region to its masks, got {got}. Pass "
            "`masks={'object': mask}` with a bool tensor (N, H, W)."
        )
    shape = (len(images), *images.shape[2:])
    flat = list(shape)
    if depth_axis is not None:
        del flat[depth_axis]
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(
                f"`masks[{plain_text(name)!r}]` must be a bool tensor, got "
                f"{getattr(mask, 'dtype', type(mask).__name__)}. Use `mask > 0`."
            )
        if mask.shape not in (shape, tuple(flat)):
            raise ValueError(
                f"`masks[{plain_text(name)!r}]` must have shape {shape}, as the images have, got "
                f"{tuple(mask.shape)}. A mask has no channels and is cropped like its image."
            )
    plain = {
        plain_text(name): plain_tensor(mask).detach().to("cpu", copy=True)
        for name, mask in masks.items()
    }
    if depth_axis is not None:
        for name, mask in plain.items():
            if mask.ndim < len(shape):
                plain[name] = mask.unsqueeze(depth_axis).expand(shape).contiguous()
    return plain


def checked_normalisation(
    mean: Any, std: Any, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check that ``mean`` and ``std`` have one finite value per channel, or one for all."""
    if mean is None or std is None:
        raise ValueError(
            "`mean` and `std` must be given together. Pass both as in "
            "`transforms.Normalize(mean, std)`, or neither."
        )
    means, stds = (_read_channels(values, channels) for values in (mean, std))
    finite = all(map(math.isfinite, means + stds))
    if len(means) != channels or len(stds) != channels or not finite or min(stds) <= 0:
        raise ValueError(
            f"`mean` and `std` must have one finite value for each of {channels} channel(s), `std` "
            f"above 0, got {means} and {stds}. Use those of `transforms.Normalize` in training."
        )
    return means, stds


def _read_channels(values: Any, channels: int) -> tuple[float, ...]:
    """Read one number per channel; a single number is repeated."""
    try:
        read = as_plain_tensor(values).double()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`mean` and `std` must be numbers, one per channel, got {values!r}. Use those of "
            "`transforms.Normalize` in training."
        ) from error
    return tuple(read.expand(channels).tolist() if read.ndim == 0 else read.flatten().tolist())


def checked_extras(extras: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Check the further inputs of a model, and copy them to the CPU; see :func:`check_extras`."""
    check_extras(extras, count)
    return {
        name: plain_tensor(rows.detach()).to("cpu", copy=True).contiguous()
        for name, rows in extras.items()
    }
