"""The shape of a package in figures: sizes, imports, comments. Files are read, never run.

    python benchmarks/shape.py lightning_saliency                     # one column
    python benchmarks/shape.py lightning_saliency path/to/torchcam    # next to another package

A *room* is a folder of the package, or a module at its top level. An arrow leads from a room to one
that it imports, even if it does so inside a function or for type checkers only. The rooms are put
on floors in such a way that as few arrows as possible lead up.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import tokenize
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
Arrows: TypeAlias = Mapping[str, Collection[str]]  # by name, the names that it leads to

ROOT = "__init__"  # the module of the package itself, which does not count as a room
EXACT = 14  # for circles of up to so many rooms, every order of the rooms is compared


@dataclass(frozen=True)
class Module:
    """One file of Python.

    Attributes:
        name: Dotted, within the package: ``"draw.canvas"``, ``"draw"`` for ``draw/__init__.py``.
        text: The source.
        folder: The dotted folder that relative imports start from; empty at the top.
    """

    name: str
    text: str
    folder: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def lines(self) -> int:
        return len(self.text.splitlines())

    @cached_property
    def comment_lines(self) -> int:
        """The lines that hold a comment, alone or after code."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return len({token.start[0] for token in tokens if token.type == tokenize.COMMENT})

    @cached_property
    def functions(self) -> list[Function]:
        """Functions and methods, nested ones included."""
        nodes = ast.walk(self.tree)
        return [node for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]

    @cached_property
    def uses(self) -> Counter[str]:
        """How often each name is read or called, as a plain name or as an attribute."""
        nodes = list(ast.walk(self.tree))
        names = [n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)]
        return Counter([*names, *(node.attr for node in nodes if isinstance(node, ast.Attribute))])


