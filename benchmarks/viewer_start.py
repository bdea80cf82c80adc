"""How much longer TensorBoard takes to start with the tab "Saliency".

    python benchmarks/viewer_start.py [--rounds N] [--logdir DIR]

Both variants start in turn, in processes of their own, and are timed until they answer. The
difference is the median of the differences of neighbours: a busy machine drifts, those do not.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PATIENCE = 120  # seconds

# The entry points of the environment are replaced, so that both variants start from the same one,
# whether or not this package is installed in it.
SCRIPT = """
import sys, tensorboard.default as default
def plugins():
    if {with_tab}:
        from lightning_saliency.viewer.entry import SaliencyLoader
        return [SaliencyLoader]
    return []
default.get_dynamic_plugins = plugins
from tensorboard.main import run_main
sys.argv[0] = "tensorboard"
run_main()
"""


def start(logdir: str, *, with_tab: bool) -> float:
    """The seconds from the start of a TensorBoard to its first answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = SCRIPT.format(with_tab=with_tab)
    arguments = ["--logdir", logdir, "--host", "127.0.0.1", "--port", port]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    try:
        while not answers(f"http://127.0.0.1:{port}/data/plugins_listing", with_tab):
            if process.poll() is not None or time.perf_counter() - begun > PATIENCE:
                raise RuntimeError("TensorBoard did not start")
            time.sleep(0.01)
        return time.perf_counter() - begun
    finally:
        process.terminate()
        process.wait()


def answers(url: str, with_tab: bool) -> bool:
    """Whether TensorBoard lists its tabs, and has the tab exactly if it should."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            listed = b'"saliency"' in answer.read()
    except (OSError, urllib.error.URLError):
        return False
    if listed != with_tab:
        raise RuntimeError(f"the tab is {'' if listed else 'not '}listed")
    return True


def main(arguments: list[str] | None = None) -> None:
    """Print the seconds of both variants, and their difference."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--logdir", help="by default an empty folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as empty:
        logdir = options.logdir or empty
        start(logdir, with_tab=True)  # the first start of all reads files from a cold disk
        pairs = [
            (start(logdir, with_tab=False), start(logdir, with_tab=True))
            for _ in range(options.rounds)
        ]
    bare, tab = (statistics.median(times) for times in zip(*pairs, strict=True))
    more = statistics.median(b - a for a, b in pairs)
    print(f"without the tab {bare:.2f} s, with it {tab:.2f} s: {more:+.2f} s")


if __name__ == "__main__":
    main()
