"""Photos and masks from files, upright and in the geometry that a model expects."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn

from lightning_saliency.isolation import random_streams_kept

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std

# What torchvision's and timm's weights for ImageNet were trained with.
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

MAX_PIXELS = 50_000_000  # of a photo: 150 MB in RGB
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".avif", ".ppm", ".pgm"),
)
_RESIZE_OVER_CROP = 256 / 224  # the margin that ImageNet's models are validated with
_INSIDE = 127  # a grey or an opacity above this is inside a mask
_COLOURED = 64  # further apart than a JPEG brings the channels of a grey pixel
_LONGEST = 4  # times the shorter side: more of a panorama never reaches the square in its middle
_SEED = 0  # of random transforms: a photo and its mask are cut alike
_PROGRAMS = ("EPS", "WMF")  # formats that Pillow reads by running what is in the file


def read_photo(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, mode: Literal["RGB", "L"] = "RGB"
) -> Image.Image:
    """Read a photo as a person sees it: upright, RGB, 8 bits; of an animation the first frame.

    Transparency is laid on white; 16-bit greys are scaled to 8 bits, floating-point ones from
    [0, 1] or, where a value is above 1, from [0, 255]. Colour profiles are left aside, as they are
    in training.

    Args:
        path: A file of any format that Pillow reads, except those that are programs.
        max_pixels: Told from the header, before anything is decoded.
        mode: ``"L"`` for a grey photo.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not an image, a damaged one, or one of more than ``max_pixels``.
    """
    path = Path(path)
    photo = _decoded(path, max_pixels)
    with _readable(path, max_pixels):
        return _as_rgb(photo).convert(mode)


def read_mask(path: str | Path, photo: Image.Image) -> Image.Image:
    """Read a region of ``photo``, as large as it is upright: mode ``"1"``, true inside.

    Inside is where the mask is opaque, if it is transparent anywhere, else where it is brighter
    than mid grey. Like a photo, a mask is turned by an orientation in its own EXIF, so it fits if a
    viewer shows the two alike.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not an image, of another size than the photo, or neither black and white nor
            transparent.
    """
    path, limit = Path(path), max(MAX_PIXELS, math.prod(photo.size))
    mask = _decoded(path, limit)
    if mask.size != photo.size:
        lying = mask.size == photo.size[::-1]
        turn = "Turn the mask upright as EXIF does the photo." if lying else ""
        raise ValueError(
            f"{path} must be as large as its photo when upright, {photo.size}, got {mask.size}. "
            f"{turn or 'Draw masks in the pixels of the photo.'}"
        )
    with _readable(path, limit):
        opacity = _opacity(mask)
        colours = _as_rgb(mask)
    inside = _brightness(path, colours) if opacity is None else opacity
    return inside.point(lambda value: 255 * (value > _INSIDE)).convert("1")


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
        return torch.from_numpy(np.asarray(_cut(mask.convert("L"), size)) > _INSIDE)
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


def normalisation_of(transform: Any) -> Normalisation | None:
    """What a transform normalises photos by, in itself or in what it is composed of.

    In terms of pixels in [0, 1]. ``None`` where it does not, does so twice, or does not tell. One
    number stands for all three channels, unless the transform makes photos grey.

    Example:
        >>> from torchvision import transforms
        >>> steps = [transforms.ToTensor(), transforms.Normalize((0.5,), (0.25,))]
        >>> normalisation_of(transforms.Compose(steps))
        ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    """
    steps = list(_steps(transform))
    told = [(_numbers(step, "mean"), _numbers(step, "std")) for step in steps]
    found = [(mean, std) for mean, std in told if mean and std]
    if len(found) != 1:
        return None
    mean, std = found[0]
    grey = any(getattr(step, "num_output_channels", None) == 1 for step in steps)
    channels = 1 if grey else 3
    scale = 255 if max(mean) > 1 else 1  # where pixels are left in [0, 255]
    mean, std = (tuple(v / scale for v in values) for values in (mean, std))
    return mean * channels if len(mean) == 1 else mean, std * channels if len(std) == 1 else std


def list_photos(root: str | Path) -> tuple[list[Path], list[int], list[str]]:
    """The photos under ``root``, one folder a class: paths, labels and class names.

    Classes are in the order of torchvision's ``ImageFolder``, so that labels agree; photos of a
    class in the order that a person counts in: ``2.png`` before ``10.png``.

    Raises:
        ValueError: No folders, or no photos in one of them.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; it must hold one folder a class.")
    visible = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    folders = sorted(visible, key=lambda folder: folder.name)
    if not folders:
        raise ValueError(
            f"{root} holds no folders; it must hold one a class, with photos in it. "
            "`ProbeBatch.from_files` takes photos without classes."
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted((p for p in folder.iterdir() if _is_photo(p)), key=_as_counted)
        if not found:
            raise ValueError(
                f"{folder} holds no photos ({', '.join(SUFFIXES)}). Put photos in it, or remove it."
            )
        paths += found
        labels += [label] * len(found)
    return paths, labels, [folder.name for folder in folders]


def mask_of(photo: Path, root: str | Path, masks: str | Path) -> Path:
    """The mask of a photo under ``root``: the file of its name, with any suffix, under ``masks``.

    Raises:
        FileNotFoundError: There is none.
        ValueError: There are several.
    """
    folder = Path(masks, photo.parent.relative_to(root))
    found = sorted(p for p in folder.glob("*") if p.stem == photo.stem and _is_photo(p))
    if not found:
        raise FileNotFoundError(
            f"no mask for {photo}: there is no {folder / photo.stem}.*. Each photo needs one, in "
            "the same layout; all black where there is nothing to mark."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} must hold one mask for {photo}, got {names}. Keep one.")
    return found[0]


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _as_counted(path: Path) -> tuple[list[tuple[float, str]], str]:
    """A key that sorts the numbers in names as numbers."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", path.stem)
    # Numbers before letters, as everywhere; names that count alike by what they are.
    return [(int(n) if n else math.inf, text.casefold()) for n, text in parts], path.name


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


def _decoded(path: Path, max_pixels: int) -> Image.Image:
    """An image file upright, with 8 bits a channel."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass the photos in it, or use `from_folder`.")
    if not path.is_file():
        raise FileNotFoundError(f"no photo at {path}. Relative paths start at {Path.cwd()}.")
    with _readable(path, max_pixels):
        Image.init()
        image = Image.open(path, formats=[name for name in Image.ID if name not in _PROGRAMS])
    with image:
        if math.prod(image.size) > max_pixels:
            raise ValueError(_too_large(path, max_pixels, "{}×{}".format(*image.size)))
        with _readable(path, max_pixels):
            upright = ImageOps.exif_transpose(image)
    return _in_8_bits(path, upright) if upright.mode.startswith(("I", "F")) else upright


