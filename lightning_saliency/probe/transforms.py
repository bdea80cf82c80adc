"""Bring photos and masks to the size and normalisation that a model expects."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.isolation.rng import random_streams_kept
from lightning_saliency.probe.photos import INSIDE

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std

# The normalisation that torchvision's and timm's ImageNet weights were trained with.
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

_RESIZE_OVER_CROP = 256 / 224  # the margin that ImageNet models are validated with
_LONGEST = 4  # times the shorter side; the rest of a panorama never reaches the central square
_FARTHEST = 1  # that pixels may lie outside [0, 1] on average; standard noise lies at 0.5
_SEED = 0  # seeds random transforms, so that a photo and its mask are cropped alike


def to_tensor(
    photo: Image.Image,
    size: int | tuple[int, int] = 224,
    *,
    transform: Callable[[Any], Any] | None = None,
    mean: str | Sequence[float] | None = "imagenet",
    std: str | Sequence[float] | None = "imagenet",
) -> Tensor:
    """Turn a photo into a tensor as a model expects it.

    Args:
        photo: Upright, as :func:`read_photo` returns it.
        size: The side in pixels of the square cut from the middle. The shorter side is first
            resized to 256/224 of it, as ImageNet models are validated. A pair such as
            ``(232, 224)`` gives both the resized side and the crop.
        transform: Replaces all other arguments: a function from a photo to a tensor, such as
            ``weights.transforms()``. Random transforms are drawn from a fixed seed.
        mean: One value per channel, or ``"imagenet"``. ``None``, for ``std`` too, leaves values in
            [0, 1].
        std: See ``mean``.

    Returns:
        ``(3, H, W)`` float32; or ``(C, H, W)``, the result of ``transform``.

    Raises:
        TypeError: ``transform`` does not return such a tensor, or an argument has the wrong type.
        ValueError: ``size``, ``mean`` or ``std`` is out of range.

    Example:
        >>> grey = Image.new("RGB", (40, 30), (51, 51, 51))
        >>> to_tensor(grey, 2, mean=None, std=None)[0]
        tensor([[0.2000, 0.2000],
                [0.2000, 0.2000]])
    """
    if transform is not None:
        return _apply_transform(photo, transform)
    known = normalisation(mean, std)
    cut = _resize_and_crop(photo.convert("RGB"), size)
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
    """Resize and crop a mask as :func:`to_tensor` does its photo.

    A ``transform`` is given the mask as a white shape on black. A pixel is inside if it comes out
    nearer to that of a white photo than to that of a black one. Padding is equally far from both,
    so it is outside.

    Returns:
        Bool ``(H, W)``, true if most of the pixel is inside the mask.

    Example:
        >>> mask = Image.new("1", (40, 30))
        >>> mask.paste(1, (20, 0, 40, 30))  # the right half
        >>> mask_to_tensor(mask, 2)
        tensor([[False,  True],
                [False,  True]])
    """
    if transform is None:
        return torch.from_numpy(np.asarray(_resize_and_crop(mask.convert("L"), size)) > INSIDE)
    shape, black, white = (
        _apply_transform(picture, transform)
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
    """Resolve ``mean`` and ``std``, given by name or as numbers, to one value per channel.

    Returns:
        The mean and standard deviation, or ``None`` if images are not normalised.

    Raises:
        TypeError: The values are not numbers.
        ValueError: A name is unknown, one of the two is missing, there are not three finite values
            of each, or they are for images in [0, 255].

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
            f"`mean` and `std` must both be 'imagenet', numbers or None, {got} For another "
            "dataset, look in its training code; None leaves values in [0, 1]."
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
        raise ValueError(f"`mean` must be for images in [0, 1], {got} Divide both by 255.")
    return known