@dataclass(frozen=True)
class Package:
    """The modules of a package.

    Attributes:
        name: The name of its folder.
        modules: The modules, by name.
    """

    name: str
    modules: Mapping[str, Module]

    @classmethod
    def read(cls, folder: Path) -> Package:
        """Read the files under ``folder``.

        Raises:
            ValueError: The folder holds no Python.
        """
        folder = folder.resolve()
        found = {}
        for path in sorted(folder.rglob("*.py")):
            *folders, stem = path.relative_to(folder).with_suffix("").parts
            parts = folders if stem == "__init__" else [*folders, stem]
            name = ".".join(parts) or ROOT
            found[name] = Module(name, path.read_text(encoding="utf-8"), ".".join(folders))
        if not found:
            raise ValueError(f"{folder} must be the folder of a Python package; it has no modules.")
        return cls(folder.name, found)

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """By module, the other modules of the package that it imports."""
        return {
            module.name: {found for name in self._imported(module) if (found := self._find(name))}
            - {module.name}
            for module in self.modules.values()
        }

    def _imported(self, module: Module) -> Iterator[str]:
        """The dotted names that a module imports from this package, without the package's name."""
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Import):
                yield from (self._inside(alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                yield from (f"{base}.{alias.name}" if base else "" for alias in node.names)

    def _base(self, module: Module, node: ast.ImportFrom) -> str:
        """What a ``from … import`` imports from, as :meth:`_inside` names it."""
        if not node.level:
            return self._inside(node.module or "")
        folders = module.folder.split(".") if module.folder else []
        kept = folders[: len(folders) - node.level + 1]
        return ".".join([ROOT, *kept, *([node.module] if node.module else [])])

    def _inside(self, name: str) -> str:
        """``"__init__.draw"`` for ``"package.draw"``; empty for a name outside of the package."""
        package, _, rest = name.partition(".")
        return "" if package != self.name else f"{ROOT}.{rest}" if rest else ROOT

    def _find(self, name: str) -> str | None:
        """The module that a name is, or is in."""
        if not name:
            return None
        parts = name.split(".")[1:]
        while parts and ".".join(parts) not in self.modules:
            parts.pop()
        return ".".join(parts) or (ROOT if ROOT in self.modules else None)

    @cached_property
    def rooms(self) -> dict[str, set[str]]:
        """By room, the other rooms that it imports."""
        names = [name for name in self.modules if name != ROOT]
        found: dict[str, set[str]] = {room_of(name): set() for name in names}
        for name in names:
            others = {room_of(other) for other in self.imports[name] if other != ROOT}
            found[room_of(name)] |= others - {room_of(name)}
        return found


def room_of(module: str) -> str:
    return module.split(".")[0]


# --- arrows


def groups(arrows: Arrows) -> list[set[str]]:
    """The names that lead to each other, together; those a group leads to come before it."""
    reach = {name: reached(arrows, name) for name in arrows}
    found: dict[frozenset[str], None] = {}
    for name in sorted(arrows, key=lambda name: (len(reach[name] | {name}), name)):
        found[frozenset({name} | {o for o in reach[name] if name in reach[o]})] = None
    return [set(group) for group in found]


def reached(arrows: Arrows, start: str) -> set[str]:
    """All names that ``start`` leads to, directly or through others."""
    found: set[str] = set()
    pending = [start]
    while pending:
        new = set(arrows[pending.pop()]) - found
        found |= new
        pending += new
    return found


def circles(arrows: Arrows) -> list[set[str]]:
    return [group for group in groups(arrows) if len(group) > 1]


def arrows_up(arrows: Arrows) -> int:
    """The least number of arrows that must lead up, however the names are put on floors."""
    return sum(_least_up(arrows, sorted(circle)) for circle in circles(arrows))


def _least_up(arrows: Arrows, names: list[str]) -> int:
    leads = [sum(1 << k for k, other in enumerate(names) if other in arrows[n]) for n in names]
    if len(names) > EXACT:
        return _few_up(leads)
    # The best order of each set of names, the lowest first: whoever is added on top of the others
    # has an arrow up from each of them that leads to it.
    best = [0] * (1 << len(names))
    for chosen in range(1, len(best)):
        members = [k for k in range(len(names)) if chosen >> k & 1]
        best[chosen] = min(
            best[chosen ^ 1 << k] + sum(leads[other] >> k & 1 for other in members) for k in members
        )
    return best[-1]


def _few_up(leads: list[int]) -> int:
    """A small number of arrows up, for circles that are too large to compare every order."""
    left, up = set(range(len(leads))), 0
    while left:
        ins = {k: sum(leads[other] >> k & 1 for other in left) for k in left}
        outs = {k: sum(leads[k] >> other & 1 for other in left) for k in left}
        # The top floor goes to whoever is led to least, compared with what it leads to.
        top = max(sorted(left), key=lambda k: (ins[k] == 0, outs[k] - ins[k]))
        up += ins[top]
        left.remove(top)
    return up


def floors(arrows: Arrows) -> int:
    """The number of floors; names that lead to each other share one."""
    level: dict[str, int] = {}
    for group in groups(arrows):
        below = {other for name in group for other in arrows[name]} - group
        level |= dict.fromkeys(group, 1 + max((level[other] for other in below), default=0))
    return max(level.values(), default=0)


# --- functions


def length(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function, clean=False) is None:
        return lines
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1)


def used_once(modules: Iterable[Module]) -> float:
    """The part of the private functions and methods whose name their module uses exactly once."""
    uses = [
        module.uses[function.name]
        for module in modules
        for function in module.functions
        if function.name.startswith("_") and not function.name.endswith("__")
    ]
    return uses.count(1) / len(uses) if uses else 0.0


# --- the table


def figures(package: Package) -> dict[str, str]:
    """The figures of a package, as they are printed."""
    modules = list(package.modules.values())
    lines = sum(module.lines for module in modules)
    longest = max(modules, key=lambda module: module.lines)
    functions = [(length(f), f"{m.name}.{f.name}") for m in modules for f in m.functions]
    peak, where = max(functions, default=(0, "–"))
    median = statistics.median(size for size, _ in functions) if functions else 0
    comments = sum(module.comment_lines for module in modules)
    return {
        "modules": str(len(modules)),
        "lines": f"{lines:,}",
        "longest file": f"{longest.lines} ({longest.name})",
        "functions": str(len(functions)),
        "median function, lines": f"{median:g}",
        "longest function, lines": f"{peak} ({where})",
        "private functions used once": f"{used_once(modules):.0%}",
        "lines with a comment": f"{comments / max(1, lines):.1%}",
        "rooms": str(len(package.rooms)),
        "floors": str(floors(package.rooms)),
        "arrows between rooms": str(sum(map(len, package.rooms.values()))),
        "arrows up": str(arrows_up(package.rooms)),
        "circles of rooms": _in_words(circles(package.rooms)),
        "imports between modules": str(sum(map(len, package.imports.values()))),
        "circles of modules": _in_words(circles(package.imports)),
    }


def _in_words(found: Collection[Collection[str]]) -> str:
    sizes = ", ".join(str(size) for size in sorted(map(len, found), reverse=True))
    return f"{len(found)} (of {sizes})" if found else "0"


def table(columns: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Rows in Markdown: one per figure, one column per package."""
    names = list(next(iter(columns.values())))
    rows = [["", *columns], *([n, *(c[n] for c in columns.values())] for n in names)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    justify: list[Callable[[str, int], str]] = [str.ljust, *(len(columns) * [str.rjust])]
    return [
        "| " + " | ".join(j(c, w) for j, c, w in zip(justify, row, widths, strict=True)) + " |"
        for row in rows
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="folders of Python packages")
    try:
        found = {
            str(folder): figures(Package.read(folder)) for folder in parser.parse_args().folders
        }
    except (ValueError, SyntaxError, OSError) as error:
        parser.error(str(error))
    print(*table(found), sep="\n")


if __name__ == "__main__":
    main()
