"""See where a classifier looks while it trains."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_saliency.check.attention import AttentionCheck as AttentionCheck
    from lightning_saliency.check.reference import Reference as Reference
    from lightning_saliency.errors import SaliencyError as SaliencyError
    from lightning_saliency.explanation import Explanation as Explanation
    from lightning_saliency.explanation import explain as explain
    from lightning_saliency.probe.batch import ProbeBatch as ProbeBatch
    from lightning_saliency.probe.imagenet import class_index as class_index
    from lightning_saliency.pytorch_lightning import SaliencyCallback as SaliencyCallback

# Names are imported when they are first asked for (PEP 562): Lightning takes seconds to import, and
# neither a command line nor `explain` needs it.
_HOMES = {
    "AttentionCheck": "check.attention",
    "Explanation": "explanation",
    "ProbeBatch": "probe.batch",
    "Reference": "check.reference",
    "SaliencyCallback": "pytorch_lightning",
    "SaliencyError": "errors",
    "class_index": "probe.imagenet",
    "explain": "explanation",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