def to_original_colours(
    images: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Tensor:
    """Undo a normalisation, as far as it is known, for display.

    Args:
        images: ``(N, C, H, W)``, floating point.
        mean: One value per channel. Without it, images within [0, 1] are returned as they are; if
            any value lies outside, each image is scaled from its lowest to its highest value.
        std: See ``mean``.

    Returns:
        ``(N, C, H, W)`` in [0, 1].

    Warns:
        SaliencyWarning: ``mean`` and ``std`` leave hardly anything to be seen.
    """
    if mean is not None and std is not None:
        shape = (1, -1, 1, 1)
        images = images * torch.tensor(std).view(shape)
        restored = images + torch.tensor(mean).view(shape)
        _warn_if_clipped(restored)
        return restored.clamp(0, 1)
    low = images.amin(dim=(1, 2, 3), keepdim=True)
    high = images.amax(dim=(1, 2, 3), keepdim=True)
    if low.min() >= 0 and high.max() <= 1:
        return images
    return (images - low) / (high - low).clamp(min=1e-12)


def _warn_if_clipped(restored: Tensor) -> None:
    """Warn if restored images lie so far outside [0, 1] that they must be in other units."""
    # The number of such pixels would not do: a black background is restored to 0 in any unit. Nor
    # would the largest one, as noise or a bright spot may lie far outside without any harm.
    if float((restored - restored.clamp(0, 1)).abs().double().mean()) > _FARTHEST:
        low, high = float(restored.min()), float(restored.max())
        warnings.warn(
            f"`mean` and `std` restore pixels from {low:.3g} to {high:.3g}, not from 0 to 1, so "
            "the photos are drawn mostly black or white. Both must be for images in [0, 1]: divide "
            "those for images in [0, 255] by 255, such as `mean=[123 / 255]`. If the images are "
            "not normalised, leave both out.",
            SaliencyWarning,
            stacklevel=4,  # the call of `ProbeBatch.displayed`
        )


def find_normalisation(transform: Any, channels: int = 3) -> Normalisation | None:
    """Find the mean and standard deviation that a transform, or one of its steps, normalises with.

    Args:
        transform: Any object; only its attributes are read.
        channels: How often to repeat a single number, unless the transform makes photos grey.

    Returns:
        The mean and standard deviation of each channel, for pixels in [0, 1]. ``None`` if the
        transform does not normalise, does so more than once, or does not show how.

    Example:
        >>> from torchvision import transforms
        >>> steps = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.25,))]
        >>> find_normalisation(transforms.Compose(steps))
        ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    """
    steps = list(_iterate_steps(transform))
    pairs = [(_read_numbers(step, "mean"), _read_numbers(step, "std")) for step in steps]
    found = [(mean, std) for mean, std in pairs if mean and std]
    if len(found) != 1:
        return None
    mean, std = found[0]
    if any(getattr(step, "num_output_channels", None) == 1 for step in steps):
        channels = 1
    scale = 255 if max(mean) > 1 else 1  # 255 if the transform leaves pixels in [0, 255]
    mean, std = (tuple(v / scale for v in values) for values in (mean, std))
    return mean * channels if len(mean) == 1 else mean, std * channels if len(std) == 1 else std


def _iterate_steps(transform: Any) -> Iterator[Any]:
    """Yield the steps of a composed transform, at any depth; else the transform itself."""
    sequential = isinstance(transform, nn.Sequential)
    inner = transform if sequential else getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple | nn.Sequential | nn.ModuleList):
        for step in inner:
            yield from _iterate_steps(step)
    else:
        yield transform


def _read_numbers(step: Any, name: str) -> tuple[float, ...] | None:
    """Read an attribute that torchvision stores as given: a list, array, tensor or number."""
    value = getattr(step, name, None)
    if not isinstance(value, list | tuple | np.ndarray | Tensor | float | int):
        return None
    try:
        return tuple(torch.as_tensor(value, dtype=torch.float64).flatten().tolist())
    except (TypeError, ValueError):
        return None


def _resize_and_crop(image: Image.Image, size: int | tuple[int, int]) -> Image.Image:
    """Resize the shorter side to a little over ``size`` and cut a square from the middle."""
    # Torchvision takes a second to import, and most probes are not read from files.
    from torchvision.transforms import functional

    resize, crop = _parse_size(size)
    longest = _LONGEST * min(image.size)
    # A long, thin strip would fill the memory when its short side is enlarged.
    if max(image.size) > longest:
        width, height = (min(side, longest) for side in image.size)
        image = functional.center_crop(image, [height, width])
    cut: Image.Image = functional.center_crop(functional.resize(image, [resize]), [crop, crop])
    return cut


def _parse_size(size: int | tuple[int, int]) -> tuple[int, int]:
    """The sides in pixels to resize to and to crop to."""
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(sides) != 2 or not all(type(side) is int for side in sides):
        raise TypeError(f"`size` must be an int, or a pair (resize, crop), got {size!r}.")
    resize, crop = sides
    if not isinstance(size, tuple | list):
        resize = round(crop * _RESIZE_OVER_CROP)
    if not 1 <= crop <= resize:
        raise ValueError(f"`size` must be at least 1, with resize no less than crop, got {size}.")
    return resize, crop


def _apply_transform(photo: Image.Image, transform: Callable[[Any], Any]) -> Tensor:
    # `weights.transforms`, without the call, is such a partial. It accepts a photo as if it were
    # an option and raises no error that would help.
    uncalled = isinstance(transform, partial) and isinstance(transform.func, type)
    if uncalled or not callable(transform):
        raise TypeError(
            f"`transform` must be callable with a photo, got {transform!r}. With torchvision's "
            "weights it is `weights.transforms()`."
        )
    with random_streams_kept(_SEED):
        image = transform(photo)
    if not isinstance(image, Tensor) or image.ndim != 3 or not image.is_floating_point():
        kind = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image)
        raise TypeError(
            f"`transform` must turn a photo into a floating-point tensor (C, H, W), got {kind}. "
            "`weights.transforms()` of torchvision does, and so does `transforms.ToTensor()`."
        )
    return image.as_subclass(Tensor)
