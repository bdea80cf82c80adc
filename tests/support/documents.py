"""The documents of the repository, and the blocks of code in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from paths import DOCS, REPOSITORY

README, CONTRIBUTING, CHANGELOG = (
    REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
)
RESULTS = REPOSITORY / "benchmarks/RESULTS.md"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [README, *PAGES, CONTRIBUTING, CHANGELOG, RESULTS]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        kind: The language that it names; empty if none.
        code: Its lines.
    """

    kind: str
    code: str


def label(path: Path) -> str:
    """The path of a document in the repository."""
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path, kind: str = "") -> list[Block]:
    """The blocks of code in a document, of one kind or of all."""
    found = [Block(*block) for block in _BLOCK.findall(path.read_text())]
    return [block for block in found if kind in ("", block.kind)]
