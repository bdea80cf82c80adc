"""Kinds of data and modules, and how each is run with and without the callback.

:mod:`situations_data`, :mod:`situations_modules` and :mod:`situations_models` list them.
`python tests/support/situations.py` runs them all and writes the table in `docs/situations.md`.
"""

from __future__ import annotations

import logging
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from paths import DOCS
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lightning_saliency import ProbeBatch, SaliencyCallback
from lightning_saliency.record.run import open_run

CLASSES, SIDE, COUNT = 3, 12, 24
PAGE = DOCS / "situations.md"

WORKS = "works"  # with `SaliencyCallback()`, and nothing is said
SAYS = "works, and says"  # with `SaliencyCallback()`, but a warning tells what to know
ASKS = "asks"  # training goes on, is not observed, and a warning says what to pass
REFUSES = "refuses"  # an error before the first step says what to pass


# --- Images that show their own class, so that a wrong label cannot go unnoticed.


def images(count: int = COUNT, channels: int = 3) -> Tensor:
    """Noise in [0, 1) with one bright quarter: the first three quarters are the three classes."""
    found = 0.4 * torch.rand(
        count, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(7)
    )
    half = SIDE // 2
    for image, label in zip(found, labels(count).tolist(), strict=True):
        y, x = divmod(label, 2)
        image[:, y * half : (y + 1) * half, x * half : (x + 1) * half] += 0.5
    return found


def labels(count: int = COUNT) -> Tensor:
    """The classes of :func:`images`, ``(count,)`` int64, in an order without a pattern."""
    return torch.randint(CLASSES, (count,), generator=torch.Generator().manual_seed(3))


def shown(found: Tensor) -> Tensor:
    """The class that each image shows: its brightest quarter."""
    return F.adaptive_avg_pool2d(found.float().mean(1, keepdim=True), 2).flatten(1).argmax(dim=1)


class Items(Dataset[Any]):
    """A map-style dataset that makes its items with ``item(index)``."""

    def __init__(self, item: Callable[[int], Any], **attributes: Any) -> None:
        self.item = item
        self.__dict__.update(attributes)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


def load(data: Dataset[Any], val: Any = None, **options: Any) -> dict[str, Any]:
    """The arguments of ``trainer.fit`` for batches of ``data``, validated with the same data."""
    options = {"batch_size": 8, **options}
    loader = DataLoader(data, **options)
    return {
        "train_dataloaders": DataLoader(data, **options),
        "val_dataloaders": loader if val is None else val,
    }


# --- A small classifier, of which a kind of module overrides what is different.


class Net(pl.LightningModule):
    """A convolution and a linear layer over four quarters."""

    def __init__(self, channels: int = 3, outputs: int = CLASSES) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.head = nn.Linear(16, outputs)

    def features(self, x: Tensor) -> Tensor:
        """``(N, 16)``."""
        return F.adaptive_avg_pool2d(F.relu(self.conv(x)), 2).flatten(1)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.features(x))

    def read(self, batch: Any) -> tuple[Any, Tensor]:
        """What ``forward`` is called with, and the labels."""
        return batch[0], batch[1]

    def loss(self, batch: Any) -> Tensor:
        x, y = self.read(batch)
        return F.cross_entropy(self(x), y)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.loss(batch), batch_size=8)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.2)


def chances(module: Any, probe: ProbeBatch) -> Tensor:
    """The probabilities ``(N, C)`` that a module, called plainly, gives the images of a probe."""
    return module(probe.images).softmax(dim=1)


# --- One situation, and what is expected of it.


