"""What :func:`explain` is given, as the tensors that the passes work with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lightning_saliency.functional.arguments import plain_tensor

# Casting to other kinds, such as float8, would need scales that are not known here.
_CASTABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def as_images(images: Any, model: nn.Module) -> Any:
    """Turn images into a plain tensor in the precision of ``model``.

    Args:
        images: A tensor, also of a subclass, or a numpy array.
        model: Its parameters say the precision, unless they differ in it.

    Returns:
        A tensor for which autograd keeps no graph; anything that is neither a tensor nor an array
        is returned as it is, as are images that are not floating point.

    Example:
        >>> as_images(np.zeros((1, 3, 8, 8)), nn.Conv2d(3, 4, 3)).dtype
        torch.float32
    """
    if isinstance(images, np.ndarray) and images.dtype.kind in "fiub":
        # A copy, because torch refuses reversed arrays and warns of read-only ones.
        images = torch.from_numpy(images.astype(images.dtype.newbyteorder("="), copy=True))
    if not isinstance(images, Tensor):
        return images
    images = plain_tensor(images)
    precisions = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if images.dtype in _CASTABLE and len(precisions) == 1 and precisions <= set(_CASTABLE):
        images = images.to(precisions.pop())
    return images
