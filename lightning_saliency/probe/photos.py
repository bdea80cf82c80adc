"""Read photos and masks from files as a viewer shows them, upright and in 8 bits."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 50_000_000  # per photo: 150 MB in RGB
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".avif", ".ppm", ".pgm"),
)
INSIDE = 127  # a grey value or opacity above this is inside a mask
_COLOURED = 64  # JPEG compression separates the channels of a grey pixel by less than this
_PROGRAMS = ("EPS", "WMF")  # formats that Pillow reads by executing the file


def read_photo(
    path: str | Path, *, max_pixels: int = MAX_PIXELS, mode: Literal["RGB", "L"] = "RGB"
) -> Image.Image:
    """Read a photo as a viewer shows it: upright, in RGB with 8 bits per channel.

    Only the first frame of an animation is read. Transparent pixels are blended with white. 16-bit
    greys are scaled to 8 bits. Floating-point greys are scaled from [0, 1], or from [0, 255] if any
    value is above 1. Colour profiles are ignored, as they are in training.

    Args:
        path: A file in any format that Pillow reads, except formats that are programs (EPS, WMF).
        max_pixels: The largest photo to read. The size is known from the header, before decoding.
        mode: ``"L"`` converts the photo to grey.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an image, is damaged, or has more than ``max_pixels`` pixels.
    """
    path = Path(path)
    photo = _decode(path, max_pixels)
    with _pillow_errors(path, max_pixels):
        return _to_rgb(photo).convert(mode)


def read_mask(path: str | Path, photo: Image.Image) -> Image.Image:
    """Read the mask of a region of ``photo``.

    If any pixel of the mask is transparent, the region is where the mask is opaque; otherwise it is
    where the mask is brighter than mid grey. Like a photo, a mask is turned by the orientation in
    its own EXIF data, so the two fit if a viewer shows them alike.

    Args:
        path: An image file of the size of the photo.
        photo: Upright, as :func:`read_photo` returns it.

    Returns:
        An image of mode ``"1"`` with the size of ``photo``, true inside the region.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an image, differs in size from the photo, or is neither black
            and white nor transparent.
    """
    path, limit = Path(path), max(MAX_PIXELS, math.prod(photo.size))
    mask = _decode(path, limit)
    if mask.size != photo.size:
        remedy = "Draw the mask at the size of the photo."
        if mask.size == photo.size[::-1]:
            remedy = "Rotate the mask as the EXIF data rotate the photo."
        raise ValueError(
            f"{path} must have the size of its upright photo, {photo.size}, got {mask.size}. "
            f"{remedy}"
        )
    with _pillow_errors(path, limit):
        opacity = _find_opacity(mask)
        colours = _to_rgb(mask)
    inside = _find_brightness(path, colours) if opacity is None else opacity
    return inside.point(lambda value: 255 * (value > INSIDE)).convert("1")


def list_photos(root: str | Path) -> tuple[list[Path], list[int], list[str]]:
    """List the photos under ``root``, which holds one folder per class.

    Classes are in the order of torchvision's ``ImageFolder``, so that labels agree. The photos of
    a class are in natural order: ``2.png`` comes before ``10.png``.

    Returns:
        The path of each photo, the label of each photo, and the name of each class.

    Raises:
        ValueError: ``root`` holds no folders, or one of them holds no photos.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder; it must hold one folder per class.")
    visible = [p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".")]
    folders = sorted(visible, key=lambda folder: folder.name)
    if not folders:
        raise ValueError(
            f"{root} holds no folders; it must hold one per class, with photos in it. "
            "`ProbeBatch.from_files` takes photos without classes."
        )
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = sorted((p for p in folder.iterdir() if _is_photo(p)), key=_natural_key)
        if not found:
            raise ValueError(
                f"{folder} holds no photos ({', '.join(SUFFIXES)}). Put photos in it, or remove it."
            )
        paths += found
        labels += [label] * len(found)
    return paths, labels, [folder.name for folder in folders]


def find_mask(photo: Path, root: str | Path, masks: str | Path) -> Path:
    """Find the mask of a photo: the file of the same name, with any suffix, under ``masks``.

    Args:
        photo: A photo under ``root``.
        root: The folder of the photos.
        masks: A folder with the same layout as ``root``.

    Raises:
        FileNotFoundError: The photo has no mask.
        ValueError: The photo has several masks.
    """
    folder = Path(masks, photo.parent.relative_to(root))
    found = sorted(p for p in folder.glob("*") if p.stem == photo.stem and _is_photo(p))
    if not found:
        raise FileNotFoundError(
            f"no mask for {photo}: there is no {folder / photo.stem}.*. Each photo needs one, in "
            "the same layout; make it all black if there is nothing to mark."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} must hold one mask for {photo}, got {names}. Keep one.")
    return found[0]


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural_key(path: Path) -> tuple[list[tuple[float, str]], str]:
    """A sort key that compares the numbers in file names as numbers."""
    parts = re.findall(r"([0-9]+)|([^0-9]+)", path.stem)
    # Numbers sort before letters. The name itself decides between names that are otherwise equal,
    # such as "1.png" and "01.png".
    return [(int(n) if n else math.inf, text.casefold()) for n, text in parts], path.name


