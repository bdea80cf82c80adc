"""Photos and masks: the model gets what a viewer shows, whatever the file, or there is an error."""

from __future__ import annotations

import io
import os
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image
from torch import Tensor, nn
from torchvision import transforms as v1
from torchvision.models import ResNet18_Weights
from torchvision.transforms import functional, v2

from lightning_saliency import ProbeBatch
from lightning_saliency.probe.photos import find_mask, list_photos, read_mask, read_photo
from lightning_saliency.probe.transforms import (
    IMAGENET,
    find_normalisation,
    mask_to_tensor,
    normalisation,
    to_tensor,
)

ORIENTATION = 0x0112
WHITE, RED, BLUE = (255, 255, 255), (255, 0, 0), (0, 0, 255)


@pytest.fixture(autouse=True)
def no_warnings() -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def skimage_photo(name: str) -> Path:
    skimage = pytest.importorskip("skimage")
    return Path(skimage.__file__).parent / "data" / f"{name}.png"


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def as_pillow_has_it(path: Path, name: str) -> object:
    with Image.open(path) as image:
        return getattr(image, name)


def colours(path: Path) -> set[tuple[int, ...]]:
    """The set of colours in a photo."""
    photo = read_photo(path)
    assert photo.mode == "RGB"
    return {tuple(pixel) for pixel in np.asarray(photo).reshape(-1, 3).tolist()}


# --- reading photos


@pytest.mark.parametrize("name", ["chelsea", "coffee", "astronaut"])
def test_a_real_photo_is_read_unchanged(name: str):
    path = skimage_photo(name)
    read = read_photo(path)
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), np.asarray(Image.open(path)))
    assert np.array_equal(np.asarray(read_photo(str(path))), np.asarray(read))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "gif", "ppm"])
def test_lossless_formats(tmp_path: Path, suffix: str):
    path = tmp_path / f"photo.{suffix}"
    pixels = noise(5, 7)
    pixels[..., 1:] = pixels[..., :1] if suffix == "gif" else pixels[..., 1:]  # 256 colours
    Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(np.asarray(read_photo(path)), pixels)


def test_a_jpeg_is_near_what_was_saved(tmp_path: Path):
    photo = Image.open(skimage_photo("coffee"))
    photo.save(tmp_path / "photo.jpg", quality=95)
    read = np.asarray(read_photo(tmp_path / "photo.jpg"), dtype=float)
    assert np.abs(read - np.asarray(photo, dtype=float)).mean() < 3


def test_grey_is_read_as_three_equal_channels_or_as_one(tmp_path: Path):
    grey = noise(4, 6)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    assert np.array_equal(np.asarray(read_photo(tmp_path / "grey.png")), np.dstack([grey] * 3))
    kept = read_photo(tmp_path / "grey.png", mode="L")
    assert kept.mode == "L"
    assert np.array_equal(np.asarray(kept), grey)


def test_one_bit_per_pixel(tmp_path: Path):
    Image.new("1", (2, 2), 1).save(tmp_path / "bits.png")
    assert colours(tmp_path / "bits.png") == {WHITE}


# The background is white: 255 · (1 - 0.2) + 100 · 0.2 = 224, and so on.
@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        pytest.param("RGBA", (100, 50, 0, 51), (224, 214, 204), id="rgba-a-fifth"),
        pytest.param("RGBA", (100, 50, 0, 255), (100, 50, 0), id="rgba-opaque"),
        pytest.param("RGBA", (100, 50, 0, 0), WHITE, id="rgba-clear"),
        pytest.param("LA", (100, 51), (224, 224, 224), id="la-a-fifth"),
    ],
)
def test_transparency_is_blended_with_white(
    tmp_path: Path, mode: str, colour: tuple[int, ...], expected: tuple[int, ...]
):
    Image.new(mode, (3, 2), colour).save(tmp_path / "photo.png")
    assert colours(tmp_path / "photo.png") == {expected}


@pytest.mark.parametrize(
    ("mode", "colours_saved", "transparent", "expected"),
    [
        pytest.param("L", (9, 200), 9, {WHITE, (200, 200, 200)}, id="grey"),
        pytest.param("RGB", (RED, BLUE), RED, {WHITE, BLUE}, id="rgb"),
        pytest.param("1", (0, 1), 1, {(0, 0, 0), WHITE}, id="one-bit"),
    ],
)
def test_a_transparent_colour_is_white(
    tmp_path: Path, mode: str, colours_saved: tuple, transparent: object, expected: set
):
    photo = Image.new(mode, (4, 2), colours_saved[0])
    photo.paste(colours_saved[1], (2, 0, 4, 2))
    photo.save(tmp_path / "photo.png", transparency=transparent)
    assert colours(tmp_path / "photo.png") == expected


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_with_transparency(tmp_path: Path, suffix: str):
    photo = Image.new("P", (4, 2), 0)
    photo.putpalette([*RED, *BLUE])
    photo.paste(1, (2, 0, 4, 2))
    photo.save(tmp_path / f"opaque.{suffix}")
    assert colours(tmp_path / f"opaque.{suffix}") == {RED, BLUE}
    clear = bytes([0, 255]) if suffix == "png" else 0
    photo.save(tmp_path / f"photo.{suffix}", transparency=clear)
    assert colours(tmp_path / f"photo.{suffix}") == {WHITE, BLUE}


