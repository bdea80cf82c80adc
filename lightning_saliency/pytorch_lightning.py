"""The callback for those who write ``import pytorch_lightning as pl``."""

from __future__ import annotations

from pytorch_lightning import Callback

from lightning_saliency.callback.hooks import SaliencyCallbackBase


class SaliencyCallback(SaliencyCallbackBase, Callback):  # noqa: D101
    __doc__ = SaliencyCallbackBase.__doc__