@dataclass(frozen=True)
class Situation:
    """A kind of data or module.

    Attributes:
        kind: What the user has, in the words of the table.
        module: Builds the module.
        data: Builds the arguments of ``trainer.fit``.
        outcome: What ``SaliencyCallback()`` does.
        says: A part of what it says, if it says something.
        remedy: What it tells the user to pass or to know, in words.
        options: Builds the arguments of the callback by that remedy, from the module's data.
        truth: The true class of each image of the probe; ``None`` if images show no class.
        chances: The probabilities that the module gives the images of a probe, for comparison;
            ``None`` if they cannot be had without the callback's help.
        trainer: Builds arguments of the trainer.
        needs: A package that may be missing.
    """

    kind: str
    module: Callable[[], Any] = Net
    data: Callable[[], dict[str, Any]] = field(default=lambda: {})
    outcome: str = WORKS
    says: str = ""
    remedy: str = ""
    options: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    truth: Callable[[ProbeBatch], Tensor] | None = lambda probe: shown(probe.displayed())
    chances: Callable[[Any, ProbeBatch], Tensor] | None = chances
    trainer: Callable[[], dict[str, Any]] = dict
    needs: str = ""


@dataclass(frozen=True)
class Outcome:
    """What one run ended in."""

    error: str
    warnings: str
    weights: Mapping[str, Tensor]
    module: Any
    callback: SaliencyCallback | None
    folder: Path


def run(situation: Situation, folder: Path, *callbacks: SaliencyCallback) -> Outcome:
    """Train two epochs; notes the error if training ends in one."""
    pl.seed_everything(0, verbose=False)
    module = situation.module()
    options = situation.trainer()
    trainer = pl.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": pl.loggers.CSVLogger(folder, name="", version=""),
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "default_root_dir": folder,
            **options,
            # First, so that other callbacks have not had their turn when ours comes.
            "callbacks": [*callbacks, *options.get("callbacks", [])],
        }
    )
    error = ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            trainer.fit(module, **situation.data())
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
    ours = [str(w.message) for w in caught if w.category.__name__ == "SaliencyWarning"]
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    return Outcome(error, "\n".join(ours), weights, module, next(iter(callbacks), None), folder)


def observe(situation: Situation, folder: Path, **options: Any) -> Outcome:
    """Run it with the callback, directly in ``folder``."""
    return run(situation, folder, SaliencyCallback(**options))


def complaints(situation: Situation, folder: Path) -> list[str]:
    """What is not as it should be; an empty list if all is well."""
    alone = run(situation, folder / "alone")
    found = [f"fails without the callback: {alone.error}"] if alone.error else []
    first = observe(situation, folder / "first")
    if situation.outcome in (WORKS, SAYS):
        found += _observed(situation, first, alone)
    if situation.outcome == ASKS:
        found += [f"{first.error} ends training"] if first.error else _changed(first, alone)
        found += _unsaid(situation.says, first.warnings)
        found += ["is observed"] if _observations(first) else []
    if situation.outcome == REFUSES:
        found += _unsaid(situation.says, first.error)
    if situation.outcome == SAYS:
        found += _unsaid(situation.says, first.warnings)
    elif situation.outcome != ASKS and first.warnings:
        found += [f"warns: {first.warnings}"]
    if situation.options is not None:
        second = observe(situation, folder / "second", **situation.options(situation.data()))
        found += [f"by the remedy: {word}" for word in _observed(situation, second, alone)]
        found += [f"by the remedy, warns: {second.warnings}"] if second.warnings else []
    elif situation.outcome in (ASKS, REFUSES):
        found += ["no remedy is followed"]
    return found


def _unsaid(expected: str, said: str) -> list[str]:
    return [] if re.search(expected, said) else [f"does not say {expected!r} but: {said!r}"]


def _changed(observed: Outcome, alone: Outcome) -> list[str]:
    names = [n for n, w in alone.weights.items() if not torch.equal(w, observed.weights[n])]
    return [f"changes {', '.join(names)}"] if names else []


def _observations(outcome: Outcome) -> list[int]:
    try:
        return open_run(outcome.folder).steps()
    except Exception:
        return []