# 65535 = 257 · 255, so 257 · k becomes exactly k. The largest value that rounds to 0 is 128.
DEEP = {0: 0, 128: 0, 129: 1, 257: 1, 32767: 127, 32768: 128, 65535: 255}


@pytest.mark.parametrize(
    ("suffix", "dtype", "order"),
    [
        pytest.param("png", np.uint16, "II", id="png"),
        pytest.param("tif", np.uint16, "II", id="tiff"),
        pytest.param("tif", np.int32, "II", id="tiff-of-32-bits"),
    ],
)
def test_deep_greys_are_scaled_and_not_clipped(tmp_path: Path, suffix: str, dtype, order: str):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(np.array([list(DEEP)], dtype=dtype)).save(path)
    assert as_pillow_has_it(path, "mode").startswith("I")
    assert np.asarray(read_photo(path))[0].tolist() == [[grey] * 3 for grey in DEEP.values()]


def png(width: int, height: int, *, bits: int = 8, kind: int = 2, **chunks: bytes) -> bytes:
    """Build a PNG by the specification; ``kind`` 0 is grey and 2 is RGB."""
    size = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    found = b"\x89PNG\r\n\x1a\n"
    for name, data in {"IHDR": size, **chunks, "IEND": b""}.items():
        body = name.encode() + data
        found += struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    return found


def big_endian_tiff(values: list[int]) -> bytes:
    """Build a TIFF of one row of 16-bit greys by the specification, as scientific cameras do."""
    entries = {256: len(values), 257: 1, 258: 16, 259: 1, 262: 1, 277: 1, 278: 1}
    at = 8 + 2 + 12 * (len(entries) + 2) + 4
    long_entries = {273: at, 279: 2 * len(values)}
    ifd = b"".join(
        struct.pack(">HHI", tag, 4, 1) + struct.pack(">I", value)
        if tag in long_entries
        else struct.pack(">HHIHH", tag, 3, 1, value, 0)
        for tag, value in sorted({**entries, **long_entries}.items())
    )
    head = b"MM\0*" + struct.pack(">I", 8) + struct.pack(">H", len(entries) + 2)
    return head + ifd + bytes(4) + struct.pack(f">{len(values)}H", *values)


def test_deep_greys_in_the_other_byte_order(tmp_path: Path):
    (tmp_path / "deep.tif").write_bytes(big_endian_tiff(list(DEEP)))
    assert as_pillow_has_it(tmp_path / "deep.tif", "mode") == "I;16B"
    read = np.asarray(read_photo(tmp_path / "deep.tif"))
    assert read[0, :, 0].tolist() == list(DEEP.values())


def test_a_transparent_16_bit_grey_is_white(tmp_path: Path):
    row = zlib.compress(struct.pack(">BHH", 0, 257, 25700))
    data = png(2, 1, bits=16, kind=0, tRNS=struct.pack(">H", 257), IDAT=row)
    (tmp_path / "deep.png").write_bytes(data)
    assert np.asarray(read_photo(tmp_path / "deep.png"))[0, :, 0].tolist() == [255, 100]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        pytest.param([0.0, 0.2, 0.4], [0, 51, 102], id="up-to-1-and-not-stretched"),
        pytest.param([0.0, 2.0, 200.0], [0, 2, 200], id="up-to-255"),
    ],
)
def test_floating_point_greys(tmp_path: Path, values: list[float], expected: list[int]):
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "photo.tif")
    assert np.asarray(read_photo(tmp_path / "photo.tif"))[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        pytest.param([0, np.nan], np.float32, "from 0 to 1, got nan to nan", id="nan"),
        pytest.param([-1, 0.5], np.float32, "from 0 to 1, got -1 to 0.5", id="negative"),
        pytest.param([0, 1000], np.float32, "from 0 to 255, got 0 to 1000", id="float"),
        pytest.param([0, 70000], np.int32, "from 0 to 65535, got 0 to 70000", id="32-bits"),
    ],
)
def test_greys_of_unknown_range_are_refused(tmp_path: Path, values: list, dtype, message: str):
    Image.fromarray(np.array([values], dtype=dtype)).save(tmp_path / "photo.tif")
    with pytest.raises(ValueError, match=rf"photo\.tif must have values {message}. Save it with 8"):
        read_photo(tmp_path / "photo.tif")


# The EXIF specification says where the first row and the first column of the file belong.
UPRIGHT = {
    1: lambda a: a,  # row at the top, column at the left
    2: lambda a: a[:, ::-1],  # top, right
    3: lambda a: a[::-1, ::-1],  # bottom, right
    4: lambda a: a[::-1],  # bottom, left
    5: lambda a: a.swapaxes(0, 1),  # left, top
    6: lambda a: np.rot90(a, -1),  # right, top: a phone held upright
    7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda a: np.rot90(a),  # left, bottom
}


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", [*UPRIGHT, 0, 9])
def test_a_photo_is_turned_upright(tmp_path: Path, orientation: int, suffix: str):
    path = tmp_path / f"photo.{suffix}"
    stored = noise(2, 3)
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).save(path, exif=oriented(orientation), **lossless)
    expected = UPRIGHT.get(orientation, UPRIGHT[1])(stored)
    assert np.array_equal(np.asarray(read_photo(path)), expected)


