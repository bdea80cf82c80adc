"""What `make docs` does to pages before MkDocs renders them.

The documents are written to be read in the repository. Some of them lie outside of `docs/`, and
they link to files that are no pages.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from mkdocs.structure.files import File, Files

REPOSITORY = Path(__file__).parents[2]
DOCS = REPOSITORY / "docs"

# Pages that are made of documents elsewhere in the repository.
PAGES = {
    "index.md": "README.md",
    "results.md": "benchmarks/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
}

ALONE = ("index.md", "getting-started.md", "gallery.md")  # They have no siblings in the navigation.

_FENCE = re.compile(r"^(`{3,}).*?^\1 *$", flags=re.M | re.S)
_LINK = re.compile(r"(?P<text>!?\[[^\]]*\])\((?P<target>[^)\s]+)\)")
_SOURCE = re.compile(r'(?<=src=")(?P<target>[^"]+)')
_DRAWING = re.compile(r"!\[[^\]]*\]\((?P<target>[^)\s]+\.svg)\)")
_HELP = re.compile(r"<!-- help:(?P<words>[^>]*)-->")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside of ``docs/``."""
    for uri, path in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links at pages of the site, and fill in the drawing and the help of commands."""
    uri: str = page.file.src_uri
    if uri in ALONE:
        page.meta["hide"] = ["navigation"]
    parts, end = [], 0
    for fence in _FENCE.finditer(markdown):
        parts += [_outside_of_code(markdown[end : fence.start()], uri), fence[0]]
        end = fence.end()
    return "".join([*parts, _outside_of_code(markdown[end:], uri)])


def _outside_of_code(text: str, uri: str) -> str:
    source = REPOSITORY / PAGES.get(uri, f"docs/{uri}")
    text = _DRAWING.sub(lambda found: _inline(source.parent / found["target"]), text)
    text = _LINK.sub(lambda found: _link(found["text"], found["target"], source, uri), text)
    text = _SOURCE.sub(lambda found: _find_page(found["target"], source, uri) or found[0], text)
    return _HELP.sub(lambda found: f"```text\n{command_help(*found['words'].split())}```", text)


def _inline(drawing: Path) -> str:
    """A drawing as part of the page, so that it takes the colours of the theme."""
    return "<div>" + re.sub(r"\s*\n", " ", drawing.read_text()) + "</div>"


def _link(text: str, target: str, source: Path, uri: str) -> str:
    path, _, anchor = target.partition("#")
    if not path or "://" in path:
        return f"{text}({target})"
    page = _find_page(path, source, uri)
    if page is not None:
        return f"{text}({page}{'#' * bool(anchor)}{anchor})"
    if (source.parent / path).exists():
        return text[1:-1]  # The site has no page for it, so only its name stays.
    return f"{text}({target})"  # A strict build fails here.


def _find_page(path: str, source: Path, uri: str) -> str | None:
    """The path of a page or picture from the page ``uri``, if the site has it."""
    wanted = Path(os.path.normpath(source.parent / path))
    made = {REPOSITORY / document: page for page, document in PAGES.items()}
    if wanted in made:
        found = made[wanted]
    elif wanted.is_relative_to(DOCS) and wanted.is_file() and wanted.suffix != ".py":
        found = wanted.relative_to(DOCS).as_posix()
    else:
        return None
    return posixpath.relpath(found, posixpath.dirname(uri) or ".")


def command_help(*words: str) -> str:
    """What `lightning-saliency … --help` prints."""
    if str(REPOSITORY) not in sys.path:
        sys.path.insert(0, str(REPOSITORY))
    from lightning_saliency.cli import main

    printed = io.StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="100", NO_COLOR="1"),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*words, "--help"])
    return printed.getvalue()
