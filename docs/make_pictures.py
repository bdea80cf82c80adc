"""Make the documentation's pictures of a training from what `make demo` has logged.

make demo
make pictures
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

IMAGES = Path(__file__).parent / "images"
SHOWN = "image 3 · class 3"


def read_pictures(run: Path, tag: str) -> list[Image.Image]:
    events = EventAccumulator(str(run), size_guidance={"images": 0})
    events.Reload()
    return [Image.open(io.BytesIO(e.encoded_image_string)) for e in events.Images(tag)]


def side_by_side(pictures: list[Image.Image], gap: int = 24) -> Image.Image:
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    canvas = Image.new("RGB", (width, max(p.height for p in pictures)), "white")
    left = 0
    for picture in pictures:
        canvas.paste(picture, (left, 0))
        left += picture.width + gap
    return canvas


def save(picture: Image.Image, name: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    path = IMAGES / name
    picture.convert("RGB").quantize(256, kmeans=2, dither=Image.Dither.NONE).save(
        path, optimize=True
    )
    print(f"{path}  {picture.width}×{picture.height}, {path.stat().st_size / 1024:.0f} KB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--logs", type=Path, default=Path("logs"))
    logs = parser.parse_args().logs
    runs = sorted(logs.glob("digits/version_*"), key=lambda run: run.stat().st_mtime)
    if not runs:
        sys.exit(f"No run under {logs}/digits. Run `make demo` first.")
    mosaics = read_pictures(runs[-1], f"saliency/{SHOWN}")
    save(side_by_side([mosaics[0], mosaics[-1]]), "mosaics.png")
    save(read_pictures(runs[-1], f"saliency_filmstrip/{SHOWN}")[-1], "filmstrip.png")


if __name__ == "__main__":
    main()