def test_a_jpeg_of_a_phone_is_turned_upright(tmp_path: Path):
    stored = np.zeros((16, 32, 3), dtype=np.uint8)
    stored[:, :16] = RED  # the left half of the file is the upper half of the photo
    Image.fromarray(stored).save(tmp_path / "phone.jpg", quality=95, exif=oriented(6))
    read = read_photo(tmp_path / "phone.jpg")
    assert read.size == (16, 32)
    assert np.asarray(read)[:14, :, 0].min() > 200
    assert np.asarray(read)[18:, :, 0].max() < 50


def test_damaged_exif_does_not_hide_a_photo(tmp_path: Path):
    for damaged in (
        b"Exif\0\0nonsense",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08",
    ):
        Image.new("RGB", (6, 4), RED).save(tmp_path / "photo.jpg", exif=damaged)
        assert read_photo(tmp_path / "photo.jpg").size == (6, 4)


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str):
    path = tmp_path / f"ink.{suffix}"
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(path)  # cyan ink only
    if suffix == "jpg":
        assert b"Adobe" in path.read_bytes()  # Adobe's marker: inks are stored inverted
    assert np.abs(np.asarray(read_photo(path), dtype=int) - (0, 255, 255)).max() < 4


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_only_the_first_frame_of_an_animation_is_read(tmp_path: Path, suffix: str):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    lossless = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"moving.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **lossless)
    assert as_pillow_has_it(path, "n_frames") == 2
    assert colours(path) == {RED}


def test_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = []
    monkeypatch.setattr(
        Image, "open", lambda *a, real=Image.open, **k: opened.append(real(*a, **k)) or opened[-1]
    )
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, BLUE)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    read_photo(tmp_path / "moving.gif")
    assert opened[0].fp is None or opened[0].fp.closed


# --- files that cannot be read


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(noise(30, 40)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "it is empty", id="empty"),
        pytest.param(b"not an image", "its format is unknown", id="text"),
        pytest.param(encoded("JPEG")[:700], "image file is truncated", id="truncated-jpeg"),
        pytest.param(encoded("PNG")[:700], "image file is truncated", id="truncated-png"),
        pytest.param(png(4, 4, IDAT=b""), "image file is truncated", id="header-only"),
        pytest.param(b"P6 x", "invalid literal", id="what-pillow-does-not-wrap"),
    ],
)
def test_the_error_names_a_file_that_is_not_an_image(tmp_path: Path, data: bytes, message: str):
    (tmp_path / "photo.png").write_bytes(data)
    with pytest.raises(
        ValueError, match=rf"photo\.png is not a readable image: {message}.*save it again as JPEG"
    ):
        read_photo(tmp_path / "photo.png")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_damaged_file_is_read_or_named_in_the_error(tmp_path: Path, kind: str):
    whole = encoded(kind, **({"exif": oriented(6)} if kind in ("JPEG", "PNG", "WEBP") else {}))
    path = tmp_path / "damaged"
    draw = random.Random(kind)
    refused = []
    for turn in range(60):
        data = bytearray(whole[: draw.randrange(1, len(whole))] if turn % 3 == 0 else whole)
        for _ in range(draw.choice([0, 1, 8])):
            data[draw.randrange(min(len(data), 200))] = draw.randrange(256)
        path.write_bytes(data)
        try:
            assert read_photo(path, max_pixels=1_000_000).mode == "RGB"
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 10
    assert [message for message in refused if not message.startswith(f"{path} ")] == []


@pytest.mark.parametrize("name", ["photo.eps", "photo.png"])
def test_a_program_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str):
    ran = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *a, **k: ran.append(a))
    (tmp_path / name).write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    )
    assert as_pillow_has_it(tmp_path / name, "format") == "EPS"
    with pytest.raises(ValueError, match="is not a readable image: its format is unknown"):
        read_photo(tmp_path / name)
    assert ran == []


def test_a_missing_file(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no photo at .*none\.png"):
        read_photo(tmp_path / "none.png")


def test_a_link_to_nothing(tmp_path: Path):
    (tmp_path / "link.png").symlink_to("none.png")
    with pytest.raises(FileNotFoundError, match=r"no photo at .*link\.png"):
        read_photo(tmp_path / "link.png")


def test_a_folder(tmp_path: Path):
    with pytest.raises(
        ValueError, match="is a folder; pass the photos in it, or use `from_folder`"
    ):
        read_photo(tmp_path)


@pytest.mark.parametrize(
    ("side", "told"),
    [
        pytest.param(8_000, "8000×8000 pixels", id="below-pillow's-limit"),
        pytest.param(12_000, "12000×12000 pixels", id="where-pillow-warns"),
        pytest.param(30_000, "too many pixels", id="where-pillow-raises"),
    ],
)
def test_a_huge_file_is_refused_before_it_is_decoded(tmp_path: Path, side: int, told: str):
    (tmp_path / "huge.png").write_bytes(png(side, side, IDAT=b""))  # decoding would say truncated
    with pytest.raises(
        ValueError, match=rf"huge\.png has {told}, more than 50,000,000. Scale it down first"
    ):
        read_photo(tmp_path / "huge.png")


def test_max_pixels_itself_is_allowed(tmp_path: Path):
    Image.new("RGB", (5, 4)).save(tmp_path / "photo.png")
    assert read_photo(tmp_path / "photo.png", max_pixels=20).size == (5, 4)
    with pytest.raises(ValueError, match=r"has 5×4 pixels, more than 19\. .*with `max_pixels`"):
        read_photo(tmp_path / "photo.png", max_pixels=19)


def test_pillow_s_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("RGB", (40, 30)).save(tmp_path / "warned.png")
    assert read_photo(tmp_path / "warned.png").size == (40, 30)
    Image.new("RGB", (50, 50)).save(tmp_path / "refused.png")
    with pytest.raises(
        ValueError, match=r"has more than 2,000 pixels, which is Pillow's own.*MAX_IMAGE_PIXELS"
    ):
        read_photo(tmp_path / "refused.png")
    assert Image.MAX_IMAGE_PIXELS == 1000


# --- photos to tensors


def by_hand(photo: Image.Image, resize: int, crop: int) -> Tensor:
    """The validation transform of ImageNet models, written with only Pillow and numpy."""
    width, height = photo.size
    if width <= height:
        width, height = resize, int(resize * height / width)
    else:
        width, height = int(resize * width / height), resize
    resized = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR))
    left, top = round((width - crop) / 2), round((height - crop) / 2)
    cut = resized[top : top + crop, left : left + crop]
    return torch.from_numpy(cut.transpose(2, 0, 1) / 255.0).float()


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    return (images - mean) / std


