"""Make the picture of TensorBoard's Saliency tab at the top of the README.

    python docs/make_viewer_picture.py

It runs `examples/shortcut.py`, which trains four small networks in a minute and a half, starts a
TensorBoard on their logs and looks at it with the Chromium of this machine.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "tests" / "support"))

from browser import Viewer, start_browser  # noqa: E402
from tensorboard_server import Server, serve  # noqa: E402

SIZE = {"width": 1400, "height": 860}


def photograph(server: Server) -> Image.Image:
    """Photograph one class over time in the run with the shortcut and in a good one."""
    ids = [run["id"] for run in server.wait_for_runs(4)]
    run = next(name for name in ids if "good" not in name)
    good = next(name for name in ids if "good-1" in name)
    with start_browser() as browser:
        viewer = Viewer(browser, viewport=SIZE, device_scale_factor=1.25)
        viewer.open_tab(server.base, run=run, vs=good, view="time")
        viewer.page.wait_for_timeout(1500)
        data = viewer.page.screenshot()
        viewer.close()
    return Image.open(io.BytesIO(data)).convert("RGB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        example = REPOSITORY / "examples" / "shortcut.py"
        command = [sys.executable, str(example), "--quiet", "--logdir", "logs/shortcut"]
        subprocess.run(command, cwd=folder, capture_output=True, check=True)
        with serve(Path(folder), "--logdir", str(Path(folder, "logs"))) as server:
            picture = photograph(server)
    path = REPOSITORY / "docs" / "images" / "viewer.png"
    # The page has few colours, so a palette loses nothing that can be seen.
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}  {picture.width}×{picture.height}, {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
