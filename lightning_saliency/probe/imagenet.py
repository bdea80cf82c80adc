"""ImageNet's thousand classes by name, from the lists that torchvision and timm keep."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Set
from functools import cache
from typing import TypeAlias, overload

_Meanings: TypeAlias = dict[str, set[int]]  # classes by what a name comes down to

_CLOSEST = 5  # candidates that an unknown name is answered with


# The two lists give every class the same meaning, and torchvision's name is one of timm's for 998
# of them. These two torchvision tells from their namesakes by a word of its own; without timm's
# name for them, a bare "crane" would silently be the machine.
_ALSO_CALLED = {134: "crane", 639: "maillot"}


@overload
def class_index(name: str) -> int: ...  # type: ignore[overload-overlap]


@overload
def class_index(name: Iterable[str]) -> list[int]: ...


def class_index(name: str | Iterable[str]) -> int | list[int]:
    """The index of an ImageNet-1k class, from 0 to 999, by its name.

    Upper and lower case are the same, and so are spaces, hyphens and underscores; apostrophes and
    full stops do not count. Every name that torchvision knows is understood; synonyms ("great gray
    owl", "Strix nebulosa") too where timm is installed. A name that torchvision gives to one class
    and that is a synonym of another means the first, with timm and without.

    Args:
        name: One name, or several in order.

    Returns:
        An index, or a list of them.

    Raises:
        TypeError: Not a string; or a set, which has no order.
        ValueError: An unknown name, or one that means several classes; the message has candidates.

    Example:
        >>> class_index("great grey owl"), class_index(["Zebra", "egyptian_cat"])
        (24, [340, 285])
    """
    if isinstance(name, str):
        return _one(name)
    if not isinstance(name, Iterable) or isinstance(name, bytes | Set):
        raise TypeError(
            f"`name` must be a class name or a list of them, got {name!r}. A set has no order, and "
            "an index needs no looking up."
        )
    return [_one(item) for item in name]


@cache
def class_names() -> tuple[str, ...]:
    """The thousand names in order, as torchvision spells them.

    Example:
        >>> class_names()[24]
        'great grey owl'
    """
    # Here, because torchvision takes a second to import and most runs have classes of their own.
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def _one(name: str) -> int:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a class name, got {name!r} of {type(name).__name__}.")
    key = _key(name)
    found = _meant(key)
    if len(found) == 1:
        return next(iter(found))
    raise ValueError(_ambiguous(name, found) if found else _unknown(name, key))


def _key(name: str) -> str:
    """What is left of a name when spelling does not count."""
    letters = re.sub(r"['’`.]", "", name.casefold())
    return " ".join(re.sub(r"[\s_\-‐‑–]+", " ", letters).split())


def _meant(key: str) -> set[int]:
    # timm, which takes seconds to import, is asked only for what torchvision does not know.
    return _first().get(key) or _others().get(key, set())


@cache
def _first() -> _Meanings:
    """The classes that each of torchvision's names means."""
    meanings: defaultdict[str, set[int]] = defaultdict(set)
    for index, name in enumerate(class_names()):
        meanings[_key(name)].add(index)
        if index in _ALSO_CALLED:
            meanings[_ALSO_CALLED[index]].add(index)
    return dict(meanings)


@cache
def _others() -> _Meanings:
    """The classes that each of timm's synonyms means."""
    meanings: defaultdict[str, set[int]] = defaultdict(set)
    for index in range(len(class_names())):
        for synonym in _synonyms(index):
            meanings[_key(synonym)].add(index)
    return dict(meanings)


def _synonyms(index: int) -> list[str]:
    names = _timm_names()
    return [name.strip() for name in names[index].split(",")] if names else []


@cache
def _timm_names() -> tuple[str, ...]:
    """What timm calls each class, synonyms set off by commas; nothing without timm."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(len(class_names())))


def _ambiguous(name: str, found: set[int]) -> str:
    told = "; ".join(_told(index) for index in sorted(found))
    return f"`name` {name!r} means several classes: {told}.{_hint()}"


def _told(index: int) -> str:
    """A class, and how to say that it is meant and no other."""
    own = class_names()[index]
    alone = (n for n in [own, *_synonyms(index)] if _meant(_key(n)) == {index})
    say = next(alone, None)
    return f"{index} is {own!r}, " + (f"say {say!r}" if say else f"use {index} itself")


def _unknown(name: str, key: str) -> str:
    known = {**_others(), **_first()}
    words = set(key.split())
    holding = sorted((k for k in known if words and words <= set(k.split())), key=len)
    close = difflib.get_close_matches(key, known, n=_CLOSEST, cutoff=0.6)
    indices = list(dict.fromkeys(i for k in [*holding, *close] for i in sorted(known[k])))
    told = ", ".join(f"{class_names()[i]!r} ({i})" for i in indices[:_CLOSEST])
    closest = f"the closest are {told}." if told else "no class has a name like it."
    return f"`name` {name!r} is none of ImageNet's class names; {closest}{_hint()}"


def _hint() -> str:
    return "" if _timm_names() else " `pip install timm` brings synonyms."