@pytest.mark.parametrize("name", ["chelsea", "coffee", "astronaut"])
def test_a_photo_is_prepared_as_imagenet_models_are_validated(name: str):
    photo = read_photo(skimage_photo(name))
    found = to_tensor(photo, 224)
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    torch.testing.assert_close(found, normalised(by_hand(photo, 256, 224)))
    torch.testing.assert_close(found, ResNet18_Weights.IMAGENET1K_V1.transforms()(photo))
    torch.testing.assert_close(to_tensor(photo, 224, mean=None, std=None), by_hand(photo, 256, 224))


def test_the_resize_is_antialiased():
    fine = np.zeros((256, 256, 3), dtype=np.uint8)
    fine[:, ::2] = 255  # lines one pixel wide, which must blur to grey
    small = to_tensor(Image.fromarray(fine), (16, 16), mean=None, std=None)
    assert small.sub(0.5).abs().max() < 0.02


@pytest.mark.parametrize(
    ("size", "sides"),
    [
        pytest.param(32, (37, 32), id="one-number"),  # 32 · 256/224 = 36.6
        pytest.param((64, 32), (64, 32), id="pair"),
        pytest.param([48, 48], (48, 48), id="without-margin"),
        pytest.param(1, (1, 1), id="one-pixel"),
    ],
)
@pytest.mark.parametrize("shape", [(60, 90), (91, 60), (50, 50)])
def test_sizes(size: int | tuple[int, int], sides: tuple[int, int], shape: tuple[int, int]):
    photo = Image.fromarray(noise(*shape))
    found = to_tensor(photo, size, mean=None, std=None)
    torch.testing.assert_close(found, by_hand(photo, *sides))


def test_a_strip_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch):
    resized = []
    resize = functional.resize
    monkeypatch.setattr(
        functional, "resize", lambda image, size: resized.append(image.size) or resize(image, size)
    )
    strip = np.zeros((2, 600, 3), dtype=np.uint8)
    strip[:, 300:] = 255
    found = to_tensor(Image.fromarray(strip), (256, 224), mean=None, std=None)
    assert resized == [(8, 2)]  # not 600 × 2, which would become 76,800 × 256
    assert found.shape == (3, 224, 224)
    assert found[:, :, :40].max() < 0.02
    assert found[:, :, -40:].min() > 0.98


def test_a_grey_photo_has_three_channels():
    grey = Image.fromarray(noise(9, 9)[..., 0])
    expected = to_tensor(grey.convert("RGB"), 4)
    torch.testing.assert_close(to_tensor(grey, 4), expected)


def test_custom_mean_and_std():
    grey = Image.new("RGB", (8, 8), (51, 102, 255))  # 0.2, 0.4 and 1.0
    found = to_tensor(grey, 2, mean=(0.1, 0.4, 0.5), std=(0.1, 0.2, 0.25))
    torch.testing.assert_close(found[:, 0, 0], torch.tensor([1.0, 0.0, 2.0]))


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        pytest.param(0, ValueError, "`size` must be at least 1, .* got 0", id="zero"),
        pytest.param((32, 64), ValueError, r"resize no less than crop, got \(32, 64\)", id="order"),
        pytest.param(22.5, TypeError, "`size` must be an int, or a pair .* got 22.5", id="float"),
        pytest.param(True, TypeError, "`size` must be an int, or a pair .* got True", id="bool"),
        pytest.param((1, 2, 3), TypeError, r"or a pair .* got \(1, 2, 3\)", id="three"),
    ],
)
def test_bad_sizes_are_refused(size: object, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        to_tensor(Image.new("RGB", (8, 8)), size)
    with pytest.raises(error, match=message):
        mask_to_tensor(Image.new("1", (8, 8)), size)


# --- transforms


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([v1.Resize(20), v1.CenterCrop(16), v1.ToTensor()], id="v1"),
        pytest.param(
            [v2.Resize(20), v2.CenterCrop(16), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
            id="v2",
        ),
    ],
)
def test_a_transform_replaces_size_and_normalisation(steps: list):
    photo = Image.fromarray(noise(40, 30))
    found = to_tensor(photo, 224, transform=(v1 if len(steps) == 3 else v2).Compose(steps))
    assert type(found) is Tensor  # not one of torchvision's subclasses
    torch.testing.assert_close(found, by_hand(photo, 20, 16), atol=2e-3, rtol=0)