def _observed(situation: Situation, outcome: Outcome, alone: Outcome) -> list[str]:
    """Compare a run with the same run alone, and its record with what the images show."""
    if outcome.error:
        return [f"ends in {outcome.error}"]
    found = _changed(outcome, alone)
    if not _observations(outcome):
        return [*found, "is not observed"]
    probe = outcome.callback.probe if outcome.callback else None
    assert probe is not None
    found += _unloadable(outcome)
    if situation.truth is not None:
        try:
            found += _mislabelled(probe, situation.truth(probe))
        except AssertionError as error:
            found += [str(error)]
    if situation.chances is not None:
        found += _misjudged(situation.chances, outcome, probe)
    return found


def _unloadable(outcome: Outcome) -> list[str]:
    """A checkpoint is read with ``weights_only``, which admits tensors and primitives alone."""
    path = outcome.folder / "callback.pt"
    torch.save(outcome.callback.state_dict() if outcome.callback else {}, path)
    try:
        torch.load(path, weights_only=True)
    except Exception as error:
        return [f"makes checkpoints unreadable: {str(error)[:200]}"]
    return []


def _mislabelled(probe: ProbeBatch, truth: Tensor) -> list[str]:
    expected = [sorted(row) for row in _rows(truth)]
    labelled = probe.all_true_classes()
    return [] if labelled == expected else [f"takes {labelled} for the classes {expected}"]


def _rows(truth: Tensor) -> Sequence[Sequence[int]]:
    if truth.ndim == 1:
        return [[int(label)] for label in truth]
    return [row.nonzero().flatten().tolist() for row in truth]


def _misjudged(chances: Callable[..., Tensor], outcome: Outcome, probe: ProbeBatch) -> list[str]:
    """Compare the recorded probabilities with those of the module that training left behind."""
    last = open_run(outcome.folder).last()
    with torch.no_grad():
        expected = chances(outcome.module.eval(), probe)
    measured = last.measured
    own = expected.gather(1, measured.classes[:, None])[:, 0].float()
    if own.shape != measured.probabilities.shape or not torch.allclose(
        own, measured.probabilities.float(), atol=2e-3
    ):
        return [f"records {measured.probabilities.tolist()} where the module says {own.tolist()}"]
    return []


# --- The page.

HEAD = """# Your data and your module

What `SaliencyCallback()`, without any arguments, does with each kind of data and module. This table
is written by `python tests/support/situations.py`, and `tests/runs/test_situations.py` runs every
row: it trains two epochs with the callback and without, and compares all weights and buffers bit
for bit, the labels with what the images show, and the recorded probabilities with what the trained
module says when it is called plainly. If the callback asks for an argument, the test passes that
argument and tries again.

- **works**: nothing is to be done.
- **works, and says**: a warning tells you what you may want to know.
- **asks**: training goes on, unobserved, and a warning says what to pass. Then it works.
- **refuses**: an error before the first training step says what to pass. Then it works.
"""


def tables() -> dict[str, Sequence[Situation]]:
    """All situations, by the title of their table."""
    from situations_data import DATA
    from situations_models import MODELS
    from situations_modules import MODULES

    return {"Data": DATA, "Modules and runs": MODULES, "Models of other packages and tasks": MODELS}


def page() -> str:
    """The page, from what was found."""
    parts = [HEAD]
    for title, rows in tables().items():
        parts += [
            "",
            f"## {title}",
            "",
            "| what you have | the callback | what to pass, or to know |",
            "|---|---|---|",
        ]
        parts += [f"| {row.kind} | {row.outcome} | {row.remedy} |" for row in rows]
    return "\n".join(parts) + "\n"


def main() -> int:
    """Run every situation, and write the page if all are as expected."""
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    wrong = 0
    for row in (row for rows in tables().values() for row in rows):
        if wanted in row.kind:
            with tempfile.TemporaryDirectory() as folder:
                found = complaints(row, Path(folder))
            wrong += bool(found)
            print(
                "ok  " if not found else "WRONG", row.kind, *found, sep="\n    " if found else " "
            )
    if not wrong and not wanted:
        PAGE.write_text(page())
    return wrong


if __name__ == "__main__":
    sys.exit(main())