def _decode(path: Path, max_pixels: int) -> Image.Image:
    """Decode an image file, turned upright and with 8 bits per channel."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; pass the photos in it, or use `from_folder`.")
    if not path.is_file():
        raise FileNotFoundError(f"no photo at {path}. Relative paths start at {Path.cwd()}.")
    with _pillow_errors(path, max_pixels):
        Image.init()
        image = Image.open(path, formats=[name for name in Image.ID if name not in _PROGRAMS])
    with image:
        if math.prod(image.size) > max_pixels:
            raise ValueError(_too_large(path, max_pixels, "{}×{}".format(*image.size)))
        with _pillow_errors(path, max_pixels):
            upright = ImageOps.exif_transpose(image)
    return _to_8_bits(path, upright) if upright.mode.startswith(("I", "F")) else upright


@contextmanager
def _pillow_errors(path: Path, max_pixels: int) -> Iterator[None]:
    """Silence Pillow's warnings, and turn its errors, of any type, into one that names the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (MemoryError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        # Pillow checks its own limit first. It is a setting of the process, so it stays as it is.
        limit = 2 * (Image.MAX_IMAGE_PIXELS or max_pixels)
        if max_pixels <= limit:
            raise ValueError(_too_large(path, max_pixels, "too many")) from error
        raise ValueError(
            f"{path} has more than {limit:,} pixels, which is Pillow's own limit. Scale it down, "
            "or raise `PIL.Image.MAX_IMAGE_PIXELS`."
        ) from error
    except Exception as error:
        reason: object = error
        if isinstance(error, UnidentifiedImageError):
            reason = "its format is unknown" if path.stat().st_size else "it is empty"
        raise ValueError(
            f"{path} is not a readable image: {reason}. Open it in a viewer and save it again as "
            "JPEG or PNG."
        ) from error


def _too_large(path: Path, limit: int, pixels: str) -> str:
    return (
        f"{path} has {pixels} pixels, more than {limit:,}. Scale it down first, in any viewer: a "
        "model sees a few hundred pixels per side. Or raise the limit with `max_pixels` of "
        "`read_photo`."
    )


def _to_8_bits(path: Path, image: Image.Image) -> Image.Image:
    """Scale greys of 16 bits or floating point to 8 bits.

    Pillow's own conversion clips them at 255, which turns most of these photos white.
    """
    values = np.asarray(image, dtype=np.float32)
    low, high = float(values.min()), float(values.max())
    deepest = 65535 if image.mode.startswith("I") else 255 if high > 1 else 1
    if not (low >= 0 and high <= deepest):  # Written so that NaN is refused too.
        raise ValueError(
            f"{path} must have values from 0 to {deepest}, got {low:g} to {high:g}. Save it with 8 "
            "or 16 bits."
        )
    grey = Image.fromarray((values * (255 / deepest)).round().astype(np.uint8))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # The file declares one grey value to be transparent.
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _may_be_transparent(image: Image.Image) -> bool:
    return "transparency" in image.info or "a" in "".join(image.getbands()).lower()


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB, with transparent pixels blended with white."""
    if not _may_be_transparent(image):
        return image.convert("RGB")
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")


def _find_opacity(mask: Image.Image) -> Image.Image | None:
    """Return the opacity of each pixel; ``None`` if all are opaque, so that it marks no region."""
    if not _may_be_transparent(mask):
        return None
    alpha = mask.convert("RGBA").getchannel("A")
    return alpha if np.asarray(alpha).min() <= INSIDE else None


def _find_brightness(path: Path, mask: Image.Image) -> Image.Image:
    """Return the brightness of each pixel.

    Raises:
        ValueError: The mask has colours, or its brightest pixel would count as outside.
    """
    if int(np.ptp(np.asarray(mask), axis=2).max()) > _COLOURED:
        raise ValueError(
            f"{path} must be white inside the region and black outside, or transparent there, got "
            "colours. Save each region to its own file."
        )
    grey = mask.convert("L")
    brightest = int(np.asarray(grey).max())
    if 0 < brightest <= INSIDE:
        raise ValueError(
            f"{path} must be white inside the region, got nothing brighter than {brightest} of "
            "255. If the mask holds zeros and ones, save `mask * 255`."
        )
    return grey
