"""Lightning's checkpoints: read with weights only, and turned into models of a given class."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lightning_saliency.cli.imported import describe
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.storage.files import UNREADABLE
from lightning_saliency.storage.places import find_place

# What Lightning calls with the hyperparameters of a model that LightningCLI has made.
_INSTANTIATORS = (
    "pytorch_lightning.cli.instantiate_module",
    "lightning.pytorch.cli.instantiate_module",
)
_BLOCKED = re.compile(r"GLOBAL ([\w.]+)")


def read_checkpoint(path: str) -> Mapping[str, Any]:
    """Read a checkpoint of Lightning. Nothing in it is executed.

    Args:
        path: A file, or its URL.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint of Lightning, is damaged, or holds objects other than
            tensors and plain values.
    """
    file = _open(path)
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # Damaged files raise errors of many types.
        blocked = _BLOCKED.search(str(error))
        if blocked is None:
            # PyTorch's advice would be to give up loading with weights only.
            why = "" if "weights_only" in str(error) else f": {describe(error)}"
            raise ValueError(
                f"{path} is not a checkpoint of Lightning, or it is damaged{why}. Save it again"
            ) from error
        raise ValueError(
            f"{path} holds a {blocked[1]}, and only tensors and plain values are loaded. Leave it "
            "out of the hyperparameters, with `save_hyperparameters(ignore=[…])`; or, if it is "
            "safe to build one, call `torch.serialization.add_safe_globals` in the module of the "
            "class"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), Mapping):
        raise ValueError(
            f"{path} is not a checkpoint of Lightning: it holds no `state_dict`. "
            "`trainer.save_checkpoint` and `ModelCheckpoint` write such files. From Python, "
            "`lightning_saliency.testing.reference_from_models` takes any model"
        )
    return content


def _open(path: str) -> str | io.BytesIO:
    """What to read a checkpoint from: the path of a local file, else the content of the file."""
    place = find_place(path)
    if place.is_dir():
        raise ValueError(
            f"{path} is a folder, as sharded strategies write it. Put it together into one file "
            "with `python -m pytorch_lightning.utilities.consolidate_checkpoint`"
        )
    if not place.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    return str(place) if isinstance(place, Path) else io.BytesIO(place.read_bytes())


def find_probes(checkpoint: Mapping[str, Any]) -> Iterator[ProbeBatch]:
    """Find the probes that callbacks of this package have kept in a checkpoint."""
    callbacks = checkpoint.get("callbacks")
    for key, state in callbacks.items() if isinstance(callbacks, Mapping) else ():
        if str(key).startswith("SaliencyCallback["):
            # One that is damaged is none; whoever needs it asks for a file.
            with suppress(*UNREADABLE):
                yield ProbeBatch.from_state(state["probe"])


def check_kind(kind: Any, name: str) -> None:
    """Refuse what is not the class of a LightningModule.

    Args:
        kind: What was imported.
        name: How it was named on the command line.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(kind, type) or not issubclass(kind, nn.Module):
        raise ValueError(f"`--model`: {name} is not the class of a model")
    if not hasattr(kind, "load_from_checkpoint"):
        raise ValueError(
            f"`--model`: {name} has no `load_from_checkpoint`, so it is not a LightningModule. "
            "Name the LightningModule that was trained; from Python, "
            "`lightning_saliency.testing.reference_from_models` takes any model"
        )


def load_model(kind: Any, path: str, arguments: Mapping[str, Any]) -> nn.Module:
    """Build a model from a checkpoint, in main memory.

    Args:
        kind: The class of a LightningModule; see :func:`check_kind`.
        path: The file of the checkpoint, or its URL.
        arguments: Arguments of the class, which replace the checkpoint's hyperparameters.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a checkpoint of this class.
    """
    _check_arguments(kind, arguments)
    content = read_checkpoint(path)
    hyperparameters = content.get("hyper_parameters")
    if isinstance(hyperparameters, Mapping):
        instantiator = hyperparameters.get("_instantiator")
        if instantiator is not None and instantiator not in _INSTANTIATORS:
            raise ValueError(f"{path} asks for a call of {instantiator!r}, which is refused")
    name = kind.__name__
    source, safely = _choose_source(kind, path, content)
    try:
        model: nn.Module = kind.load_from_checkpoint(
            source, map_location="cpu", **safely, **arguments
        )
    except (TypeError, RuntimeError) as error:
        raise ValueError(
            f"{path} does not make a {name}: {describe(error)}. If arguments of the class are "
            "missing or differ from those in training, call `self.save_hyperparameters()` in its "
            "`__init__` before you train, or pass `--model-arg name=value`"
        ) from error
    except Exception as error:
        raise ValueError(f"loading {path} as a {name} failed: {describe(error)}") from error
    return model


def _choose_source(
    kind: Any, path: str, content: Mapping[str, Any]
) -> tuple[str | io.BytesIO, dict[str, bool]]:
    """Choose what Lightning loads and with which option, so that nothing in it is executed."""
    if "weights_only" in inspect.signature(kind.load_from_checkpoint).parameters:
        return _open(path), {"weights_only": True}
    # Before 2.6, Lightning would unpickle whatever the file holds. It gets a copy of what has been
    # read with weights only instead.
    copy = io.BytesIO()
    torch.save(content, copy)
    copy.seek(0)
    return copy, {}


def _check_arguments(kind: Any, arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that the class does not have, which Lightning would ignore."""
    parameters = inspect.signature(kind.__init__).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    known = list(parameters)[1:]
    for name in arguments:
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise ValueError(f"`--model-arg`: {kind.__name__} has no argument {name!r}; {has}")
