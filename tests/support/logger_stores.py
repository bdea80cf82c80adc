"""Loggers that work offline, and what they have stored, read back without their own readers."""

from __future__ import annotations

import atexit
import csv
import hashlib
import io
import json
import logging
import os
import re
import sqlite3
import struct
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from older import takes_comets_own_options
from paths import DOCS
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

Pixels = Any  # an array (H, W, 3)


@dataclass
class Kept:
    """What a logger has stored.

    Attributes:
        pictures: Pixels and caption by name and step.
        scalars: Steps and values by name.
        pages: HTML by name.
    """

    pictures: dict[tuple[str, int], tuple[Pixels, str | None]] = field(default_factory=dict)
    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=lambda: defaultdict(list))
    pages: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Store:
    """A kind of logger.

    Attributes:
        make: Makes one that stores in a folder; the loggers of a namespace come first.
        close: Makes it write what it holds.
        read: Reads the folder.
    """

    make: Callable[[Any, Path], Any]
    close: Callable[[Any], None]
    read: Callable[[Path], Kept]


def offline(folder: Path) -> Any:
    """Keep every service within a folder, silent and away from the network."""
    (folder / "own").mkdir(parents=True, exist_ok=True)
    for name in ("mlflow", "alembic", "comet_ml"):
        logging.getLogger(name).setLevel(logging.ERROR)
    wandb = ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR", "ARTIFACT_DIR")
    return mock.patch.dict(
        os.environ,
        {
            **{f"WANDB_{name}": str(folder / "own") for name in wandb},
            "WANDB_SILENT": "true",
            "WANDB_CONSOLE": "off",
            "COMET_START_ONLINE": "0",
            "COMET_START_MODE": "create",  # a running experiment would be used again
            "TRACKIO_DIR": _trackio_folder(),
            "SWANLAB_SAVE_DIR": str(folder / "own"),
        },
    )


def pixels(data: bytes | Path) -> Pixels:
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return np.asarray(image.convert("RGB"))


def read_log(path: Path) -> Iterator[bytes]:
    """The records of a file in the format of LevelDB's log, which W&B and SwanLab write."""
    data, at, block, parts = path.read_bytes(), 7, 32_768, b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little for a head; filled with zeros
            at += block - at % block
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


LOGGERS = DOCS / "loggers.md"


def examples() -> list[str]:
    """The blocks of Python in the document about loggers."""
    return re.findall(r"^```python\n(.*?)^```", LOGGERS.read_text(), flags=re.M | re.S)


# TensorBoard


def read_tensorboard(folder: Path) -> Kept:
    kept = Kept()
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0}).Reload()
    for tag in events.Tags()["images"]:
        for event in events.Images(tag):
            kept.pictures[tag, event.step] = pixels(event.encoded_image_string), None
    for tag in events.Tags()["scalars"]:
        kept.scalars[tag] = [(event.step, event.value) for event in events.Scalars(tag)]
    return kept


# Weights & Biases


def make_wandb(namespace: Any, folder: Path) -> Any:
    return namespace.loggers.WandbLogger(save_dir=folder, offline=True, project="p")


def _wandb_records(path: Path) -> list[Any]:
    """The records of a run that has ended, which another process may still be writing."""
    from wandb.proto.wandb_internal_pb2 import Record

    until = time.monotonic() + 60
    while time.monotonic() < until:
        records = [Record.FromString(data) for data in read_log(path)]
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    raise TimeoutError(f"{path} has no end")


def read_wandb(folder: Path) -> Kept:
    kept = Kept()
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for record in _wandb_records(path):
        values: dict[str, Any] = {}
        for item in record.history.item:
            key, *inside = item.nested_key or [item.key]
            value = json.loads(item.value_json)
            if inside:
                values.setdefault(key, {})[inside[0]] = value
            else:
                values[key] = value
        step = values.get("trainer/global_step", -1)
        for key, value in values.items():
            if not isinstance(value, dict):
                kept.scalars[key].append((step, value))
            elif value["_type"] == "images/separated":
                (name,), (caption,) = value["filenames"], value["captions"]
                kept.pictures[key, step] = pixels(path.parent / "files" / name), caption
            elif value["_type"] == "html-file":
                kept.pages[key] = (path.parent / "files" / value["path"]).read_text("utf-8")
    return kept


# MLflow


def make_mlflow(namespace: Any, folder: Path) -> Any:
    folder.mkdir(parents=True, exist_ok=True)
    return namespace.loggers.MLFlowLogger(
        "experiment",
        tracking_uri=f"sqlite:///{folder}/runs.sqlite",
        artifact_location=(folder / "artifacts").as_uri(),
    )


def read_mlflow(folder: Path) -> Kept:
    kept = Kept()
    for path in folder.glob("artifacts/*/artifacts/images/*.png"):
        key, step = re.fullmatch(r"(.*?)[%+]step[%+](\d+)[%+].*", path.name).groups()
        kept.pictures[re.sub("[#~]", "/", key, count=1), int(step)] = pixels(path), None
    for path in folder.glob("artifacts/*/artifacts/*.html"):
        kept.pages[path.stem] = path.read_text("utf-8")
    with sqlite3.connect(folder / "runs.sqlite") as database:
        for key, step, value in database.execute("SELECT key, step, value FROM metrics"):
            kept.scalars[key].append((step, value))
    return kept


