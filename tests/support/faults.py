"""What can go wrong in an observation, and how a run looks afterwards.

`python tests/support/neutrality.py` tries them all and writes the table of `docs/neutrality.md`.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytorch_lightning as pl
import torch
from matrix import Shapes, Touchy, differences, failing_check, probe, run_state
from torch import Tensor
from torch.utils.data import DataLoader
from training import fit, pictures, scalars

from lightning_saliency import SaliencyCallback, SaliencyError
from lightning_saliency.attribution import passes
from lightning_saliency.callback import adapters, loggers, publisher
from lightning_saliency.check import evaluate
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.functional import measures
from lightning_saliency.observe import observer, occlusion
from lightning_saliency.record import writer
from lightning_saliency.record.run import open_run
from lightning_saliency.record.writer import RunWriter

Injection = Callable[[], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Fault:
    """Something that breaks while the block of ``inject`` runs.

    Attributes:
        inject: A context around the end of the first epoch, which is observed and judged.
        says: A part of the error's message.
        doing: What the error says was being done.
        files: Whether the pictures go to files instead of TensorBoard.
        by_hand: Whether it stops training regardless of the callback.
    """

    inject: Injection
    says: str
    doing: str = r"observing the model \(epoch 0\)"
    files: bool = False
    by_hand: bool = False


def _disturb(error: BaseException, *_: Any, **__: Any) -> Any:
    """Do to the run what code may have done by the time it fails."""
    torch.rand(3)
    np.random.rand(3)
    raise error


def _patched(owner: Any, name: str, error: BaseException, *, after: int = 0) -> Injection:
    """Let ``name`` of ``owner`` raise after a number of calls that succeed."""
    whole = getattr(owner, name)

    def inject() -> AbstractContextManager[Any]:
        calls: list[None] = []

        def fail(*args: Any, **named: Any) -> Any:
            calls.append(None)
            return _disturb(error) if len(calls) > after else whole(*args, **named)

        return mock.patch.object(owner, name, fail)

    return inject


def _forward(replacement: Callable[..., Any]) -> Injection:
    return partial(mock.patch.object, Touchy, "forward", replacement)


def _fails_in_its_middle(module: Touchy, images: Tensor) -> Tensor:
    module.calls += 1
    module.left_behind = images
    module.norm1.train()
    module.features(images)
    return _disturb(ArithmeticError("in its middle"))


def _needs_more(module: Touchy, images: Tensor, masks: Tensor) -> Tensor:
    raise AssertionError("never called")


@contextmanager
def _no_room() -> Iterator[None]:
    """Let no file grow beyond a few bytes, as on a full disk."""
    found = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, found[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, found)


_CHECKING, _HIDING = "checking where the model looks", "hiding what gained most"
_DRAWING = "drawing what moved"
_LOST = ConnectionError("the server is gone")
_READ_ONLY = PermissionError(13, "Permission denied")
_FULL = torch.OutOfMemoryError("CUDA out of memory")

FAULTS: dict[str, Fault] = {
    "the forward pass raises": Fault(_forward(_fails_in_its_middle), "ArithmeticError: in its"),
    "the forward pass needs more than images": Fault(_forward(_needs_more), "TypeError: .*masks"),
    "the forward pass returns no logits": Fault(
        _forward(lambda module, images: {"classes": images}), "no logits found in .* a dict"
    ),
    "the second backward pass raises": Fault(
        _patched(passes, "_input_gradient", ValueError("no"), after=1), "ValueError: no"
    ),
    "memory runs out, however few the images": Fault(
        _patched(passes, "_input_gradient", _FULL), "memory ran out"
    ),
    "reducing the maps raises": Fault(
        _patched(observer, "take_snapshot", ValueError("no")), "ValueError: no"
    ),
    "drawing raises": Fault(_patched(MosaicRenderer, "mosaic", ValueError("no")), "ValueError: no"),
    "encoding raises": Fault(_patched(adapters, "encode", ValueError("no")), "ValueError: no"),
    "measuring raises": Fault(_patched(measures, "_scaled", ValueError("no")), "ValueError: no"),
    "a logger refuses the second picture": Fault(
        _patched(loggers.PictureLog, "add", _LOST, after=1), "ConnectionError: the server is gone"
    ),
    "a logger refuses a scalar": Fault(
        _patched(loggers.PictureLog, "add_scalars", _LOST), "ConnectionError: the server is gone"
    ),
    "the record cannot be written": Fault(
        _patched(RunWriter, "add", _READ_ONLY), "PermissionError: .*denied"
    ),
    "what is measured cannot be kept": Fault(
        _patched(writer, "encode_observation", ValueError("no")), "ValueError: no"
    ),
    "judging raises": Fault(
        _patched(evaluate, "_compare", ValueError("no")), "ValueError: no", _CHECKING
    ),
    "the forward pass that hides what gained most raises": Fault(
        _patched(occlusion, "run_forward", ArithmeticError("no")), "ArithmeticError: no", _HIDING
    ),
    "drawing what moved raises": Fault(
        _patched(publisher, "draw", ValueError("no")), "ValueError: no", _DRAWING
    ),
    "a logger refuses the picture of what moved": Fault(
        _patched(publisher.Publisher, "publish_verdict", _LOST),
        "ConnectionError: the server is gone",
        _DRAWING,
    ),
    "the disk is full": Fault(_no_room, "OSError: .*File too large", files=True),
    "the folder is read-only": Fault(
        _patched(Path, "open", _READ_ONLY), "PermissionError: .*denied", files=True
    ),
    "interrupted by hand in a pass": Fault(
        _patched(passes, "_input_gradient", KeyboardInterrupt()), "", by_hand=True
    ),
    "interrupted by hand while drawing": Fault(
        _patched(MosaicRenderer, "mosaic", KeyboardInterrupt(), after=1), "", by_hand=True
    ),
    "interrupted by hand while writing a file": Fault(
        _patched(loggers, "encode", KeyboardInterrupt(), after=1), "", files=True, by_hand=True
    ),
}

# The parts of a run that are compared, by the heading of their column.
COLUMNS: dict[str, tuple[str, ...]] = {
    "weights, buffers": ("weights and buffers",),
    "optimizer, schedulers": ("optimizer state", "schedulers"),
    "metrics, scalars": ("callback metrics", "logged metrics", "scalars"),
    "random streams": ("torch RNG", "numpy RNG", "python RNG"),
    "modes": ("modes", "grad mode"),
    "gradients": ("gradients", "requires_grad"),
    "hooks, attributes": ("hooks", "attributes"),
}
LOGGED = "logged before"
IMAGES = len(probe())


class Struck(SaliencyCallback):
    """Meets a fault at the end of the first epoch, in which its check fails."""

    def __init__(self, fault: Fault, **options: Any) -> None:
        shared = {"probe": probe(), "targets": "label", "tile_size": 24, "check": failing_check()}
        super().__init__(**shared | options)
        self.fault = fault

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, *batch: Any) -> None:
        with self._struck():  # the model is observed here
            super().on_validation_batch_end(trainer, pl_module, *batch)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with self._struck():  # and checked here
            super().on_validation_epoch_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        with self._struck():
            super().on_train_epoch_end(trainer, pl_module)

    def _struck(self) -> AbstractContextManager[Any]:
        return self.fault.inject() if self._session._epoch == 0 else nullcontext()


class Stopping(pl.Callback):
    """Ends an unobserved run at the moment at which a fault ends the other one."""

    def __init__(self, error: BaseException, fault: Fault) -> None:
        self.error = error
        observing = fault.by_hand or fault.doing.startswith("observing")
        hook = "on_validation_batch_end" if observing else "on_validation_epoch_end"
        setattr(self, hook, self.stop)

    def stop(self, trainer: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            raise self.error


def cells(fault: Fault, folder: Path) -> dict[str, bool]:
    """For each column, whether the run was left as it would be without the callback."""
    error = KeyboardInterrupt() if fault.by_hand else SaliencyError("stopped")
    stopped = _train(folder / "stopped", fault, Stopping(error, fault), logged=False)
    raised = _train(folder / "raised", fault, Struck(fault))
    pairs = [(stopped, raised)]
    if not fault.by_hand:
        alone = _train(folder / "alone", fault, logged=False)
        pairs.append((alone, _train(folder / "warned", fault, Struck(fault, on_error="warn"))))
    found = {
        column: not any(differences(a[key], b[key]) for a, b in pairs for key in keys)
        for column, keys in COLUMNS.items()
    }
    return {**found, LOGGED: all(observed[LOGGED] for _, observed in pairs)}


def _train(folder: Path, fault: Fault, *callbacks: Any, logged: bool = True) -> dict[str, Any]:
    """Train two epochs, or as far as possible; return everything that is left."""
    pl.seed_everything(3)
    options: dict[str, Any] = {"logger": False} if fault.files else {}
    module, trainers = Touchy(), []
    keep = mock.patch.object(pl.Trainer, "fit", _noting(trainers, pl.Trainer.fit))
    train = DataLoader(Shapes(16, augment=True), batch_size=8, shuffle=True)
    val = DataLoader(Shapes(8, augment=True), batch_size=8)
    with keep, contextlib.suppress(SaliencyError, SystemExit):
        fit(folder, *callbacks, module=module, train=train, val=val, **options)
    written = scalars(folder) if list(folder.glob("events*")) else {}
    left = {**run_state(trainers[0], module), "scalars": written}
    return {**left, LOGGED: _whole(folder, fault) if logged else None}


def _noting(trainers: list[Any], whole: Callable[..., Any]) -> Callable[..., Any]:
    def noted(trainer: pl.Trainer, *args: Any, **named: Any) -> None:
        trainers.append(trainer)
        whole(trainer, *args, **named)

    return noted


def _whole(folder: Path, fault: Fault) -> bool:
    """Whether the pictures of the untrained model are whole and no file is half-written."""
    record = open_run(next(folder.rglob("run.json")).parent)
    steps = [record.observation(step).step for step in record.steps()]
    if not fault.files:
        logged = {tag for tag, found in pictures(folder).items() if 0 in found}
        mosaics = [tag for tag in logged if tag.startswith("saliency/")]
        return steps[0] == 0 and len(mosaics) == IMAGES
    files = [path for path in folder.rglob("*") if path.is_file()]
    whole = all(path.stat().st_size > 64 and not path.name.startswith(".") for path in files)
    return whole and sum(path.name == "00000000.png" for path in files) == IMAGES
