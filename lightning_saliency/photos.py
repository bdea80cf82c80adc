"""Photos and masks from files, upright and in the geometry that a model expects."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

Normalisation: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]  # mean, std

# What torchvision's and timm's weights for ImageNet were trained with.
IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

MAX_PIXELS = 50_000_000  # of a photo: more than any camera's, less than fills a machine's memory
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp")
_RESIZE_OVER_CROP = 256 / 224  # the margin that ImageNet's models are validated with
_INSIDE = 127  # a grey or an opacity above this is inside a mask


def read_photo(path: str | Path, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a photo as a person sees it: upright, RGB, 8 bits; of an animation the first frame.

    Transparency is laid on white; 16-bit greys are scaled to 8 bits.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not an image, a damaged one, or one of more than ``max_pixels``, which is told
            from its header before anything is decoded.
    """
    with _opened(Path(path), max_pixels) as image:
        upright = ImageOps.exif_transpose(image)
        return _as_rgb(upright)


def read_mask(path: str | Path, photo: Image.Image) -> Image.Image:
    """Read a region of ``photo``, as large as it is upright: mode ``"1"``, true inside.

    Inside is where the mask is opaque, if it has transparency, else where it is brighter than mid
    grey.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not an image, or of another size than the photo.
    """
    with _opened(Path(path), MAX_PIXELS) as image:
        if image.size != photo.size:
            raise ValueError(
                f"{path} must be as large as its photo when upright, {photo.size}, got "
                f"{image.size}. Draw masks in the photo's own pixels."
            )
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        grey = image.convert("RGBA").getchannel("A") if has_alpha else _as_rgb(image).convert("L")
        return grey.point(lambda value: 255 * (value > _INSIDE)).convert("1")


def to_tensor(
    photo: Image.Image,
    size: int = 224,
    *,
    transform: Callable[[Any], Any] | None = None,
    mean: str | Sequence[float] | None = "imagenet",
    std: str | Sequence[float] | None = "imagenet",
) -> Tensor:
    """A photo as a model expects it.

    Args:
        photo: RGB.
        size: Pixels a side of the square cut from the middle, after the shorter side was brought
            to 256/224 of it, as ImageNet's models are validated.
        transform: In place of all that: a callable from a photo to a tensor, such as
            ``ResNet18_Weights.DEFAULT.transforms()``.
        mean: Per channel, with ``std``; ``"imagenet"``; ``None`` leaves values in [0, 1].
        std: See ``mean``.

    Returns:
        ``(3, H, W)`` float32.

    Raises:
        TypeError: ``transform`` does not give such a tensor.
        ValueError: ``mean`` and ``std`` that do not fit.
    """
    if transform is not None:
        made = transform(photo)
        if not isinstance(made, Tensor) or made.ndim != 3 or not made.is_floating_point():
            raise TypeError(
                "`transform` must turn a photo into a floating-point tensor (C, H, W), got "
                f"{tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__}. "
                "`weights.transforms()` of torchvision does."
            )
        return made
    pixels = torch.from_numpy(np.asarray(_cut(photo, size), dtype=np.float32) / 255)
    tensor = pixels.permute(2, 0, 1).contiguous()
    known = normalisation(mean, std)
    if known is None:
        return tensor
    return (tensor - torch.tensor(known[0]).view(3, 1, 1)) / torch.tensor(known[1]).view(3, 1, 1)


def mask_to_tensor(
    mask: Image.Image, size: int, *, transform: Callable[[Any], Any] | None = None
) -> Tensor:
    """A mask in the geometry of :func:`to_tensor`: bool ``(H, W)``.

    Through a ``transform`` the mask goes as a white shape on black, and is inside where it comes
    out brighter than half way between the two.
    """
    if transform is None:
        return torch.from_numpy(np.asarray(_cut(mask.convert("L"), size)) > _INSIDE)
    shape = to_tensor(mask.convert("RGB"), transform=transform)[0]
    black, white = (
        float(to_tensor(Image.new("RGB", mask.size, colour), transform=transform)[0].median())
        for colour in ("black", "white")
    )
    return shape > (black + white) / 2


