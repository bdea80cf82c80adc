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


def skip_unless_foreign_callbacks_are_taken(callback: Any, namespace: Any) -> None:
    """Skip the test if Lightning refuses callbacks of its other namespace, as 2.4 does."""
    try:
        namespace.Trainer(callbacks=[callback], logger=False, enable_checkpointing=False)
    except ValueError as error:
        if str(error) != "Expected a parent":
            raise
        pytest.skip(f"Lightning {namespace.__version__} refuses callbacks of its other namespace")
