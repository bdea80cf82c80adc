"""The tab's routes without a server: what TensorBoard would call."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import numpy as np
from tensorboard.plugins.base_plugin import TBContext
from werkzeug.test import Client

from lightning_saliency.viewer.plugin import SaliencyPlugin


class Tab:
    """The tab for a log folder."""

    def __init__(self, logdir: Path | str, spec: str = "") -> None:
        flags = SimpleNamespace(logdir_spec=spec)
        self.plugin = SaliencyPlugin(TBContext(logdir=str(logdir), flags=flags))
        self.apps = self.plugin.get_plugin_apps()

    def get(self, path: str, **options: Any) -> Any:
        """Ask for a route with a query."""
        route, _, query = path.partition("?")
        return Client(self.apps[f"/{route}"]).open(query_string=query, **options)

    def runs(self) -> list[str]:
        """The ids of the runs."""
        return [run["id"] for run in self.get("runs").json["runs"]]

    def run(self, id_: str) -> dict[str, Any]:
        """The index of a run."""
        answer = self.get(f"run?id={quote(id_, safe='')}")
        assert answer.status_code == 200, answer.text
        index: dict[str, Any] = answer.json
        return index

    def maps(self, id_: str, step: int, more: str = "") -> np.ndarray:
        """Maps as a browser gets them, flat."""
        answer = self.get(f"maps?id={quote(id_, safe='')}&step={step}{more}")
        assert answer.status_code == 200, answer.text
        return np.frombuffer(answer.data, np.int8)


def forge(path: Path, change: Any) -> None:
    """Change the header of a safetensors file in place; ``change`` gets and edits it."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