def test_weights_transforms():
    photo = read_photo(skimage_photo("chelsea"))
    preset = ResNet18_Weights.DEFAULT.transforms()
    torch.testing.assert_close(to_tensor(photo, transform=preset), preset(photo))


RANDOM = v1.Compose(
    [v1.RandomResizedCrop(32, (0.5, 0.8)), v1.RandomHorizontalFlip(), v1.ToTensor()]
)


def test_a_random_transform_is_the_same_each_time_and_moves_no_stream():
    photo = Image.fromarray(noise(40, 30))
    drawn = v1.Lambda(lambda image: image + random.random() + np.random.rand())
    transform = v1.Compose([*RANDOM.transforms, drawn])
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    first = to_tensor(photo, transform=transform)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)
    assert torch.equal(to_tensor(photo, transform=transform), first)


def test_a_random_transform_leaves_the_seed_of_cuda_alone(monkeypatch: pytest.MonkeyPatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    to_tensor(Image.new("RGB", (40, 30)), transform=RANDOM)
    assert seeded == []


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        pytest.param(v1.PILToTensor(), r"got torch.uint8 \(3, 6, 8\)", id="bytes"),
        pytest.param(v1.Resize(4), "got <class 'PIL", id="photo"),
        pytest.param(lambda photo: torch.zeros(1, 3, 4, 4), r"float32 \(1, 3, 4, 4\)", id="batch"),
        pytest.param("imagenet", "be callable with a photo, got 'imagenet'", id="word"),
        pytest.param(
            ResNet18_Weights.DEFAULT.transforms,
            r"be callable with a photo, .* it is `weights\.transforms\(\)`",
            id="not-called",
        ),
        pytest.param(ResNet18_Weights.DEFAULT, r"`weights\.transforms\(\)`", id="weights"),
    ],
)
def test_a_transform_that_does_not_return_an_image_is_refused(transform: object, message: str):
    with pytest.raises(TypeError, match=rf"`transform` must .*{message}"):
        to_tensor(Image.new("RGB", (8, 6)), transform=transform)


# --- normalisation


def test_normalisation_by_name_and_number():
    assert normalisation("imagenet", "imagenet") == IMAGENET
    assert IMAGENET == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    preset = ResNet18_Weights.DEFAULT.transforms()
    assert (tuple(preset.mean), tuple(preset.std)) == IMAGENET
    assert normalisation(None, None) is None
    assert normalisation([0, 0.5, 1], (1, 2, 3)) == ((0.0, 0.5, 1.0), (1.0, 2.0, 3.0))
    halves = (0.5, 0.5, 0.5)
    assert normalisation(torch.tensor(halves), np.array(halves)) == (halves, halves)


@pytest.mark.parametrize(
    ("mean", "std", "error", "message"),
    [
        pytest.param(
            "imagnet", "imagnet", ValueError, "must both be 'imagenet', .*imagnet", id="word"
        ),
        pytest.param(
            "imagenet", None, ValueError, "must both .* got 'imagenet' and None", id="one"
        ),
        pytest.param([0.5] * 3, None, ValueError, "must both be .* None", id="no-std"),
        pytest.param(np.ones(3), "imagenet", ValueError, "must both be .* 'imagenet'", id="mixed"),
        pytest.param(0.5, 0.5, TypeError, "three numbers each, got 0.5 and 0.5", id="number"),
        pytest.param(["a"] * 3, [1] * 3, TypeError, "three numbers each, got", id="words"),
        pytest.param([0.5], [0.5], ValueError, "each of three channels, got", id="one-channel"),
        pytest.param([0.5] * 3, [np.nan] * 3, ValueError, "each of three channels, got", id="nan"),
        pytest.param([0.5] * 3, [1, 0, 1], ValueError, "`std` must be above 0", id="zero"),
        pytest.param(
            [123.7, 116.3, 103.5],
            [58.4, 57.1, 57.4],
            ValueError,
            r"`mean` must be for images in \[0, 1\], got \[123.7, .* Divide both by 255",
            id="of-bytes",
        ),
    ],
)
def test_bad_normalisations_are_refused(
    mean: object, std: object, error: type[Exception], message: str
):
    with pytest.raises(error, match=message):
        normalisation(mean, std)
    with pytest.raises(error, match=message):
        to_tensor(Image.new("RGB", (8, 8)), 4, mean=mean, std=std)