def normalisation(
    mean: str | Sequence[float] | None, std: str | Sequence[float] | None
) -> Normalisation | None:
    """``mean`` and ``std`` per channel, by name or number; ``None`` where images are as they are.

    Raises:
        ValueError: An unknown name, one without the other, or not three of each.

    Example:
        >>> normalisation("imagenet", "imagenet")[0]
        (0.485, 0.456, 0.406)
    """
    if mean is None and std is None:
        return None
    if isinstance(mean, str) or isinstance(std, str):
        if mean == std == "imagenet":
            return IMAGENET
        raise ValueError(
            f"`mean` and `std` must both be 'imagenet', numbers or None, got {mean!r} and {std!r}."
        )
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ValueError(
            "`mean` and `std` must have a number for each of three channels, `std` above 0, got "
            f"{mean!r} and {std!r}."
        )
    return tuple(map(float, mean)), tuple(map(float, std))


def normalisation_of(transform: Any) -> Normalisation | None:
    """What a transform normalises by, in itself or in what it is composed of; else ``None``."""
    inner = getattr(transform, "transforms", None)
    if isinstance(inner, list | tuple):
        return next((n for t in inner if (n := normalisation_of(t)) is not None), None)
    mean, std = getattr(transform, "mean", None), getattr(transform, "std", None)
    if isinstance(mean, list | tuple) and isinstance(std, list | tuple):
        return tuple(map(float, mean)), tuple(map(float, std))
    return None


def list_photos(root: str | Path) -> tuple[list[Path], list[int], list[str]]:
    """The photos under ``root``, one folder a class: paths, labels and class names, in order.

    Raises:
        ValueError: No folders, or no photos in one of them.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; it must hold one folder a class.")
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not folders:
        raise ValueError(f"{root} holds no folders; it must hold one a class, with photos in it.")
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted(p for p in folder.iterdir() if _is_photo(p))
        if not found:
            raise ValueError(f"{folder} holds no photos ({', '.join(SUFFIXES)}).")
        paths += found
        labels += [label] * len(found)
    return paths, labels, [folder.name for folder in folders]


def mask_of(photo: Path, root: str | Path, masks: str | Path) -> Path:
    """The mask of a photo under ``root``: the file of its name, with any suffix, under ``masks``.

    Raises:
        FileNotFoundError: There is none.
    """
    folder = Path(masks, photo.parent.relative_to(root))
    found = sorted(p for p in folder.glob("*") if p.stem == photo.stem and _is_photo(p))
    if not found:
        raise FileNotFoundError(f"no mask for {photo}: there is no {folder / photo.stem}.*")
    return found[0]


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


@contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    """A decoded image file; whatever is wrong with it is one clear error."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass the photos in it, or use `from_folder`.")
    if not path.exists():
        raise FileNotFoundError(f"no photo at {path}")
    try:
        with warnings.catch_warnings():
            # Pillow's own limit warns and raises at sizes of its own; ours comes before it.
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                _check_pixels(path, image.size, max_pixels)
                image.load()
                yield image
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} is not a readable image: {error}. Open it in a viewer, or save it anew."
        ) from error


def _check_pixels(path: Path, size: tuple[int, int], limit: int) -> None:
    if size[0] * size[1] > limit:
        raise ValueError(
            f"{path} has {size[0]}×{size[1]} pixels, more than {limit:,}. Scale it down first: a "
            "model looks at a few hundred a side."
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _in_8_bits(image).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        paper = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _in_8_bits(image: Image.Image) -> Image.Image:
    """Deep greys: Pillow's own conversion clips at 255 and turns such a photo white."""
    values = np.asarray(image, dtype=np.float64)
    deepest = 65535.0 if image.mode.startswith("I") else max(float(values.max()), 1e-12)
    return Image.fromarray((values / deepest * 255).clip(0, 255).round().astype(np.uint8))


def _cut(image: Image.Image, size: int) -> Image.Image:
    """Bring the shorter side to a little over ``size`` and cut the middle out."""
    # Here, because torchvision takes a second to import and most probes are no files.
    from torchvision.transforms import functional

    if size < 1:
        raise ValueError(f"`size` must be at least 1, got {size}.")
    resized = functional.resize(image, [round(size * _RESIZE_OVER_CROP)])
    cut: Image.Image = functional.center_crop(resized, [size, size])
    return cut
