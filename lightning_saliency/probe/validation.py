"""Validate the arguments of a probe batch.

Each function returns the value that the probe keeps. It raises ``TypeError`` for a wrong type or
dtype, and ``ValueError`` for a wrong shape or value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.functional.arguments import check_images


def checked_images(images: Tensor) -> Tensor:
    """Check that ``images`` can be explained, and copy them to the CPU."""
    check_images(images)
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            "`images` must be finite, got NaN or infinite values. Look for a division by zero "
            "in their normalisation."
        )
    return images.detach().to("cpu", copy=True).contiguous()


def checked_labels(labels: Tensor, count: int, num_classes: int | None) -> Tensor:
    """Check labels and copy them to the CPU: int64, or float32 if an image may have several.

    Args:
        labels: ``(N,)`` integers, or ``(N, num_classes)`` floating point.
        count: Number of images, N.
        num_classes: Number of class names, if there are class names.
    """
    if not isinstance(labels, Tensor) or labels.dtype == torch.bool:
        raise TypeError(
            "`labels` must be an int64 tensor of classes, got "
            f"{getattr(labels, 'dtype', type(labels).__name__)}. Pass `torch.tensor(labels)`."
        )
    _check_shape_of_labels(labels, count)
    labels = labels.detach().to("cpu", copy=True)
    if labels.is_floating_point():
        return labels.float()
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        highest = "…" if num_classes is None else num_classes - 1
        remedy = "" if num_classes is None else " Give every class a name in `class_names`."
        raise ValueError(
            f"`labels` must be classes from 0 to {highest}, got {low} to {high}.{remedy}"
        )
    return labels.long()


def _check_shape_of_labels(labels: Tensor, count: int) -> None:
    several = labels.is_floating_point()
    if labels.ndim == (2 if several else 1) and len(labels) == count:
        return
    shape = "(N, num_classes)" if several else "(N,)"
    remedy = "Pass one label per image."
    if several and labels.ndim == 1:
        remedy = "Classes are integers: `labels.long()`."
    raise ValueError(
        f"`labels` of dtype {labels.dtype} must have shape {shape} with N = {count}, got "
        f"{tuple(labels.shape)}. {remedy}"
    )


def as_labels(labels: Sequence[int] | Tensor) -> Tensor:
    """Convert labels to a tensor; if given names, raise and point to `class_index`."""
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`labels` must be class indices, got {labels!r}. Number the names in "
            "`class_names`; `class_index` finds ImageNet's."
        ) from error


def stack_photos(photos: Sequence[Tensor]) -> Tensor:
    """Stack photos, which must all have the same shape, into one batch."""
    shapes = sorted({tuple(photo.shape) for photo in photos})
    if len(shapes) > 1:
        raise ValueError(
            f"`transform` must bring all photos to one size, got {shapes[0]} and {shapes[-1]}. "
            "End the transform with a crop, such as `transforms.CenterCrop(224)`."
        )
    return torch.stack(list(photos))


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


def checked_strings(argument: str, value: Any) -> tuple[str, ...]:
    """Check that ``value`` is a list of strings that can be written as UTF-8."""
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise TypeError(
            f"`{argument}` must be a list of strings, got {value!r}. Pass one name per item."
        )
    for item in value:
        if not item.isascii() and item.encode(errors="ignore").decode() != item:
            raise ValueError(
                f"`{argument}` must be text that can be written as UTF-8, got {item!r}. Convert "
                "a file name in another encoding with "
                "`name.encode(errors='replace').decode()`."
            )
    return tuple(value)


def checked_masks(masks: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Check that masks have the size of the images, and copy them to the CPU."""
    count, _, height, width = images.shape
    for name, mask in masks.items():
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(
                f"`masks[{name!r}]` must be a bool tensor, got "
                f"{getattr(mask, 'dtype', type(mask).__name__)}. Use `mask > 0`."
            )
        if tuple(mask.shape) != (count, height, width):
            raise ValueError(
                f"`masks[{name!r}]` must have shape {(count, height, width)}, as the images have, "
                f"got {tuple(mask.shape)}. A mask has no channels and is cropped like its image."
            )
    return {name: mask.detach().to("cpu", copy=True) for name, mask in masks.items()}


def checked_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check that ``mean`` and ``std`` have one value for each channel."""
    if mean is None or std is None:
        raise ValueError(
            "`mean` and `std` must be given together. Pass both as in "
            "`transforms.Normalize(mean, std)`, or neither."
        )
    mean, std = tuple(float(m) for m in mean), tuple(float(s) for s in std)
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"`mean` and `std` must have one value for each of {channels} channel(s), `std` above "
            f"0, got {mean} and {std}. Use those of `transforms.Normalize` in training."
        )
    return mean, std
