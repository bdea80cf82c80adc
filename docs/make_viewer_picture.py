"""Make the picture of TensorBoard's Saliency tab at the top of the README.

    python docs/make_viewer_picture.py

It runs `examples/shortcut.py`, which trains four small networks in a minute and a half, starts a
TensorBoard on their logs and looks at it with the Chromium of this machine.
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from PIL import Image
from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
SIZE = {"width": 1400, "height": 860}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAINTED = "() => globalThis.saliencyViewer?.ready && !document.querySelector('.picture.waiting')"


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Start a TensorBoard on ``folder`` until the end of the block, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    process = subprocess.Popen([*command, "--host", "127.0.0.1", "--port", str(port)])
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def find_runs(base: str) -> list[str]:
    """Wait until the tab has found the four runs, and return their ids."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{base}/data/plugin/saliency/runs") as answer:
                ids = [run["id"] for run in json.load(answer)["runs"]]
        except OSError:
            ids = []
        if len(ids) == 4:
            return ids
        time.sleep(0.5)
    raise RuntimeError("TensorBoard does not show the runs")


def photograph(base: str) -> Image.Image:
    """Photograph one class over time in the run with the shortcut and in a good one."""
    ids = find_runs(base)
    run = next(name for name in ids if "good" not in name)
    good = next(name for name in ids if "good-1" in name)
    state = {"run": run, "vs": good, "view": "time"}
    link = "".join(f"&p.saliency.{key}={quote(value, safe='')}" for key, value in state.items())
    program = next(filter(None, map(shutil.which, BROWSERS)))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, device_scale_factor=1.25)
        page.goto(f"{base}/#saliency{link}")
        frame = page.wait_for_selector("iframe[src*='name=saliency']", state="attached")
        frame.content_frame().wait_for_function(PAINTED)
        page.wait_for_timeout(1500)
        data = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(data)).convert("RGB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        example = HERE.parent / "examples" / "shortcut.py"
        command = [sys.executable, str(example), "--quiet", "--logdir", "logs/shortcut"]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        with tensorboard(Path(folder, "logs")) as base:
            picture = photograph(base)
    path = HERE / "images" / "viewer.png"
    # The page has few colours, so a palette loses nothing that can be seen.
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {picture.width}×{picture.height}, {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
