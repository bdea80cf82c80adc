"""Recorded runs as a page: a tab of TensorBoard, one HTML file, a notebook; without torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_saliency.viewer.notebook import show as show

__all__ = ["show"]


def __getattr__(name: str) -> Any:
    # TensorBoard imports this package at every start, and does not need what a notebook shows.
    if name != "show":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lightning_saliency.viewer.notebook import show

    return show
