"""Volumes and clips as flat pictures: what is strongest along an axis, or one slice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from torch import Tensor

Depth: TypeAlias = Literal["max", "middle"] | int

DEPTHS: tuple[Depth, ...] = ("max", "middle")
AXES = (-3, -2, -1)  # the three axes of space of images (N, C, D, H, W)


@dataclass(frozen=True, slots=True)
class Projection:
    """How images ``(N, C, D, H, W)`` and their maps become flat.

    Pictures show what is strongest along one axis, which is a maximum intensity projection, or a
    single slice. What is measured is always the whole volume: its mass is added up along the axis.

    Attributes:
        depth: ``"max"``; ``"middle"`` for the slice in the middle; or the number of a slice.
        axis: The axis to look along: -3, -2 or -1.

    Example:
        >>> import torch
        >>> volume = torch.tensor([[[1.0, -3.0]], [[2.0, 0.5]]])  # two slices of 1×2 pixels
        >>> Projection("max", -3).strongest(volume)
        tensor([[ 2., -3.]])
        >>> Projection(1, -3).strongest(volume)
        tensor([[2.0000, 0.5000]])
    """

    depth: Depth
    axis: int

    def fold(self, volumes: Tensor) -> Tensor:
        """Turn ``(N, C, D, H, W)`` into flat images whose channels hold all that may be shown.

        Returns:
            ``(N, C, h, w)``, a slice, or ``(N, C·d, h, w)``, each slice along the axis. What is
            strongest among these channels is what is strongest among channels and slices.
        """
        if self.depth == "max":
            return volumes.movedim(self.axis, 2).flatten(1, 2)
        return self._slice(volumes)

    def strongest(self, volumes: Tensor) -> Tensor:
        """Flatten ``(…, D, H, W)`` to ``(…, h, w)``, the values of largest magnitude, signed."""
        if self.depth != "max":
            return self._slice(volumes)
        highest, lowest = volumes.amax(dim=self.axis), volumes.amin(dim=self.axis)
        return highest.where(highest >= -lowest, lowest)

    def brightest(self, volumes: Tensor) -> Tensor:
        """Flatten images ``(…, D, H, W)`` to ``(…, h, w)``, each channel by itself."""
        return volumes.amax(dim=self.axis) if self.depth == "max" else self._slice(volumes)

    def total(self, masses: Tensor) -> Tensor:
        """Add up masses ``(…, D, H, W)`` along the axis, whatever is shown; ``(…, h, w)``."""
        return masses.sum(dim=self.axis)

    def _slice(self, volumes: Tensor) -> Tensor:
        count = volumes.shape[self.axis]
        return volumes.select(self.axis, count // 2 if self.depth == "middle" else int(self.depth))

    def __str__(self) -> str:
        axis = f"axis {self.axis + 5}"  # as the axes of the images are numbered
        if self.depth == "max":
            return f"strongest value along {axis}"
        if self.depth == "middle":
            return f"middle slice of {axis}"
        return f"slice {self.depth} of {axis}"
