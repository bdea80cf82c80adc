"""A small front end for tests in which the real one does not matter; a browser for the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser import start_browser

from lightning_saliency.viewer import bundle

DATA = """import {
  id,
} from "./names.js";
export function find(page, name) { return id(page, name); }
"""
NAMES = """const find = 3;
export const id = (page, name) => page.getElementById(name, find);
"""
MODULES = {
    "page.js": 'import {find as look} from "./data.js";\nlook(document, "app");\n',
    "data.js": DATA,
    "names.js": NAMES,
    "app.css": ".saliency { color: red }\n",
}


@pytest.fixture
def front(tmp_path, monkeypatch):
    """The folder of the small front end, which is used in place of the real one."""
    folder = tmp_path / "front"
    folder.mkdir()
    for name, text in MODULES.items():
        (folder / name).write_text(text)
    monkeypatch.setattr(bundle, "STATIC", folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with start_browser() as running:
        yield running
