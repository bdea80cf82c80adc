"""The modules of the front end as one script, for pages that can load nothing."""

from __future__ import annotations

import re
from pathlib import Path

STATIC = Path(__file__).parent / "static"

_IMPORT = re.compile(r'^import\s*\{([^}]*)\}\s*from\s*"\./([\w.-]+)";?[ \t]*$', re.M)
_EXPORT = re.compile(r"^export\s+((?:async\s+)?(?:function|class|const)\s+(\w+))", re.M)
_OTHER = re.compile(r"^(?:import|export)\b.*$", re.M)


def bundle_styles() -> str:
    """The style sheets of the front end, one after another."""
    sheets = [path.read_text("utf-8") for path in sorted(STATIC.glob("*.css"))]
    return _check("\n".join(sheets), "</style")


def bundle_scripts(entry: str) -> str:
    """Join a module and all that it imports.

    Each module becomes a function, which returns what the module exports, so that two modules can
    use the same names.

    Args:
        entry: The name of a file among the front end's.

    Raises:
        FileNotFoundError: There is no such module.
        ValueError: A module imports or exports in a way that is not understood, or imports itself
            through others.
    """
    parts: list[str] = []
    _add(entry, parts, {}, ())
    return _check("\n".join(parts), "</script")


def _add(name: str, parts: list[str], known: dict[str, str], above: tuple[str, ...]) -> str:
    """Add a module after those that it imports.

    Args:
        name: The name of its file.
        parts: The code so far, which grows.
        known: The variables of the modules so far, which grow.
        above: The modules that lead to this one.

    Returns:
        The variable that holds what the module exports.
    """
    if name in above:
        raise ValueError(f"{' imports '.join((*above, name))}: such a circle cannot be bundled")
    if name not in known:
        source = (STATIC / name).read_text("utf-8")
        lines = []
        for names, other in _IMPORT.findall(source):
            variable = _add(other, parts, known, (*above, name))
            taken = names.replace(" as ", ": ").replace("\n", " ")
            lines.append(f"const {{{taken}}} = {variable};")
        exported = ", ".join(each for _, each in _EXPORT.findall(source))
        body = _EXPORT.sub(r"\1", _IMPORT.sub("", source))
        if (other_line := _OTHER.search(body)) is not None:
            raise ValueError(f"{name}: `{other_line[0]}` cannot be bundled")
        known[name] = f"module{len(known)}"
        code = "\n".join((*lines, body.strip(), f"return {{{exported}}};"))
        parts.append(f"const {known[name]} = (() => {{\n{code}\n}})();")
    return known[name]


def _check(text: str, end: str) -> str:
    """Refuse text that would end the element in which it stands."""
    if end in text.lower() or "<!--" in text:
        raise ValueError(f"the front end contains {end!r} or a comment of HTML")
    return text
