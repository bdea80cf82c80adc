"""Photos and masks from files, upright, as a person sees them."""

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

MAX_PIXELS = 50_000_000  # of a photo: 150 MB in RGB
SUFFIXES = (
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".avif", ".ppm", ".pgm"),
)
INSIDE = 127  # a grey or an opacity above this is inside a mask
_COLOURED = 64  # further apart than a JPEG brings the channels of a grey pixel
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
    return inside.point(lambda value: 255 * (value > INSIDE)).convert("1")


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
    return alpha if np.asarray(alpha).min() <= INSIDE else None


def _brightness(path: Path, mask: Image.Image) -> Image.Image:
    """How bright each pixel is, where that can mean inside and outside."""
    if int(np.ptp(np.asarray(mask), axis=2).max()) > _COLOURED:
        raise ValueError(
            f"{path} must be white inside the region and black outside, or transparent there, got "
            "colours. Save one region a file."
        )
    grey = mask.convert("L")
    brightest = int(np.asarray(grey).max())
    if 0 < brightest <= INSIDE:
        raise ValueError(
            f"{path} must be white inside the region, got nothing brighter than {brightest} of "
            "255. Save `mask * 255` where it is of zeros and ones."
        )
    return grey
