"""Numbers for where maps lie: pure functions of tensors."""

from __future__ import annotations

from torch import Tensor


def share(maps: Tensor, mask: Tensor) -> Tensor:
    """The part of a map's mass that lies inside a region.

    Args:
        maps: ``(N, H, W)``, non-negative.
        mask: ``(N, H, W)`` bool, true inside.

    Returns:
        ``(N,)`` float64 in [0, 1]; NaN where a map is all zero.

    Example:
        >>> import torch
        >>> share(torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[False, True]]]))
        tensor([0.7500], dtype=torch.float64)
    """
    mass = maps.double()
    return (mass * mask).sum(dim=(-2, -1)) / mass.sum(dim=(-2, -1))