MEAN, STD = (0.1, 0.25, 0.375), (0.5, 0.75, 1.0)  # all but 0.1 are exact in float32


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        pytest.param(ResNet18_Weights.DEFAULT.transforms(), IMAGENET, id="preset"),
        pytest.param(v1.Normalize(MEAN, STD), (MEAN, STD), id="v1"),
        pytest.param(v2.Normalize(MEAN, STD), (MEAN, STD), id="v2"),
        pytest.param(v1.Compose([v1.ToTensor(), v1.Normalize(MEAN, STD)]), (MEAN, STD), id="v1-in"),
        pytest.param(v2.Compose([v2.ToImage(), v2.Normalize(MEAN, STD)]), (MEAN, STD), id="v2-in"),
        pytest.param(
            v1.Compose([v1.Compose([nn.Sequential(v2.Normalize(MEAN, STD))])]),
            (MEAN, STD),
            id="deep",
        ),
        pytest.param(
            v1.Normalize(torch.tensor(MEAN, dtype=torch.float64), np.array(STD)),
            (MEAN, STD),
            id="tensors",
        ),
        pytest.param(v1.Normalize((0.5,), (0.25,)), ((0.5,) * 3, (0.25,) * 3), id="one-for-all"),
        pytest.param(v1.Normalize(0.5, 0.25), ((0.5,) * 3, (0.25,) * 3), id="plain-numbers"),
        pytest.param(
            v1.Compose([v1.Grayscale(), v1.ToTensor(), v1.Normalize((0.5,), (0.25,))]),
            ((0.5,), (0.25,)),
            id="grey",
        ),
        pytest.param(
            v2.Normalize([127.5] * 3, [51.0] * 3), ((0.5,) * 3, (0.2,) * 3), id="of-bytes"
        ),
        pytest.param(v1.Compose([v1.Normalize(MEAN, STD)] * 2), None, id="twice"),
        pytest.param(v1.ToTensor(), None, id="none"),
        pytest.param(lambda photo: photo, None, id="function"),
        pytest.param(None, None, id="nothing"),
        pytest.param(torch.zeros(2), None, id="methods-called-mean-and-std"),
    ],
)
def test_the_normalisation_of_a_transform(transform: object, expected: object):
    assert find_normalisation(transform) == expected


def test_the_normalisation_of_timm_s_transforms():
    data = pytest.importorskip("timm.data")
    found = find_normalisation(data.create_transform((3, 64, 64), is_training=False))
    torch.testing.assert_close(torch.tensor(found), torch.tensor(IMAGENET))


# --- masks


def save_mask(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


PHOTO = Image.new("RGB", (4, 2))
LEFT = np.array([[True, True, False, False]] * 2)  # the left half of it
WHITE_LEFT = (LEFT * 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("pixels", "inside"),
    [
        pytest.param(LEFT, LEFT, id="one-bit"),
        pytest.param(WHITE_LEFT, LEFT, id="grey"),
        pytest.param(np.where(LEFT, 128, 127).astype(np.uint8), LEFT, id="above-127"),
        pytest.param(WHITE_LEFT.astype(np.uint16) * 257, LEFT, id="16-bits"),
        pytest.param(np.dstack([WHITE_LEFT] * 3), LEFT, id="rgb"),
        pytest.param(
            np.dstack([np.full((2, 4, 3), 9, np.uint8), np.where(LEFT, 128, 127).astype(np.uint8)]),
            LEFT,
            id="opacity",
        ),
        pytest.param(
            np.dstack([np.full((2, 4), 255, np.uint8), WHITE_LEFT]), LEFT, id="opacity-of-grey"
        ),
        pytest.param(
            np.dstack([WHITE_LEFT] * 3 + [np.full((2, 4), 255, np.uint8)]),
            LEFT,
            id="an-opacity-that-says-nothing",
        ),
        pytest.param(
            np.where(LEFT[..., None], (255, 250, 230), (0, 9, 20)).astype(np.uint8),
            LEFT,
            id="paper-and-ink",
        ),
        pytest.param(np.zeros((2, 4), np.uint8), LEFT & False, id="nothing"),
        pytest.param(np.full((2, 4), 255, np.uint8), LEFT | True, id="everything"),
    ],
)
def test_masks(tmp_path: Path, pixels: np.ndarray, inside: np.ndarray):
    mask = read_mask(save_mask(tmp_path / "mask.png", pixels), PHOTO)
    assert mask.mode == "1"
    assert np.array_equal(np.asarray(mask), inside)


def test_a_mask_with_a_transparent_colour(tmp_path: Path):
    mask = Image.fromarray(np.where(LEFT, 1, 0).astype(np.uint8), "L").convert("P")
    mask.putpalette([*BLUE, *RED])
    mask.save(tmp_path / "mask.png", transparency=0)
    assert np.array_equal(np.asarray(read_mask(tmp_path / "mask.png", PHOTO)), LEFT)


def test_a_grey_mask_that_was_saved_as_jpeg(tmp_path: Path):
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32] = 255
    Image.fromarray(pixels).save(tmp_path / "mask.jpg", quality=60)
    found = read_mask(tmp_path / "mask.jpg", Image.new("RGB", (64, 32)))
    assert np.array_equal(np.asarray(found), pixels[..., 0] > 127)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        pytest.param(
            LEFT.astype(np.uint8),
            r"must be white inside .* nothing brighter than 1 of 255\. .*, save `mask \* 255`",
            id="zeros-and-ones",
        ),
        pytest.param(
            np.dstack([WHITE_LEFT, WHITE_LEFT * 0, WHITE_LEFT * 0]),
            "must be white inside the region and black outside, .* got colours. Save each region",
            id="colours",
        ),
    ],
)
def test_masks_that_would_be_misread(tmp_path: Path, pixels: np.ndarray, message: str):
    path = save_mask(tmp_path / "mask.png", pixels)
    with pytest.raises(ValueError, match=rf"mask\.png {message}"):
        read_mask(path, PHOTO)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        pytest.param(
            (3, 4), r"upright photo, \(4, 2\), got \(4, 3\)\. Draw the mask at the size", id="other"
        ),
        pytest.param(
            (4, 2),
            r"upright photo, \(4, 2\), got \(2, 4\)\. Rotate the mask as the EXIF",
            id="sideways",
        ),
    ],
)
def test_a_mask_is_as_large_as_the_upright_photo(
    tmp_path: Path, shape: tuple[int, int], message: str
):
    path = save_mask(tmp_path / "mask.png", np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match=rf"mask\.png must have the size of its {message}"):
        read_mask(path, PHOTO)