@contextmanager
def _readable(path: Path, max_pixels: int) -> Iterator[None]:
    """No warnings from Pillow; and what it raises, which may be anything, is one clear error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        # Pillow's limit comes first. As a setting of the whole process it is not touched.
        limit = 2 * (Image.MAX_IMAGE_PIXELS or max_pixels)
        if max_pixels <= limit:
            raise ValueError(_too_large(path, max_pixels, "too many")) from error
        raise ValueError(
            f"{path} has more than {limit:,} pixels, which is Pillow's own limit. Scale it down, "
            "or raise `PIL.Image.MAX_IMAGE_PIXELS`."
        ) from error
    except Exception as error:
        what: object = error
        if isinstance(error, UnidentifiedImageError):
            what = "its format is unknown" if path.stat().st_size else "it is empty"
        raise ValueError(
            f"{path} is not a readable image: {what}. Open it in a viewer and save it anew, as "
            "JPEG or PNG."
        ) from error


def _too_large(path: Path, limit: int, pixels: str) -> str:
    return (
        f"{path} has {pixels} pixels, more than {limit:,}. Scale it down first, in any viewer: a "
        "model looks at a few hundred a side. Or let `read_photo` have more with `max_pixels`."
    )


def _in_8_bits(path: Path, image: Image.Image) -> Image.Image:
    """Deep greys: Pillow's own conversion clips at 255 and turns such a photo white."""
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    deepest = 65535 if image.mode.startswith("I") else 255 if high > 1 else 1
    if not (low >= 0 and high <= deepest):  # so that NaN is refused too
        raise ValueError(
            f"{path} must have values from 0 to {deepest}, got {low:g} to {high:g}. Save it with 8 "
            "or 16 bits."
        )
    grey = Image.fromarray((values * (255 / deepest)).round().astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # one grey that stands for nothing
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _may_be_transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or "a" in "".join(image.getbands()).lower()


def _as_rgb(image: Image.Image) -> Image.Image:
    if not _may_be_transparent(image):
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")


def _opacity(mask: Image.Image) -> Image.Image | None:
    """How opaque each pixel is, unless all are: then the channel is there and says nothing."""
    if not _may_be_transparent(mask):
        return None
    alpha = mask.convert("RGBA").getchannel("A")
    return alpha if np.asarray(alpha).min() <= _INSIDE else None


def _brightness(path: Path, mask: Image.Image) -> Image.Image:
    """How bright each pixel is, where that can mean inside and outside."""
    if int(np.ptp(np.asarray(mask), axis=2).max()) > _COLOURED:
        raise ValueError(
            f"{path} must be white inside the region and black outside, or transparent there, got "
            "colours. Save one region a file."
        )
    grey = mask.convert("L")
    brightest = int(np.asarray(grey).max())
    if 0 < brightest <= _INSIDE:
        raise ValueError(
            f"{path} must be white inside the region, got nothing brighter than {brightest} of "
            "255. Save `mask * 255` where it is of zeros and ones."
        )
    return grey


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
