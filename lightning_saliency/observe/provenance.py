"""Where a run comes from: its probe, code, seed and packages."""

from __future__ import annotations

import datetime
import os
import subprocess
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from lightning_saliency.observe.meter import Meter
from lightning_saliency.record.facts import RunInfo

_PACKAGES = ("lightning-saliency", "torch", "torchvision", "pytorch-lightning", "lightning")
_GIT_TIMEOUT = 5  # seconds; git can be slow in a large repository


def run_info(name: str, meter: Meter, settings: Mapping[str, Any]) -> RunInfo:
    """Collect the facts of a run at its start.

    Args:
        name: The name of the callback.
        meter: Says what is measured and holds the probe.
        settings: How the run is observed; primitives only.
    """
    probe = meter.probe
    labels = tuple(map(tuple, probe.all_true_classes()))
    return RunInfo(
        name=name,
        fingerprint=probe.fingerprint,
        images=tuple(probe.image_name(image) for image in range(len(probe))),
        labels=None if probe.labels is None else labels,
        class_names=None if probe.class_names is None else tuple(probe.class_names),
        areas={region: float(mask.double().mean()) for region, mask in probe.masks.items()},
        rule=meter.rule,
        reduce=meter.reduce,
        one_logit=meter.one_logit and not probe.multi_label,
        multi_label=probe.multi_label,
        settings=settings,
        versions=_versions(),
        commit=_commit(),
        seed=_seed(),
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> str | None:
    """The commit of the current repository; ``None`` without a repository or without git."""
    command = ("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")
    # Another git may be at work in the same repository, so this one takes no locks.
    quiet = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_GIT_TIMEOUT, env=quiet, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _seed() -> int | None:
    """The seed that ``seed_everything`` was given and left in the environment."""
    value = os.environ.get("PL_GLOBAL_SEED", "")
    return int(value) if value.isdecimal() else None
