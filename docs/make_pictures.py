"""Make the documentation's pictures of a training from what `make demo` has logged.

    make demo
    make pictures

The picture of TensorBoard's Images tab needs Chromium; without it the old picture stays.
"""

from __future__ import annotations

import argparse
import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
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


def images_tab(logs: Path, target: Path) -> None:
    """Save a screenshot of TensorBoard's Images tab."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logs)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--samples_per_plugin", "images=500"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_for(url + "data/plugin/images/tags", b"saliency")
        with tempfile.TemporaryDirectory() as profile:
            subprocess.run(
                [
                    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"),
                    *("--no-first-run", "--disable-background-networking", "--disable-sync"),
                    *("--disable-component-update", f"--user-data-dir={profile}"),
                    *("--window-size=1280,1000", "--virtual-time-budget=20000"),
                    f"--screenshot={target}",
                    url + "#images&tagFilter=%5Esaliency%2F",
                ],
                check=True,
                capture_output=True,
                timeout=120,
            )
    finally:
        server.terminate()
        server.wait()


def wait_for(url: str, needle: bytes, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if needle in urllib.request.urlopen(url, timeout=5).read():
                return
        except OSError:
            pass
        time.sleep(0.5)
    raise TimeoutError(f"{url} did not answer with {needle!r} within {seconds} s")


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
    if shutil.which("chromium") is None:
        print("Chromium is not installed: the picture of the Images tab is not made again.")
        return
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "tab.png")
        images_tab(logs, target)
        save(Image.open(target).crop((320, 80, 1080, 1000)), "images_tab.png")


if __name__ == "__main__":
    main()
