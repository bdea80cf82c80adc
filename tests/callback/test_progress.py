"""A long observation says on the bar how far it is; the bar and the run stay as they were."""

from __future__ import annotations

import itertools
import re
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning as pl
import torch
from matrix import Touchy, differences
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from terminal import Screen, terminal
from torch import Tensor
from training import fit, loader, one_image, run_state

from lightning_saliency import SaliencyCallback
from lightning_saliency.callback import progress
from lightning_saliency.callback.progress import Progress

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

NAMESPACES = {"pytorch_lightning": pl, "lightning.pytorch": lightning.pytorch}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show everything, so that a test need not take long."""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)
    monkeypatch.setattr(progress, "PAUSE", 0.0)


def watching(**options: Any) -> SaliencyCallback:
    """A callback whose observations have five maps to compute: of four classes, and a gradient."""
    return SaliencyCallback(one_image(), targets="all", tile_size=24, record=False, **options)


def bar_of(kind: str, namespace: Any = pl, **options: Any) -> Any:
    if kind == "rich":
        pytest.importorskip("rich")
        return namespace.callbacks.RichProgressBar(**options)
    return namespace.callbacks.TQDMProgressBar(**options)


def train(folder: Path, *callbacks: Any, columns: int = 80, **options: Any) -> Screen:
    """Train with bars; return what was seen of it."""
    torch.manual_seed(0)
    with terminal(columns) as screen:
        fit(folder, *callbacks, **{"enable_progress_bar": True, "logger": False, **options})
    return screen


def without_figures(text: str) -> str:
    """Leave out what differs between any two runs: times, rates, and the length of bars."""
    return re.sub(r"[\s\d:.?•↳<\[\]━╸╺▏▎▍▌▋▊▉█|-]+", " ", text.partition("it/s")[0])


BARS = [
    pytest.param(kind, options, id=f"{kind}{'-that-stays' if options else ''}")
    for kind in ("tqdm", "rich")
    for options in ({}, {"leave": True})
]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("ours_first", [True, False], ids=["ours-first", "bar-first"])
@pytest.mark.parametrize("validate", [True, False], ids=["validation", "no-validation"])
@pytest.mark.parametrize(("kind", "options"), BARS)
def test_a_long_observation_says_how_far_it_is_and_leaves_the_bar_as_it_was(
    kind, options, validate, ours_first, tmp_path
):
    ours, bar = watching(), bar_of(kind, **options)
    pair = (ours, bar) if ours_first else (bar, ours)
    screen = train(tmp_path, *pair, validate=validate)
    said = "2 of 5 maps" if kind == "tqdm" else "saliency: maps"
    assert len([text for text in screen.seen if "saliency" in text and said in text]) >= 3
    untrained = next(text for text in screen.seen if "saliency" in text)
    assert "Epoch" not in untrained
    assert not screen.overflown
    assert not screen.hidden
    assert "saliency" not in screen.text
    alone = train(tmp_path, bar_of(kind, **options), validate=validate)
    assert without_figures(screen.text) == without_figures(alone.text) != ""


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("columns", [40, 80, 200])
@pytest.mark.parametrize("kind", ["tqdm", "rich"])
@pytest.mark.parametrize("namespace", NAMESPACES)
def test_it_fits_in_any_terminal_in_both_namespaces(namespace, kind, columns, tmp_path):
    space = NAMESPACES[namespace]
    module = __import__(f"lightning_saliency.{namespace.partition('.')[0]}", fromlist=["*"])
    ours = module.SaliencyCallback(one_image(), targets="all", tile_size=24, record=False)
    with terminal(columns) as screen:
        trainer = space.Trainer(
            max_epochs=1,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            callbacks=[ours, bar_of(kind, space)],
        )
        trainer.fit(_network(space), loader(), loader(16))
    shown = [text for text in screen.seen if "saliency" in text]
    assert any(re.search(r"\b2 of 5|2/5\b", text) for text in shown) or columns == 40
    assert shown
    assert not screen.overflown
    assert "saliency" not in screen.text


def _network(space: Any) -> Any:
    """A network of either namespace."""

    class Small(space.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(432, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images.flatten(1)).relu()

        def training_step(self, batch: Any, index: int) -> Tensor:
            loss = torch.nn.functional.cross_entropy(self(batch[0]), batch[1])
            self.log("a_loss_with_a_long_name", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            self.log("val", self(batch[0]).mean(), prog_bar=True)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    return Small()


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_a_validation_or_a_test_says_it_too(kind, tmp_path):
    for doing in ("validate", "test"):
        with terminal(80) as screen:
            trainer = pl.Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                default_root_dir=tmp_path,
                callbacks=[watching(), bar_of(kind)],
            )
            getattr(trainer, doing)(Touchy(), loader(16), verbose=False)
        assert [text for text in screen.seen if "saliency" in text]
        assert "saliency" not in screen.text


@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_a_fast_observation_says_nothing(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(progress, "PATIENCE", 60.0)
    screen = train(tmp_path, watching(), bar_of(kind))
    assert "Epoch 1" in screen.text
    assert not [text for text in screen.seen if "saliency" in text]


class Own(ProgressBar):
    """A bar of the user's own kind."""

    def disable(self) -> None: ...

    def enable(self) -> None: ...


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    ("bars", "options"),
    [
        pytest.param(lambda: [], {"enable_progress_bar": False}, id="no-bar"),
        pytest.param(lambda: [Own()], {}, id="a-bar-of-another-kind"),
        pytest.param(lambda: [TQDMProgressBar(refresh_rate=0)], {}, id="a-bar-that-is-off"),
    ],
)
def test_nothing_is_printed_without_a_bar(bars, options, tmp_path):
    assert train(tmp_path, watching(), *bars(), **options).text == ""


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_a_file_gets_no_stray_lines(kind, tmp_path, monkeypatch):
    logs = []
    for name, ours in (("alone", []), ("observed", [watching()])):
        with (tmp_path / name).open("w+", newline="", encoding="utf-8") as stream:
            monkeypatch.setattr(sys, "stdout", stream)
            torch.manual_seed(0)
            fit(tmp_path, *ours, bar_of(kind), enable_progress_bar=True, logger=False)
            monkeypatch.undo()
            stream.seek(0)
            screen = Screen(80)
            screen.feed(stream.read())
        logs.append(without_figures(screen.text))
    assert logs[0] == logs[1]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("first", [True, False])
