"""The callback for those who write ``import lightning as L``.

``pytorch_lightning`` and ``lightning.pytorch`` are the same code twice, and a ``Callback`` of one
is none of the other's.
"""

from __future__ import annotations

from lightning.pytorch import Callback

from lightning_saliency.callback import SaliencyWatch


class SaliencyCallback(SaliencyWatch, Callback):  # noqa: D101
    __doc__ = SaliencyWatch.__doc__
