"""What the oldest versions of other packages lack: tests of it are skipped there, and say so."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl


def average_weights(decay: float, namespace: Any = pl) -> Any:
    """Make a callback that averages weights, or skip the test: Lightning has had it since 2.6."""
    if not hasattr(namespace.callbacks, "EMAWeightAveraging"):
        pytest.skip(f"Lightning {namespace.__version__} has no callback that averages weights")
    return namespace.callbacks.EMAWeightAveraging(decay=decay)
