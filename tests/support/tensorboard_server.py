"""A real TensorBoard in a process of its own, asked over HTTP."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paths import REPOSITORY

GROUP = "tensorboard_plugins"


@dataclass(frozen=True)
class Answer:
    """What a server said; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        def refuse(text: str) -> float:
            raise AssertionError(f"{text} is not JSON to a browser")

        return json.loads(self.body, parse_constant=refuse)


class Server:
    """A running TensorBoard."""

    def __init__(self, base: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.base, self.process, self.log = base, process, log

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """Ask for a path below ``data/plugin/saliency/``, or for any if it begins with a slash."""
        url = self.base + (path if path.startswith("/") else f"/data/plugin/saliency/{path}")
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(url, headers=sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return _read(answer)
        except urllib.error.HTTPError as error:
            return _read(error)

    def wait_for_runs(self, count: int) -> list[dict[str, Any]]:
        """Ask until there are ``count`` runs."""
        for _ in range(200):
            runs: list[dict[str, Any]] = self.get("runs").json["runs"]
            if len(runs) == count:
                return runs
            time.sleep(0.1)
        raise AssertionError(f"{count} runs expected, {[r['id'] for r in runs]} found")


def _read(answer: Any) -> Answer:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    return Answer(answer.status, headers, answer.read())


@contextmanager
def serve(folder: Path, *arguments: str, prefix: str = "", **environ: str) -> Iterator[Server]:
    """Start a TensorBoard with the tab on a port of this machine; end it afterwards.

    Args:
        folder: For the log of the server.
        arguments: Of the command line.
        prefix: What ``--path_prefix`` is in ``arguments``.
        environ: Added to the environment.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = folder / f"tensorboard-{port}.log"
    path = [str(REPOSITORY), *plugin_path(folder)]
    command = [sys.executable, "-m", "tensorboard.main", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--reload_interval", "1", *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path), **environ},
        )
    try:
        server = Server(f"http://127.0.0.1:{port}{prefix}", process, log)
        _wait_until_ready(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(server: Server) -> None:
    for _ in range(600):
        if server.process.poll() is not None:
            raise AssertionError(server.log.read_text())
        try:
            if server.get("/data/environment").status == 200:
                return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    raise AssertionError(f"TensorBoard does not answer:\n{server.log.read_text()}")


def plugin_path(folder: Path) -> Sequence[str]:
    """What to add to Python's path so that TensorBoard finds the entry point of this repository.

    Nothing, where the package has been installed since the entry point was added.
    """
    known = importlib.metadata.entry_points(group=GROUP)
    if any(point.value.startswith("lightning_saliency.") for point in known):
        return []
    section = re.search(
        rf"^\[project\.entry-points\.{GROUP}\]\n(.*?)\n\n",
        (REPOSITORY / "pyproject.toml").read_text(),
        flags=re.M | re.S,
    )
    assert section is not None
    place = folder / "plugin"
    info = place / "saliency_tab-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: saliency-tab\nVersion: 0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{section[1].replace(chr(34), '')}\n")
    return [str(place)]