def test_a_mask_is_turned_by_its_own_exif_only(tmp_path: Path):
    Image.fromarray(noise(4, 2)).save(tmp_path / "photo.png", exif=oriented(6))
    photo = read_photo(tmp_path / "photo.png")
    assert photo.size == PHOTO.size
    drawn = read_mask(save_mask(tmp_path / "drawn.png", WHITE_LEFT), photo)
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(WHITE_LEFT)))
    lying.save(tmp_path / "lying.png", exif=oriented(6))
    turned = read_mask(tmp_path / "lying.png", photo)
    assert np.array_equal(np.asarray(drawn), LEFT)
    assert np.array_equal(np.asarray(turned), LEFT)


def test_a_mask_may_be_as_large_as_its_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lightning_saliency.probe.photos.MAX_PIXELS", 7)
    path = save_mask(tmp_path / "mask.png", WHITE_LEFT)
    assert read_mask(path, PHOTO).size == PHOTO.size
    with pytest.raises(ValueError, match="has 4×2 pixels, more than 7"):
        read_mask(path, Image.new("RGB", (1, 1)))


def test_a_mask_that_is_missing_or_not_an_image_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no photo at .*none\.png"):
        read_mask(tmp_path / "none.png", PHOTO)
    (tmp_path / "mask.png").write_bytes(b"no")
    with pytest.raises(ValueError, match=r"mask\.png is not a readable image: its format"):
        read_mask(tmp_path / "mask.png", PHOTO)


# The photo is its own mask, so the mask must end up wherever the geometry puts the white.
GEOMETRIES = {
    "default": None,
    "preset": ResNet18_Weights.DEFAULT.transforms(crop_size=32, resize_size=40),
    "v1": v1.Compose([v1.Resize(40), v1.CenterCrop(32), v1.ToTensor()]),
    "squashed": v2.Compose(
        [v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    ),
    "random": RANDOM,
    "grey": v1.Compose([v1.Grayscale(), v1.Resize(32), v1.ToTensor(), v1.Normalize(0.5, 0.5)]),
}


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shape", [(60, 90), (90, 61)])
def test_photo_and_mask_stay_aligned(geometry: str, shape: tuple[int, int]):
    inside = np.zeros(shape, dtype=bool)
    inside[25:47, 20:43] = True
    photo = Image.fromarray(np.dstack([(inside * 255).astype(np.uint8)] * 3))
    transform = GEOMETRIES[geometry]
    seen = to_tensor(photo, 32, transform=transform)
    black, white = (
        to_tensor(Image.new("RGB", photo.size, c), 32, transform=transform).amax(dim=(1, 2))
        for c in ("black", "white")
    )
    mask = mask_to_tensor(Image.fromarray(inside), 32, transform=transform)
    assert mask.dtype == torch.bool
    assert 0 < int(mask.sum()) < mask.numel()
    assert torch.equal(mask, seen[0] > (black[0] + white[0]) / 2)


def test_a_mask_by_hand():
    inside = np.zeros((8, 8), dtype=bool)
    inside[2:4, 4:8] = True
    mask = mask_to_tensor(Image.fromarray(inside), (8, 8))
    assert np.array_equal(mask.numpy(), inside)
    assert mask_to_tensor(Image.fromarray(inside), (8, 4)).tolist() == [
        [False, False, True, True],
        [False, False, True, True],
        [False] * 4,
        [False] * 4,
    ]


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([v1.Pad(2, fill=255), v1.ToTensor()], id="padded-with-white"),
        pytest.param([v1.Pad(2, fill=0), v1.ToTensor()], id="padded-with-black"),
        pytest.param([v1.ToTensor(), v1.Lambda(lambda image: 1 - image), v1.Pad(2)], id="inverted"),
    ],
)
def test_padding_and_inverted_colours_do_not_fool_a_mask(steps: list):
    inside = np.zeros((4, 4), dtype=bool)
    inside[1:3, 1:3] = True
    mask = mask_to_tensor(Image.fromarray(inside), 4, transform=v1.Compose(steps))
    assert np.array_equal(mask.numpy(), np.pad(inside, 2))


# --- folders


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)
    return path


