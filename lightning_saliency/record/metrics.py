"""What a run had logged at each of its observations, and the file that holds it.

The file also keeps what was measured at observations that were thinned out, so that curves stay
whole when maps go.

Programs that only look at files import this module, so it does without torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lightning_saliency.storage.decode import MISFITS, SCHEMA, check_schema, decode
from lightning_saliency.storage.files import damaged, json_bytes, read_json
from lightning_saliency.storage.places import Place

METRICS_FILE = "metrics.json"

Numbers = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Metrics:
    """The content of the file of metrics; in JSON, keys are text."""

    at: Mapping[str, Numbers]
    thinned: Mapping[str, Numbers] = field(default_factory=dict)  # absent from files of 0.1


def encode_metrics(
    metrics: Mapping[int, Numbers], thinned: Mapping[int, Numbers] | None = None
) -> bytes:
    """Encode numbers as a JSON file, without those that are not finite.

    Args:
        metrics: What the run had logged at each step.
        thinned: What was measured at each step whose observation was thinned out.
    """
    content: dict[str, object] = {"schema": SCHEMA, "at": _by_text(metrics)}
    if thinned:
        content["thinned"] = _by_text(thinned)
    return json_bytes(content)


def _by_text(numbers: Mapping[int, Numbers]) -> dict[str, dict[str, float]]:
    return {str(step): only_finite(found) for step, found in numbers.items()}


def read_metrics(path: Place) -> dict[int, Numbers]:
    """Read the metrics that :func:`encode_metrics` encoded, in the order of their steps.

    Raises:
        RecordError: The file is missing or damaged, or has another schema.
    """
    return _read(path)[0]


def read_thinned(path: Place) -> dict[int, Numbers]:
    """Read what was measured at observations that were thinned out, in the order of their steps.

    Raises:
        RecordError: The file is missing or damaged, or has another schema.
    """
    return _read(path)[1]


def _read(path: Place) -> tuple[dict[int, Numbers], dict[int, Numbers]]:
    data = read_json(path)
    try:
        check_schema(data)
        content = decode(_Metrics, data)
        return _by_number(content.at), _by_number(content.thinned)
    except MISFITS as error:
        raise damaged(path, error) from error


def _by_number(numbers: Mapping[str, Numbers]) -> dict[int, Numbers]:
    return dict(sorted((int(step), found) for step, found in numbers.items()))


def only_finite(metrics: Numbers) -> dict[str, float]:
    """Leave out what is not finite, which JSON cannot hold."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}
