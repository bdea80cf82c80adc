"""Make the picture of a failed check, and print the report that `docs/guides/regression.md` quotes.

    python docs/make_attention_picture.py

It runs `examples/shortcut.py`, which trains four small networks in a minute and a half.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
ROWS = 4  # of the eight in the picture of the check
HEAD, ROW = 24, 120  # heights in pixels


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        example = HERE.parent / "examples" / "shortcut.py"
        command = [sys.executable, str(example), "--quiet", "--logdir", "logs/shortcut"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
        print(done.stdout)
        made = Image.open(Path(folder, "logs/shortcut/shortcut/version_0/saliency/attention.png"))
        picture = made.crop((0, 0, made.width, HEAD + ROWS * ROW))
        path = HERE / "images" / "attention.png"
        picture.convert("RGB").save(path, optimize=True)
        print(f"{path}  {picture.width}×{picture.height}, {path.stat().st_size / 1024:.0f} KB")


if __name__ == "__main__":
    main()
