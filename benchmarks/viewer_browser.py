"""How quickly the tab "Saliency" shows a run in a browser.

    python benchmarks/viewer_browser.py [--observations N] [--sizes 8x10x96,…]

For each size of a probe: the time from opening the tab's page to the first maps; for steps of the
slider, the time in scripts and the time until the next frame is painted, as medians; and the memory
of scripts at the end. The browser is the Chromium of this machine, which renders in software.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from viewer_report import SIZES, record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from browser import Viewer, start_browser
from tensorboard_server import serve

STEPS = 20
# Each step is one press of a key, timed by the page itself.
STEP = """async () => {
  const before = saliencyViewer.t;
  const begun = performance.now();
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft", bubbles: true}));
  const scripted = performance.now();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return [scripted - begun, performance.now() - begun, before, saliencyViewer.t];
}"""


def measure(browser: Any, base: str) -> tuple[float, float, float, float]:
    """Seconds to the first maps, milliseconds in scripts and to a frame, megabytes of memory.

    Raises:
        AssertionError: A step did not move the slider to the observation before, or left the maps
            as they were: its time would mean nothing.
    """
    viewer = Viewer(browser)
    begun = time.perf_counter()
    viewer.open_frame(base)
    first = time.perf_counter() - begun
    shown = viewer.pixels()
    times = []
    for _ in range(min(STEPS, viewer.get("timeline.end"))):
        script, frame, before, after = viewer.frame.evaluate(STEP)
        viewer.wait()
        assert after == before - 1, f"a step went from observation {before} to {after}"
        pixels = viewer.pixels()
        assert (pixels[..., 3] == 255).all(), "a map was not painted"
        assert (pixels != shown).any(), "a step left the maps as they were"
        shown = pixels
        times.append((script, frame))
    memory = viewer.frame.evaluate("() => performance.memory.usedJSHeapSize") / 1e6
    assert viewer.complaints == []
    viewer.close()
    scripts, frames = zip(*times, strict=True)
    return first, statistics.median(scripts), statistics.median(frames), memory


def main(arguments: list[str] | None = None) -> None:
    """Print a row for each size of a probe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--observations", type=int, default=50)
    parser.add_argument("--sizes", default=",".join("x".join(map(str, size)) for size in SIZES))
    options = parser.parse_args(arguments)
    if options.observations < 2:
        parser.error("`--observations` must be at least 2: the slider has nowhere to go")
    with start_browser() as browser:
        print(f"Chromium {browser.version}\n")
        print("| run | first maps | step: script / frame | memory |\n|---|---|---|---|")
        for size in options.sizes.split(","):
            images, classes, side = map(int, size.split("x"))
            with tempfile.TemporaryDirectory() as folder:
                logs = Path(folder, "logs")
                record(logs / "run", images, classes, side, options.observations)
                with serve(Path(folder), "--logdir", str(logs)) as server:
                    server.wait_for_runs(1)
                    first, script, frame, memory = measure(browser, server.base)
            run = f"{images} × {classes} at {side}²"
            print(f"| {run} | {first:.2f} s | {script:.0f} / {frame:.0f} ms | {memory:.0f} MB |")


if __name__ == "__main__":
    main()
