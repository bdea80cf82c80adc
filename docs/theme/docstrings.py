"""Docstrings as the site shows them: their roles become links or code."""

from __future__ import annotations

import re
from typing import Any

import griffe

PACKAGE = "lightning_saliency"

# Where the reference documents a name. The methods of classes are found in them.
DOCUMENTED = {
    **{
        name: f"{PACKAGE}.{name}"
        for name in (
            "AttentionCheck",
            "Explanation",
            "ProbeBatch",
            "Reference",
            "SaliencyCallback",
            "SaliencyError",
            "class_index",
            "explain",
        )
    },
    "declare": f"{PACKAGE}.rules.declare",
    "Coverage": f"{PACKAGE}.rules.Coverage",
    "read_photo": f"{PACKAGE}.photos.read_photo",
    "to_tensor": f"{PACKAGE}.photos.to_tensor",
}
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_EXAMPLE = re.compile(r"^( *)Example:$", flags=re.M)  # Griffe knows the plural only.


class PlainRoles(griffe.Extension):
    """Turn roles such as ``:class:`ProbeBatch``` into links, or into code if there is no page."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            text = _ROLE.sub(lambda role: _link(role[1], obj), obj.docstring.value)
            obj.docstring.value = _EXAMPLE.sub(r"\1Examples:", text)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Give the callback the docstring and the arguments that it takes from its base."""
        base = pkg["callback.hooks.SaliencyCallbackBase"]
        for module in ("pytorch_lightning", "lightning"):
            callback = pkg[f"{module}.SaliencyCallback"]
            callback.docstring = base.docstring
            callback.set_member("__init__", base["__init__"])


def _link(name: str, obj: griffe.Object) -> str:
    last = name.rpartition(".")[2]
    owner = obj if obj.is_class else obj.parent
    if last in DOCUMENTED:
        return f"[`{last}`][{DOCUMENTED[last]}]"
    if owner is not None and owner.name in DOCUMENTED and last in owner.members:
        return f"[`{last}`][{DOCUMENTED[owner.name]}.{last}]"
    return f"`{last}`"
