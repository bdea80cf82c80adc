"""The callback for those who write ``import lightning as L``.

``pytorch_lightning`` and ``lightning.pytorch`` are the same code twice, and a ``Callback`` of one
is not a ``Callback`` of the other.
"""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_saliency.callback.hooks import SaliencyCallbackBase


class SaliencyCallback(SaliencyCallbackBase, Callback):  # noqa: D101
    __doc__ = SaliencyCallbackBase.__doc__
