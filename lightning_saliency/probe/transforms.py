"""The geometry and normalisation that a model expects of photos and masks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.probe.photos import INSIDE

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std

# What torchvision's and timm's weights for ImageNet were trained with.
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_RESIZE_OVER_CROP = 256 / 224  # the margin that ImageNet's models are validated with
_LONGEST = 4  # times the shorter side: more of a panorama never reaches the square in its middle
_SEED = 0  # of random transforms: a photo and its mask are cut alike


def to_tensor(
    photo: Image.Image,
    size: int | tuple[int, int] = 224,
    *,
    transform: Callable[[Any], Any] | None = None,
    mean: str | Sequence[float] | None = "imagenet",
    std: str | Sequence[float] | None = "imagenet",
) -> Tensor:
    """A photo as a model expects it.

    Args:
        photo: Upright, as :func:`read_photo` gives it.
        size: Pixels a side of the square cut from the middle, after the shorter side was brought
            to 256/224 of it, as ImageNet's models are validated; or both: ``(232, 224)``.
        transform: In place of all that: a callable from a photo to a tensor, such as
            ``weights.transforms()``. What is random in it is drawn from a seed of its own.
        mean: Per channel, with ``std``; ``"imagenet"``; ``None`` leaves values in [0, 1].
        std: See ``mean``.

    Returns:
        ``(3, H, W)`` float32; of a ``transform``, what it gives.

    Raises:
        TypeError: ``transform`` does not give such a tensor, or an argument of a wrong type.
        ValueError: ``size``, or ``mean`` and ``std``, that do not fit.

    Example:
        >>> grey = Image.new("RGB", (40, 30), (51, 51, 51))
        >>> to_tensor(grey, 2, mean=None, std=None)[0]
        tensor([[0.2000, 0.2000],
                [0.2000, 0.2000]])
    """
    if transform is not None:
        return _transformed(photo, transform)
    known = normalisation(mean, std)
    cut = _cut(photo.convert("RGB"), size)
    tensor = torch.from_numpy(np.asarray(cut, dtype=np.float32) / 255).permute(2, 0, 1).contiguous()
    if known is None:
        return tensor
    return (tensor - torch.tensor(known[0]).view(3, 1, 1)) / torch.tensor(known[1]).view(3, 1, 1)


def mask_to_tensor(
    mask: Image.Image,
    size: int | tuple[int, int] = 224,
    *,
    transform: Callable[[Any], Any] | None = None,
) -> Tensor:
    """A mask in the geometry of :func:`to_tensor`: bool ``(H, W)``, by what most of a pixel is.

    Through a ``transform`` the mask goes as a white shape on black, and is inside where it comes
    out nearer to a white photo than to a black one; padding is near neither, so outside.

    Example:
        >>> mask = Image.new("1", (40, 30))
        >>> mask.paste(1, (20, 0, 40, 30))  # the right half
        >>> mask_to_tensor(mask, 2)
        tensor([[False,  True],
                [False,  True]])
    """
    if transform is None:
        return torch.from_numpy(np.asarray(_cut(mask.convert("L"), size)) > INSIDE)
    shape, black, white = (
        _transformed(picture, transform)
        for picture in (
            mask.convert("RGB"),
            Image.new("RGB", mask.size, "black"),
            Image.new("RGB", mask.size, "white"),
        )
    )
    return (shape - white).abs().sum(dim=0) < (shape - black).abs().sum(dim=0)


def normalisation(
    mean: str | Sequence[float] | None, std: str | Sequence[float] | None
) -> Normalisation | None:
    """``mean`` and ``std`` per channel, by name or number; ``None`` where images are as they are.

    Raises:
        TypeError: Not numbers.
        ValueError: An unknown name, one without the other, not three of each, or of images in
            [0, 255], which a photo is not by then.

    Example:
        >>> normalisation("imagenet", "imagenet")[0]
        (0.485, 0.456, 0.406)
    """
    if mean is None and std is None:
        return None
    got = f"got {mean!r} and {std!r}."
    if mean is None or std is None or isinstance(mean, str) or isinstance(std, str):
        if isinstance(mean, str) and isinstance(std, str) and mean == std == "imagenet":
            return IMAGENET
        raise ValueError(
            f"`mean` and `std` must both be 'imagenet', numbers or None, {got} Those of another "
            "data set are in its training code; None leaves values in [0, 1]."
        )
    try:
        known = tuple(float(value) for value in mean), tuple(float(value) for value in std)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`mean` and `std` must be three numbers each, {got}") from error
    numbers = [*known[0], *known[1]]
    if {len(values) for values in known} != {3} or not all(map(math.isfinite, numbers)):
        raise ValueError(f"`mean` and `std` must have a number for each of three channels, {got}")
    if min(known[1]) <= 0:
        raise ValueError(f"`std` must be above 0, {got}")
    if max(known[0]) > 1:
        raise ValueError(f"`mean` must be that of images in [0, 1], {got} Divide both by 255.")
    return known


def normalisation_of(transform: Any, channels: int = 3) -> Normalisation | None:
    """The mean and standard deviation that a transform, or one of its steps, normalises by.

    In terms of pixels in [0, 1]. ``None`` if it does not normalise, does so twice, or has no such
    attributes. One number stands for all ``channels``, unless the transform makes photos grey.

    Example:
        >>> from torchvision import transforms
        >>> steps = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.25,))]
        >>> normalisation_of(transforms.Compose(steps))
        ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    """
    steps = list(_steps(transform))
    pairs = [(_numbers(step, "mean"), _numbers(step, "std")) for step in steps]
    found = [(mean, std) for mean, std in pairs if mean and std]
    if len(found) != 1:
        return None
    mean, std = found[0]
    if any(getattr(step, "num_output_channels", None) == 1 for step in steps):
        channels = 1
    scale = 255 if max(mean) > 1 else 1  # where pixels are left in [0, 255]
    mean, std = (tuple(v / scale for v in values) for values in (mean, std))
    return mean * channels if len(mean) == 1 else mean, std * channels if len(std) == 1 else std


def _steps(transform: Any) -> Iterator[Any]:
    """What a transform is composed of, at any depth; itself if it is of one piece."""
    of_steps = isinstance(transform, nn.Sequential)
    inner = transform if of_steps else getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple | nn.Sequential | nn.ModuleList):
        for step in inner:
            yield from _steps(step)
    else:
        yield transform


def _numbers(step: Any, name: str) -> tuple[float, ...] | None:
    """An attribute that torchvision keeps as it was given: a list, an array, a tensor, a number."""
    value = getattr(step, name, None)
    if not isinstance(value, list | tuple | np.ndarray | Tensor | float | int):
        return None
    try:
        return tuple(torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
    except (TypeError, ValueError):
        return None


def _cut(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Bring the shorter side to a little over ``size`` and cut the middle out."""
    # Here, because torchvision takes a second to import and most probes are no files.
    from torchvision.transforms import functional

    resize, crop = _sides(size)
    longest = _LONGEST * min(image.size)
    if max(image.size) > longest:  # a strip would be as long as memory when resized
        width, height = (min(side, longest) for side in image.size)
        image = functional.center_crop(image, [height, width])
    cut: Image.Image = functional.center_crop(functional.resize(image, [resize]), [crop, crop])
    return cut


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Pixels a side to resize to and to crop to."""
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(type(side) is int for side in sides):
        raise TypeError(f"`size` must be an int, or two to resize and to crop to, got {size!r}.")
    resize, crop = sides
    if not isinstance(size, tuple | list):
        resize = round(crop * _RESIZE_OVER_CROP)
    if not 1 <= crop <= resize:
        raise ValueError(f"`size` must be at least 1, and the crop within the rest, got {size}.")
    return resize, crop


def _transformed(photo: Image.Image, transform: Callable[[Any], Any]) -> Tensor:
    # `weights.transforms` is such a partial; called with a photo it tells nothing of the matter.
    uncalled = isinstance(transform, partial) and isinstance(transform.func, type)
    if uncalled or not callable(transform):
        raise TypeError(
            f"`transform` must be callable with a photo, got {transform!r}. With torchvision's "
            "weights it is `weights.transforms()`."
        )
    with random_streams_kept(_SEED):
        made = transform(photo)
    if not isinstance(made, Tensor) or made.ndim != 3 or not made.is_floating_point():
        kind = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made)
        raise TypeError(
            f"`transform` must turn a photo into a floating-point tensor (C, H, W), got {kind}. "
            "`weights.transforms()` of torchvision does, and so does `transforms.ToTensor()`."
        )
    return made.as_subclass(Tensor)
