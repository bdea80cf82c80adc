"""What a run had logged at each of its observations, and the file that holds it.

Programs that only look at files import this module, so it does without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lightning_saliency.storage.decode import MISFITS, SCHEMA, check_schema, decode
from lightning_saliency.storage.files import damaged, json_bytes, read_json
from lightning_saliency.storage.places import Place

METRICS_FILE = "metrics.json"

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Metrics:
    """The content of the file of metrics; in JSON, keys are text."""

    at: Mapping[str, Numbers]


def encode_metrics(metrics: Mapping[int, Numbers]) -> bytes:
    """Encode the metrics at each step as a JSON file, without those that are not finite."""
    at = {str(step): only_finite(found) for step, found in metrics.items()}
    return json_bytes({"schema": SCHEMA, "at": at})


def read_metrics(path: Place) -> dict[int, Numbers]:
    """Read the metrics that :func:`encode_metrics` encoded, in the order of their steps.

    Raises:
        RecordError: The file is missing or damaged, or has another schema.
    """
    data = read_json(path)
    try:
        check_schema(data)
        at = decode(_Metrics, data).at
        return dict(sorted((int(step), metrics) for step, metrics in at.items()))
    except MISFITS as error:
        raise damaged(path, error) from error


def only_finite(metrics: Numbers) -> dict[str, float]:
    """Leave out what is not finite, which JSON cannot hold."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
