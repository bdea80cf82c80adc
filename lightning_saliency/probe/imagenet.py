"""Look up ImageNet's thousand classes by name, in the lists of torchvision and timm."""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Set
from functools import cache
from typing import TypeAlias, overload

_Meanings: TypeAlias = dict[str, set[int]]  # the classes that each normalised name can mean

_CLOSEST = 5  # candidates offered for an unknown name


# The two lists agree on every class, and for 998 of them torchvision's name is one of timm's. For
# these two classes torchvision adds a word of its own ("crane bird"). Without their shorter names,
# a bare "crane" would silently mean the machine.
_ALSO_CALLED = {134: "crane", 639: "maillot"}


@overload
def class_index(name: str) -> int: ...  # type: ignore[overload-overlap]


@overload
def class_index(name: Iterable[str]) -> list[int]: ...


def class_index(name: str | Iterable[str]) -> int | list[int]:
    """Find the index of an ImageNet-1k class, from 0 to 999, by its name.

    Case, apostrophes and full stops are ignored, and spaces, hyphens and underscores are equal.
    All of torchvision's names are known. If timm is installed, so are synonyms such as "great gray
    owl" and "Strix nebulosa". A name that torchvision gives to one class always means that class,
    even if timm lists it as a synonym of another.

    Args:
        name: One name, or an ordered collection of names.

    Returns:
        One index, or a list of indices in the order of the names.

    Raises:
        TypeError: A name is not a string, or ``name`` is a set, which has no order.
        ValueError: A name is unknown or ambiguous; the message lists candidates.

    Example:
        >>> class_index("great grey owl"), class_index(["Zebra", "egyptian_cat"])
        (24, [340, 285])
    """
    if isinstance(name, str):
        return _find_index(name)
    if not isinstance(name, Iterable) or isinstance(name, bytes | Set):
        raise TypeError(
            f"`name` must be a class name or a list of them, got {name!r}. A set has no order, and "
            "an index needs no lookup."
        )
    return [_find_index(item) for item in name]


@cache
def class_names() -> tuple[str, ...]:
    """List the thousand class names in order, as torchvision spells them.

    Example:
        >>> class_names()[24]
        'great grey owl'
    """
    # Torchvision takes a second to import, and most runs do not need ImageNet's classes.
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.DEFAULT.meta["categories"])


def _find_index(name: str) -> int:
    if not isinstance(name, str):
        raise TypeError(f"`name` must be a class name, got {name!r} of {type(name).__name__}.")
    key = _normalise(name)
    found = _find_classes(key)
    if len(found) == 1:
        return next(iter(found))
    if not found:
        raise ValueError(_explain_unknown(name, key))
    candidates = "; ".join(_describe_class(index) for index in sorted(found))
    raise ValueError(f"`name` {name!r} means several classes: {candidates}.{_suggest_timm()}")


def _normalise(name: str) -> str:
    """Reduce a name to a form that is the same for all its spellings."""
    letters = re.sub(r"['’`.]", "", name.casefold())
    return " ".join(re.sub(r"[\s_\-‐‑–]+", " ", letters).split())


def _find_classes(key: str) -> set[int]:
    # Timm takes seconds to import, so it is consulted only if torchvision does not know the name.
    return _torchvision_meanings().get(key) or _timm_meanings().get(key, set())


@cache
def _torchvision_meanings() -> _Meanings:
    """The classes that each of torchvision's names means."""
    meanings: defaultdict[str, set[int]] = defaultdict(set)
    for index, name in enumerate(class_names()):
        meanings[_normalise(name)].add(index)
        if index in _ALSO_CALLED:
            meanings[_ALSO_CALLED[index]].add(index)
    return dict(meanings)


@cache
def _timm_meanings() -> _Meanings:
    """The classes that each of timm's synonyms means."""
    meanings: defaultdict[str, set[int]] = defaultdict(set)
    for index in range(len(class_names())):
        for synonym in _synonyms(index):
            meanings[_normalise(synonym)].add(index)
    return dict(meanings)


def _synonyms(index: int) -> list[str]:
    names = _timm_names()
    return [name.strip() for name in names[index].split(",")] if names else []


@cache
def _timm_names() -> tuple[str, ...]:
    """Timm's names of each class, separated by commas; empty if timm is not installed."""
    try:
        from timm.data.imagenet_info import ImageNetInfo
    except ImportError:
        return ()
    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_description(index) for index in range(len(class_names())))


def _describe_class(index: int) -> str:
    """Describe a class, with a name that means only this class if there is one."""
    own = class_names()[index]
    unique = (n for n in [own, *_synonyms(index)] if _find_classes(_normalise(n)) == {index})
    say = next(unique, None)
    return f"{index} is {own!r}, " + (f"say {say!r}" if say else f"use {index} itself")


def _explain_unknown(name: str, key: str) -> str:
    known = {**_timm_meanings(), **_torchvision_meanings()}
    words = set(key.split())
    holding = sorted((k for k in known if words and words <= set(k.split())), key=len)
    close = difflib.get_close_matches(key, known, n=_CLOSEST, cutoff=0.6)
    indices = list(dict.fromkeys(i for k in [*holding, *close] for i in sorted(known[k])))
    candidates = ", ".join(f"{class_names()[i]!r} ({i})" for i in indices[:_CLOSEST])
    closest = f"the closest are {candidates}." if candidates else "no class has a similar name."
    return f"`name` {name!r} is not an ImageNet class name; {closest}{_suggest_timm()}"


def _suggest_timm() -> str:
    return "" if _timm_names() else " `pip install timm` adds synonyms."
