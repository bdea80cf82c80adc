"""Read pages that hold runs, as a browser would."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from typing import Any

import numpy as np


class Page(HTMLParser):
    """The elements of a page, and the text of those that have an id."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.texts: dict[str, str] = {}
        self.id = ""
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        told = {name: value or "" for name, value in attrs}
        self.tags.append((tag, told))
        self.id = told.get("id", "") if tag == "script" else self.id

    def handle_endtag(self, tag) -> None:
        self.id = "" if tag == "script" else self.id

    def handle_data(self, data) -> None:
        if self.id:
            self.texts[self.id] = self.texts.get(self.id, "") + data
        self.words += data

    @property
    def index(self) -> Any:
        return json.loads(self.texts["saliency-index"])


def decode(text: str, shape) -> np.ndarray:
    """Maps in a page, as int8."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), np.int8).reshape(shape)
