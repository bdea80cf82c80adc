"""Classes and functions of the user, named on the command line as ``pkg.module:Name``."""

from __future__ import annotations

import importlib
import re
import sys
from ast import literal_eval
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_saliency.functional.text import shorten
from lightning_saliency.storage.files import summarise

_WORD = r"[^\W\d]\w*"
_OBJECT = re.compile(rf"{_WORD}(\.{_WORD})*:{_WORD}")


def import_object(option: str, path: str) -> Any:
    """Import a class or a function, with the current folder on the path.

    The code of its module is executed, as by any import.

    Args:
        option: The option of the command line, for messages.
        path: Such as ``"pkg.module:Name"``.

    Raises:
        ValueError: The path is malformed, the module cannot be imported, or it lacks the name.
    """
    if not _OBJECT.fullmatch(path):
        raise ValueError(f"`{option}` must read like pkg.module:Name, got {path!r}{_guess(path)}")
    module_name, _, name = path.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        absent = error.name if isinstance(error, ModuleNotFoundError) else None
        if absent is not None and f"{module_name}.".startswith(f"{absent}."):
            raise ValueError(
                f"`{option}`: there is no module {absent!r} in {here} or among the installed "
                "packages. Run the command in the folder that holds it"
            ) from error
        raise ValueError(
            f"`{option}`: importing {module_name!r} failed: {describe(error)}. Code that should "
            "not run on import belongs under `if __name__ == '__main__':`"
        ) from error
    if not hasattr(module, name):
        own = [n for n, v in vars(module).items() if getattr(v, "__module__", "") == module_name]
        defined = shorten(", ".join(own), 200) or "nothing"
        raise ValueError(f"`{option}`: {module_name!r} has no {name!r}; it defines {defined}")
    return getattr(module, name)


def _guess(path: str) -> str:
    """Suggest what may have been meant by the path of a file, or by one with dots alone."""
    head, _, name = path.rpartition(":" if ":" in path else ".")
    guess = f"{head.removesuffix('.py').strip('./').replace('/', '.')}:{name}"
    return f". Did you mean {guess}?" if _OBJECT.fullmatch(guess) and name != "py" else ""


def parse_arguments(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Read keyword arguments, each written as ``name=value``.

    Args:
        option: The option of the command line, for messages.
        given: Values are Python literals; whatever else they are, they are taken as strings.

    Raises:
        ValueError: One has no name.

    Example:
        >>> parse_arguments("--model-arg", ["width=64", "sizes=(1, 2)", "arch=resnet18"])
        {'width': 64, 'sizes': (1, 2), 'arch': 'resnet18'}
    """
    found: dict[str, Any] = {}
    for argument in given:
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"`{option}` must read like name=value, got {argument!r}")
        try:
            found[name] = literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[name] = value
    return found


def describe(error: BaseException) -> str:
    """The type and the message of an error in one line."""
    return f"{type(error).__name__}: {summarise(error)}"
