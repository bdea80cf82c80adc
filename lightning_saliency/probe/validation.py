"""What a probe batch refuses, and why.

Each function raises ``TypeError`` for a wrong type or dtype and ``ValueError`` for a wrong shape or
value, and returns what the probe keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_saliency.functional.arguments import check_images


def checked_images(images: Tensor) -> Tensor:
    """A copy on the CPU of images that can be explained."""
    check_images(images)
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            "`images` must be finite, got NaN or infinite values. Look for a division by zero "
            "where they are normalised."
        )
    return images.detach().to("cpu", copy=True).contiguous()


def checked_labels(labels: Tensor, count: int, num_classes: int | None) -> Tensor:
    """A copy on the CPU of labels: int64, or float32 if an image may have several.

    Args:
        labels: ``(N,)`` integers, or ``(N, num_classes)`` floating point.
        count: Number of images, N.
        num_classes: Number of class names, if there are any.
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
    """Labels as a tensor; if given names, raise and point to `class_index`."""
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`labels` must be the indices of classes, got {labels!r}. Number the names in "
            "`class_names`; `class_index` finds ImageNet's."
        ) from error


def stacked(photos: Sequence[Tensor]) -> Tensor:
    """Photos of one size as one batch."""
    shapes = sorted({tuple(photo.shape) for photo in photos})
    if len(shapes) > 1:
        raise ValueError(
            f"`transform` must bring all photos to one size, got {shapes[0]} and {shapes[-1]}; "
            "end the transform with a crop, such as `transforms.CenterCrop(224)`."
        )
    return torch.stack(list(photos))


def checked_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """A unique name for each of ``count`` images."""
    names = checked_strings("names", names)
    if len(names) != count:
        raise ValueError(
            f"`names` must name each of {count} images, got {len(names)}. Without it they get "
            "names by number and class."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or "" in names:
        raise ValueError(
            f"`names` must be unique and not empty, got {(twice or [''])[0]!r}"
            f"{' twice' if twice else ''}. Number those that are alike: pictures are filed by name."
        )
    return names


def checked_strings(argument: str, value: Any) -> tuple[str, ...]:
    """A list of strings that can be written as UTF-8."""
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise TypeError(
            f"`{argument}` must be a list of strings, got {value!r}. Pass one name per item."
        )
    for item in value:
        if not item.isascii() and item.encode(errors="ignore").decode() != item:
            raise ValueError(
                f"`{argument}` must be text that can be written as UTF-8, got {item!r}. A file "
                "name of another encoding can be read with "
                "`name.encode(errors='replace').decode()`."
            )
    return tuple(value)


def checked_masks(masks: Mapping[str, Tensor], images: Tensor) -> dict[str, Tensor]:
    """Copies on the CPU of masks that lie on the images."""
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
                f"got {tuple(mask.shape)}. A mask has no channels and is cut as its image is."
            )
    return {name: mask.detach().to("cpu", copy=True) for name, mask in masks.items()}


def checked_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``mean`` and ``std`` with a value for each channel."""
    if mean is None or std is None:
        raise ValueError(
            "`mean` and `std` must be given together: one alone shows nothing right. Pass both as "
            "in `transforms.Normalize(mean, std)`, or neither."
        )
    mean, std = tuple(float(m) for m in mean), tuple(float(s) for s in std)
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"`mean` and `std` must have a value for each of {channels} channel(s), `std` above 0, "
            f"got {mean} and {std}. They are those of `transforms.Normalize` in training."
        )
    return mean, std
