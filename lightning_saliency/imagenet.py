"""ImageNet's thousand classes by name, from the lists that torchvision and timm keep."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from typing import overload

_CLOSEST = 5  # candidates that an unknown name is answered with

# torchvision tells these two from their namesakes by a word of its own. Without timm, whose list
# has no such word, a bare "crane" would silently be the machine.
_ALSO_CALLED = {134: "crane", 639: "maillot"}


@overload
def class_index(name: str) -> int: ...  # type: ignore[overload-overlap]
@overload
def class_index(name: Iterable[str]) -> list[int]: ...
def class_index(name: str | Iterable[str]) -> int | list[int]:
    """The index of an ImageNet-1k class, from 0 to 999, by its name.

    Upper and lower case are the same, and so are spaces, hyphens and underscores. Every name that
    torchvision knows is understood; synonyms ("great gray owl", "Strix nebulosa") too where timm
    is installed. A name that is the first of one class and a synonym of another means the first.

    Args:
        name: One name, or several.

    Returns:
        An index, or a list of them.

    Raises:
        TypeError: Not a string.
        ValueError: An unknown name, or one that means several classes; the message has candidates.

    Example:
        >>> class_index("great grey owl"), class_index(["Zebra", "egyptian_cat"])
        (24, [340, 285])
    """
    if isinstance(name, str):
        return _one(name)
    if not isinstance(name, Iterable):
        raise TypeError(f"`name` must be a class name or a list of them, got {name!r}.")
    return [_one(item) for item in name]


@cache
def class_names() -> tuple[str, ...]:
    """The thousand names in order, as torchvision spells them."""
    # Here, because torchvision takes a second to import and most runs have classes of their own.
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def _one(name: str) -> int:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a class name, got {name!r} of {type(name).__name__}.")
    key = _key(name)
    first, others = _meanings()
    found = first.get(key) or others.get(key) or set()
    if len(found) == 1:
        return next(iter(found))
    if found:
        told = "; ".join(_told(index) for index in sorted(found))
        raise ValueError(f"`name` {name!r} means several classes: {told}. Or pass the index.")
    raise ValueError(_unknown(name, key))


def _key(name: str) -> str:
    return " ".join(re.sub(r"[\s_-]+", " ", name).lower().split())


@cache
def _meanings() -> tuple[dict[str, set[int]], dict[str, set[int]]]:
    """The classes that each name means: as their first name, and as any other."""
    first: defaultdict[str, set[int]] = defaultdict(set)
    others: defaultdict[str, set[int]] = defaultdict(set)
    for index, name in enumerate(class_names()):
        # In torchvision's spelling a class is always found, whatever timm calls it.
        first[_key(name)].add(index)
        if index in _ALSO_CALLED:
            first[_ALSO_CALLED[index]].add(index)
        for synonym in _synonyms(index):
            others[_key(synonym)].add(index)
    return dict(first), dict(others)


def _synonyms(index: int) -> list[str]:
    names = _timm_names()
    return [name.strip() for name in names[index].split(",")] if names else []


@cache
def _timm_names() -> tuple[str, ...]:
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(1000))


def _told(index: int) -> str:
    """A class with the names that mean it alone."""
    own = class_names()[index]
    first, others = _meanings()
    unique = [
        name
        for name in dict.fromkeys([own, *_synonyms(index)])
        if (first.get(_key(name)) or others.get(_key(name))) == {index}
    ]
    return f"{index} is {own!r}" + (f", say {unique[0]!r}" if unique else "")


def _unknown(name: str, key: str) -> str:
    first, others = _meanings()
    known = {**others, **first}
    words = set(key.split())
    holding = sorted((k for k in known if words and words <= set(k.split())), key=len)
    close = difflib.get_close_matches(key, known, n=_CLOSEST, cutoff=0.6)
    indices = list(dict.fromkeys(i for k in [*holding, *close] for i in sorted(known[k])))
    told = ", ".join(f"{class_names()[i]!r} ({i})" for i in indices[:_CLOSEST])
    hint = "" if _timm_names() else " `pip install timm` brings synonyms."
    closest = f"the closest are {told}." if told else "no class has a name like it."
    return f"`name` {name!r} is none of ImageNet's class names; {closest}{hint}"
