"""Which module of the package imports which; the layers; a drawing of both.

`python tests/support/imports.py` writes the drawing into `docs/architecture.md`.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict

from paths import REPOSITORY

PACKAGE = REPOSITORY / "lightning_saliency"
PAGE = REPOSITORY / "docs/architecture.md"

# Imports go from a layer to lower ones, or stay in a folder.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors", "functional", "isolation"),
    ("attribution", "storage"),
    ("probe", "record", "rules"),
    ("captum", "draw", "health", "photos"),
    ("check", "explanation", "viewer"),
    ("observe",),
    ("callback", "testing", "cli"),
    ("lightning", "pytorch_lightning", "__main__"),
)
LAYERS = {room: number for number, floor in enumerate(FLOORS, start=1) for room in floor}


def _modules() -> dict[str, ast.Module]:
    """The modules by their path in the package; without the doors ``__init__``."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name != "__init__.py":
            name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            found[name] = ast.parse(path.read_text())
    return found


MODULES = _modules()


def room(module: str) -> str:
    """The folder of a module, or the module itself at the top level."""
    return module.split(".")[0]


def names_imported(module: str, *, late: bool = True) -> set[str]:
    """What a module imports, by whole names; ``late`` includes imports inside of functions."""
    tree = MODULES[module]
    nodes = ast.walk(tree) if late else (n for top in tree.body for n in _outside(top))
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{module}: imports are absolute, so that tests can follow them")
            names |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def _outside(node: ast.stmt) -> list[ast.AST]:
    """The nodes of a statement that run when the module is imported, or that types need."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return []
    return list(ast.walk(node))


def imported_modules(module: str, *, late: bool = True) -> set[str]:
    """The modules of the package that a module imports."""
    prefix = f"{PACKAGE.name}."
    own = {
        n.removeprefix(prefix) for n in names_imported(module, late=late) if n.startswith(prefix)
    }
    return {name for name in own if name in MODULES} | {
        "cli.commands" for name in own if name in ("cli", "cli.main")
    }


def circles() -> list[str]:
    """Modules that import themselves through others."""
    found = []
    for module in MODULES:
        reached: set[str] = set()
        pending = [module]
        while pending:
            for other in imported_modules(pending.pop()) - reached:
                reached.add(other)
                pending.append(other)
        if module in reached:
            found.append(module)
    return found


def arrows() -> dict[str, set[str]]:
    """By room, the other rooms that it imports."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        found[room(module)] |= {room(other) for other in imported_modules(module)} - {room(module)}
    return dict(found)


def drawing() -> str:
    """The layers from top to bottom, and what each room in them imports."""
    known = arrows()
    count = sum(map(len, known.values()))
    lines = [f"{len(LAYERS)} rooms on {len(FLOORS)} layers, {count} arrows, all of them down.", ""]
    for number, floor in reversed(list(enumerate(FLOORS, start=1))):
        for name in floor:
            inside = sorted(known[name], key=lambda other: (-LAYERS[other], other))
            what = f"→ {', '.join(inside)}" if inside else "imports no other room"
            lines.append(f"{number if name == floor[0] else ' '}  {name:18} {what}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    told = PAGE.read_text()
    fence = re.compile(r"(?<=```text\n).*?(?=```)", flags=re.S)
    PAGE.write_text(fence.sub(lambda _: drawing(), told, count=1))
    print(drawing())


if __name__ == "__main__":
    main()