def test_one_folder_per_class(tmp_path: Path):
    names = ["b/10.png", "b/2.JPG", "b/1.jpeg", "Z/x.webp", "a/y.tif"]
    for name in names:
        touch(tmp_path / name)
    touch(tmp_path / "a/.hidden.png")
    touch(tmp_path / ".cache/x.png")
    touch(tmp_path / "loose.png")
    touch(tmp_path / "a/folder.png/inner.png")
    (tmp_path / "a/notes.txt").write_text("no photo")
    paths, labels, class_names = list_photos(str(tmp_path))
    assert class_names == ["Z", "a", "b"]  # as torchvision's ImageFolder sorts them
    expected = ["Z/x.webp", "a/y.tif", "b/1.jpeg", "b/2.JPG", "b/10.png"]
    assert paths == [tmp_path / name for name in expected]
    assert labels == [0, 1, 2, 2, 2]


def test_labels_are_those_of_torchvision_s_image_folder(tmp_path: Path):
    from torchvision.datasets import ImageFolder

    for name in ("img10", "img9", "Img1", "é", "_x", "10", "9"):
        touch(tmp_path / name / "1.png")
    folder = ImageFolder(str(tmp_path))
    paths, labels, class_names = list_photos(tmp_path)
    assert class_names == folder.classes
    assert [(str(p), label) for p, label in zip(paths, labels, strict=True)] == folder.samples


def test_photos_are_in_natural_order(tmp_path: Path):
    expected = ["1.png", "02.png", "2.png", "10.png", "a.png", "A1b2.png", "a1b10.png", "B.png"]
    for name in reversed(expected):
        touch(tmp_path / "c" / name)
    paths, _, _ = list_photos(tmp_path)
    assert [path.name for path in paths] == expected


def test_links_are_followed(tmp_path: Path):
    touch(tmp_path / "elsewhere/1.png")
    (tmp_path / "root/b").mkdir(parents=True)
    (tmp_path / "root/a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "root/b/2.png").symlink_to(tmp_path / "elsewhere/1.png")
    (tmp_path / "root/b/3.png").symlink_to("nothing")
    paths, labels, _ = list_photos(tmp_path / "root")
    assert [path.relative_to(tmp_path / "root") for path in paths] == [
        Path("a/1.png"),
        Path("b/2.png"),
    ]
    assert labels == [0, 1]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        pytest.param([], "holds no folders; it must hold one per class", id="empty"),
        pytest.param(["1.png"], "holds no folders; .* `ProbeBatch.from_files`", id="no-classes"),
        pytest.param(
            ["a/1.png", "b/x.d/1.png"], r"b holds no photos \(\.jpg, ", id="a-class-without"
        ),
    ],
)
def test_a_root_without_photos_is_refused(tmp_path: Path, names: list[str], message: str):
    for name in names:
        touch(tmp_path / name)
    with pytest.raises(ValueError, match=message):
        list_photos(tmp_path)


@pytest.mark.parametrize("name", ["none", "1.png"])
def test_a_root_that_is_not_a_folder_is_refused(tmp_path: Path, name: str):
    touch(tmp_path / "1.png")
    with pytest.raises(
        ValueError, match=f"{name} is not a folder; it must hold one folder per class"
    ):
        list_photos(tmp_path / name)


def test_the_mask_of_a_photo(tmp_path: Path):
    photo = touch(tmp_path / "photos/a/1.jpg")
    root, masks = tmp_path / "photos", tmp_path / "masks"
    with pytest.raises(FileNotFoundError, match=rf"no mask for .*1\.jpg.* {masks / 'a' / '1'}\.\*"):
        find_mask(photo, root, masks)
    touch(masks / "a/11.png")
    touch(masks / "b/1.png")
    mask = touch(masks / "a/1.png")
    assert find_mask(photo, str(root), str(masks)) == mask
    touch(masks / "a/1.bmp")
    with pytest.raises(ValueError, match=r"must hold one mask for .*1\.jpg, got 1\.bmp, 1\.png"):
        find_mask(photo, root, masks)


# --- all together


def test_a_probe_of_files_and_a_probe_of_a_folder(tmp_path: Path):
    inside = np.zeros((300, 451), dtype=bool)
    inside[80:220, 120:330] = True
    for name in ("cat/1", "cat/2", "dog/1"):
        for folder, picture in (
            ("photos", Image.open(skimage_photo("chelsea"))),
            ("masks", Image.fromarray(inside)),
        ):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
    probe = ProbeBatch.from_folder(tmp_path / "photos", 64, masks=tmp_path / "masks")
    assert probe.names == ("cat 1", "cat 2", "dog 1")
    assert probe.labels.tolist() == [0, 0, 1]
    assert probe.class_names == ("cat", "dog")
    # The crop is centred, so the share refers to the middle 300 · 64/73 pixels of the photo.
    side = 300 * 64 / 73
    left, top = (451 - side) / 2, (300 - side) / 2
    assert left < 120 < 330 < left + side  # The whole mask is inside the crop.
    assert top < 80 < 220 < top + side
    assert float(probe.masks["object"][0].float().mean()) == pytest.approx(
        140 * 210 / side**2, rel=0.03
    )
    paths = [tmp_path / f"photos/{name}.png" for name in ("cat/1", "cat/2", "dog/1")]
    masks = [os.fspath(path).replace("photos", "masks") for path in paths]
    same = ProbeBatch.from_files(paths, 64, labels=[0, 0, 1], masks={"object": masks})
    assert same.fingerprint == probe.fingerprint
    photo = read_photo(paths[0])
    torch.testing.assert_close(probe.displayed()[0], by_hand(photo, 73, 64))
