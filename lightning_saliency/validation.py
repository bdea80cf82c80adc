"""What a probe batch is made of has to be right: everything that it refuses, and why.

Each function raises ``TypeError`` for a wrong type or dtype, ``ValueError`` for a wrong shape or
value, and returns what the probe keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_saliency.probe import ProbeBatch


def checked_images(images: Tensor) -> Tensor:
    """A copy on the CPU of images that can be explained."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"`images` must be a tensor, got {type(images).__name__}. `torch.from_numpy` takes "
            "arrays, `ProbeBatch.from_files` reads photos."
        )
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(
            f"`images` must have shape (N, C, H, W) and not be empty, got {tuple(images.shape)}. "
            "Add a batch axis with `images[None]` to probe one image."
        )
    if not images.is_floating_point():
        raise TypeError(
            f"`images` must be floating point, as the model expects them, got {images.dtype}. "
            "Scale and normalise them as in training, for example `images / 255`."
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            "`images` must be finite, got NaN or infinite values. Look for a division by zero "
            "where they are normalised."
        )
    return images.detach().to("cpu", copy=True).contiguous()


def checked_labels(probe: ProbeBatch, labels: Tensor) -> Tensor:
    """A copy on the CPU of labels that belong to the images: int64, or float32 where several."""
    count = len(probe.images)
    if not isinstance(labels, Tensor) or labels.dtype == torch.bool:
        raise TypeError(
            "`labels` must be an int64 tensor of classes, got "
            f"{getattr(labels, 'dtype', type(labels).__name__)}. Pass `torch.tensor(labels)`."
        )
    _check_shape_of_labels(labels, count)
    labels = labels.detach().to("cpu", copy=True)
    if labels.is_floating_point():
        return labels.float()
    known = len(probe.class_names) if probe.class_names is not None else None
    if int(labels.min()) < 0 or (known is not None and int(labels.max()) >= known):
        raise ValueError(
            f"`labels` must be classes from 0 to {'…' if known is None else known - 1}, got "
            f"{int(labels.min())} to {int(labels.max())}."
            + ("" if known is None else " Give every class a name in `class_names`.")
        )
    return labels.long()


def _check_shape_of_labels(labels: Tensor, count: int) -> None:
    several = labels.is_floating_point()
    if labels.ndim == (2 if several else 1) and len(labels) == count:
        return
    shape = "(N, num_classes)" if several else "(N,)"
    remedy = "Pass a label for each image."
    if several and labels.ndim == 1:
        remedy = "Classes are integers: `labels.long()`."
    raise ValueError(
        f"`labels` of dtype {labels.dtype} must have shape {shape} with N = {count}, got "
        f"{tuple(labels.shape)}. {remedy}"
    )


def as_labels(labels: Sequence[int] | Tensor) -> Tensor:
    """Labels as a tensor; names, which are not numbers, are answered with where those are found."""
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`labels` must be the indices of classes, got {labels!r}. Number the names in "
            "`class_names`; `class_index` finds ImageNet's."
        ) from error


def stacked(photos: Sequence[Tensor]) -> Tensor:
    """Photos as one batch, which they can be if they are of one size."""
    shapes = sorted({tuple(photo.shape) for photo in photos})
    if len(shapes) > 1:
        raise ValueError(
            f"`transform` must bring all photos to one size, got {shapes[0]} and {shapes[-1]}; "
            "end the transform with a crop, such as `transforms.CenterCrop(224)`."
        )
    return torch.stack(list(photos))


def checked_names(probe: ProbeBatch) -> tuple[str, ...]:
    """A unique name an image."""
    count = len(probe.images)
    if probe.names is None:
        return tuple(default_name(probe, i) for i in range(count))
    names = strings(probe, "names")
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


def default_name(probe: ProbeBatch, image: int) -> str:
    """What an image is called by its number and label."""
    word = "" if probe.class_names else "class "
    classes = [word + probe.class_name(c) for c in sorted(probe.true_classes(image))]
    return " · ".join([f"image {image}", *classes])


def strings(probe: ProbeBatch, name: str) -> tuple[str, ...]:
    """The attribute ``name``, which has to be a list of strings."""
    value = getattr(probe, name)
    if isinstance(value, str) or not all(isinstance(item, str) for item in value):
        raise TypeError(f"`{name}` must be a list of strings, got {value!r}. Pass a name an item.")
    for item in value:
        if not item.isascii() and item.encode(errors="ignore").decode() != item:
            raise ValueError(
                f"`{name}` must be text that can be written as UTF-8, got {item!r}. A file name of "
                "another encoding can be read with `name.encode(errors='replace').decode()`."
            )
    return tuple(value)


def checked_masks(probe: ProbeBatch) -> dict[str, Tensor]:
    """Copies on the CPU of masks that lie on the images."""
    count, _, height, width = probe.images.shape
    for name, mask in probe.masks.items():
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
    return {name: mask.detach().to("cpu", copy=True) for name, mask in probe.masks.items()}


def checked_normalisation(probe: ProbeBatch) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """``mean`` and ``std`` with a value for each channel."""
    if probe.mean is None or probe.std is None:
        raise ValueError(
            "`mean` and `std` must be given together: one alone shows nothing right. Pass both as "
            "in `transforms.Normalize(mean, std)`, or neither."
        )
    mean, std = tuple(float(m) for m in probe.mean), tuple(float(s) for s in probe.std)
    channels = probe.images.shape[1]
    if len(mean) != channels or len(std) != channels or min(std) <= 0:
        raise ValueError(
            f"`mean` and `std` must have a value for each of {channels} channel(s), `std` above 0, "
            f"got {mean} and {std}. They are those of `transforms.Normalize` in training."
        )
    return mean, std
