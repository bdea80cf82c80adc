"""How quickly the tab "Saliency" shows a run in a browser.

    python benchmarks/viewer_browser.py [--observations N] [--sizes 8x10x96,…]

For each size of a probe: the time from opening the tab's page to the first maps; for steps of the
slider, the time in scripts and the time until the next frame is painted, as medians; and the memory
of scripts at the end. The browser is the Chromium of this machine, which renders in software.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from viewer_report import SIZES, record

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
STEPS = 20
PAINTED = "() => globalThis.saliencyViewer?.ready && !document.querySelector('.picture.waiting')"
# Each step is one press of a key, timed by the page itself.
STEP = """async () => {
  const begun = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
  const scripted = performance.now();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return [scripted - begun, performance.now() - begun];
}"""


@contextmanager
def tensorboard(folder: Path) -> Iterator[str]:
    """Start a TensorBoard on ``folder`` until the end of the block, and yield its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            time.sleep(0.25)
            try:
                with urllib.request.urlopen(f"{base}/data/plugin/saliency/runs") as answer:
                    if b'"id"' in answer.read():
                        break
            except OSError:
                continue
        yield base
    finally:
        process.terminate()
        process.wait()


def measure(browser: Any, base: str) -> tuple[float, float, float, float]:
    """Seconds to the first maps, milliseconds in scripts and to a frame, megabytes of memory."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    begun = time.perf_counter()
    page.goto(f"{base}/data/plugin_entry.html?name=saliency")
    page.wait_for_function(PAINTED)
    first = time.perf_counter() - begun
    times = []
    for _ in range(STEPS):
        times.append(page.evaluate(STEP))
        page.wait_for_function(PAINTED)
    memory = page.evaluate("() => performance.memory.usedJSHeapSize") / 1e6
    page.close()
    scripts, frames = zip(*times, strict=True)
    return first, statistics.median(scripts), statistics.median(frames), memory


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each size of a probe."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=50)
    parser.add_argument("--sizes", default=",".join("x".join(map(str, size)) for size in SIZES))
    options = parser.parse_args(arguments)
    program = next(filter(None, map(shutil.which, BROWSERS)))
    print("| run | first maps | step: script / frame | memory |\n|---|---|---|---|")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        for size in options.sizes.split(","):
            images, classes, side = map(int, size.split("x"))
            with tempfile.TemporaryDirectory() as folder:
                record(Path(folder, "run"), images, classes, side, options.observations)
                with tensorboard(Path(folder)) as base:
                    first, script, frame, memory = measure(browser, base)
            run = f"{images} × {classes} at {side}²"
            print(f"| {run} | {first:.2f} s | {script:.0f} / {frame:.0f} ms | {memory:.0f} MB |")
        browser.close()


if __name__ == "__main__":
    main()