def test_only_the_first_rank_looks_for_its_bar(first):
    looks = []

    class Trainer:
        is_global_zero = first

        @property
        def progress_bar_callback(self) -> None:
            looks.append(None)

    shown = Progress(Trainer(), "saliency")
    with shown():
        shown.note(1, 2)
    shown.note(2, 2)  # after the block
    assert len(looks) == first


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["tqdm", "rich"])
@pytest.mark.parametrize("failing", ["__init__", "show", "close"])
def test_an_error_of_a_bar_does_not_reach_training(failing, kind, tmp_path, monkeypatch, recwarn):
    calls = []

    def fail(*_: Any) -> None:
        calls.append(None)
        raise RuntimeError("the bar is broken")

    bar, ours = bar_of(kind), watching(on_error="raise")
    monkeypatch.setattr(getattr(progress, f"_{kind.title()}Line"), failing, fail)
    screen = train(tmp_path, ours, bar)
    assert "Epoch 1" in screen.text
    assert len(calls) == 4  # once per observation, and once for the film strips
    assert len(ours._session.history.frames.spread()) == 3
    assert not [w for w in recwarn if "broken" in str(w.message)]


class Interrupted(Touchy):
    """Is interrupted by hand in the middle of its first observation."""

    passes = 0

    def forward(self, images: Tensor) -> Tensor:
        if not self.training and torch.is_grad_enabled():
            images.register_hook(self._interrupt)
        return super().forward(images)

    def _interrupt(self, gradient: Tensor) -> None:
        self.passes += 1  # It is set back after each observation.
        if self.passes == 4:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_an_observation_that_is_interrupted_clears_its_line(kind, tmp_path, monkeypatch):
    # Lightning lets the process ignore any further interrupt.
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with terminal(80) as screen, pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(
            tmp_path,
            watching(),
            bar_of(kind),
            module=Interrupted(),
            enable_progress_bar=True,
            logger=False,
        )
    assert [text for text in screen.seen if "saliency" in text]
    assert "saliency" not in screen.text
    assert not screen.hidden


class Stopped(Touchy):
    """Is interrupted by hand in its second epoch."""

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["tqdm", "rich"])
def test_a_display_that_has_ended_is_not_started_again(kind, tmp_path, monkeypatch):
    """Film strips are drawn after an interrupt, when the bar has been told of it already."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    options = {"module": Stopped(), "enable_progress_bar": True, "logger": False}
    with terminal(80) as screen, pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(tmp_path, bar_of(kind), watching(), **options)
    assert [text for text in screen.seen if "saliency" in text]
    assert "saliency" not in screen.text
    assert not screen.hidden


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("kind", ["tqdm", "rich"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"val_check_interval": 0.4, "accumulate_grad_batches": 3}, id="in-mid-epoch"),
    ],
)
def test_the_run_is_the_same_bit_by_bit(kind, options, tmp_path):
    ends = []
    for ours in ([], [watching(every_n_train_steps=1)]):
        pl.seed_everything(3)
        module = Touchy()
        with terminal(80) as screen:
            trainer = fit(
                tmp_path,
                *ours,
                bar_of(kind),
                module=module,
                enable_progress_bar=True,
                logger=False,
                **options,
            )
        shown = dict(trainer.progress_bar_metrics)
        ends.append({**run_state(trainer, module), "on the bar": shown})
        assert any("saliency" in text for text in screen.seen) == bool(ours)
    assert differences(*ends) == []


def test_a_bar_is_updated_a_few_times_per_second(monkeypatch):
    now, updates = 0.0, []
    line = SimpleNamespace(show=lambda *shown: updates.append((now, *shown)), close=lambda: None)
    monkeypatch.setattr(progress, "_find_line", lambda trainer: line)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    shown = Progress(SimpleNamespace(is_global_zero=True), "sal\niency" + "x" * 50)
    with shown():
        for done in range(300):
            now = done / 100
            shown.note(done, 300)
    moments = [moment for moment, *_ in updates]
    assert moments[0] == 1.0
    assert len(moments) <= 9
    assert min(b - a for a, b in itertools.pairwise(moments)) >= 0.25
    assert updates[0][1:] == ("sal?iency" + "x" * 14 + "…", 100, 300, "maps")


@pytest.mark.usefixtures("at_once")
def test_a_name_is_not_taken_for_markup(tmp_path):
    pytest.importorskip("rich")
    screen = train(tmp_path, watching(name="a[bold]b"), RichProgressBar())
    assert [text for text in screen.seen if "a[bold]b: maps" in text]


@pytest.mark.usefixtures("at_once")
def test_the_tasks_of_a_rich_bar_keep_their_places(tmp_path):
    pytest.importorskip("rich")

    class Looking(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            self.description = trainer.progress_bar_callback.train_progress_bar.description

    looking = Looking()
    train(tmp_path, watching(), looking, RichProgressBar())
    assert looking.description.startswith("Epoch 1")