# Comet


def make_comet(namespace: Any, folder: Path) -> Any:
    quiet = ("log_code", "log_env_details", "log_git_metadata", "log_git_patch", "parse_args")
    options = {**dict.fromkeys((*quiet, "auto_output_logging"), False), "display_summary_level": 0}
    if not takes_comets_own_options(namespace):
        return namespace.loggers.CometLogger(save_dir=str(folder), project_name="p", **options)
    return namespace.loggers.CometLogger(project="p", offline_directory=str(folder), **options)


def close_comet(logger: Any) -> None:
    if logger._experiment is not None:  # Old loggers end it themselves, and would begin another.
        logger.experiment.end()


def read_comet(folder: Path) -> Kept:
    kept = Kept()
    (path,) = folder.glob("*.zip")
    with zipfile.ZipFile(path) as archive:
        for line in archive.read("messages.json").decode().splitlines():
            message = json.loads(line)
            payload = message["payload"]
            if message["type"] == "metric_msg":
                metric = payload["metric"]
                kept.scalars[metric["metricName"]].append((metric["step"], metric["metricValue"]))
            elif message["type"] == "file_upload":
                data, about = archive.read(payload["file_path"]), payload["additional_params"]
                if payload["upload_type"] == "visualization":
                    caption = payload["metadata"]["caption"]
                    kept.pictures[about["figName"], about["step"]] = pixels(data), caption
                elif payload["upload_type"] == "asset":
                    kept.pages[about["fileName"].removesuffix(".html")] = data.decode()
    return kept


# SwanLab


def make_swanlab(_: Any, folder: Path) -> Any:
    from swanlab.integration.pytorch_lightning import SwanLabLogger

    return SwanLabLogger(project="p", mode="offline", log_dir=str(folder), save_dir=folder)


def close_swanlab(_: Any) -> None:
    import swanlab

    swanlab.finish()


def read_swanlab(folder: Path) -> Kept:
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record

    kept = Kept()
    (path,) = folder.glob("run-*/run-*.swanlab")
    for data in read_log(path):
        record = Record.FromString(data)
        scalar, media = record.scalar, record.media
        if record.HasField("scalar"):
            kept.scalars[scalar.key].append((scalar.step, scalar.value.number))
        elif record.HasField("media"):
            (item,) = media.value.items
            (file,) = path.parent.glob(f"media/*/{item.filename}")
            if file.suffix == ".html":
                kept.pages[media.key] = file.read_text("utf-8")
            else:
                kept.pictures[media.key, media.step] = pixels(file), item.caption
    return kept


# Trackio, through the logger in the documents


@cache
def _trackio_folder() -> str:
    """The folder of this process, because Trackio looks for it only once, when it is imported."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    return folder.name


def _project(folder: Path) -> str:
    return hashlib.sha256(str(folder).encode()).hexdigest()[:8]


def make_trackio(namespace: Any, folder: Path) -> Any:
    (code,) = (block for block in examples() if "class TrackioLogger" in block)
    if namespace.__name__ == "pytorch_lightning":
        code = code.replace("lightning.pytorch", "pytorch_lightning")
    names: dict[str, Any] = {}
    exec(code, names)
    return names["TrackioLogger"](_project(folder), "run")


def close_trackio(_: Any) -> None:
    import trackio

    trackio.finish()


def read_trackio(folder: Path) -> Kept:
    kept = Kept()
    stored = Path(_trackio_folder())
    with sqlite3.connect(stored / f"{_project(folder)}.db") as database:
        for step, metrics in database.execute("SELECT step, metrics FROM metrics"):
            for key, value in json.loads(metrics).items():
                if not isinstance(value, dict):
                    kept.scalars[key].append((step, value))
                else:
                    path = stored / "media" / value["file_path"]
                    kept.pictures[key, step] = pixels(path), value["caption"]
    return kept


# CSV


def read_csv(folder: Path) -> Kept:
    kept = Kept()
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value and key != "step":
                    kept.scalars[key].append((int(row["step"]), float(value)))
    return kept


def read_files(folder: Path) -> Kept:
    """The pictures that became files, as if a logger had stored them."""
    kept = Kept()
    for path in folder.rglob("*.png"):
        tag = "/".join(path.relative_to(folder).parts[-3:-1])
        kept.pictures[tag, int(path.stem)] = pixels(path), None
    return kept


def _lightning(name: str) -> Callable[[Any, Path], Any]:
    return lambda namespace, folder: getattr(namespace.loggers, name)(folder, name="", version="")


STORES = {
    "TensorBoard": Store(_lightning("TensorBoardLogger"), lambda _: None, read_tensorboard),
    "W&B": Store(make_wandb, lambda logger: logger.experiment.finish(), read_wandb),
    "MLflow": Store(make_mlflow, lambda _: None, read_mlflow),
    "Comet": Store(make_comet, close_comet, read_comet),
    "SwanLab": Store(make_swanlab, close_swanlab, read_swanlab),
    "Trackio": Store(make_trackio, close_trackio, read_trackio),
    "CSV": Store(_lightning("CSVLogger"), lambda _: None, read_csv),
}
