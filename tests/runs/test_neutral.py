"""The demo's training, with shuffling and dropout, ends bitwise as it does without the callback.

`test_matrix.py` tests this for many kinds of run with a network that is easily disturbed. Here it
is tested for the network and the digits that users start from, for the files of loggers, and for
runs that are resumed or whose observations fail.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matrix import differences
from pytorch_lightning.loggers import CSVLogger
from torch.utils.data import DataLoader, Subset, TensorDataset
from training import quiet_trainer, run_state, scalars, seen

from lightning_saliency import ProbeBatch, SaliencyCallback
from lightning_saliency.callback.session import Session
from lightning_saliency.errors import SaliencyWarning

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

TRAIN, VAL = range(0, 5000, 50), range(25, 5000, 100)  # 100 and 50 digits, all classes in both


class Demo:
    """Trains the demo's network on some of its digits, with one folder per run."""

    def __init__(self, example: ModuleType, digits: TensorDataset, folder: Path) -> None:
        self.example, self.digits, self.folder = example, digits, folder
        self.runs = 0

    def probe(self) -> ProbeBatch:
        example = self.example
        half = torch.zeros(3, 28, 28, dtype=torch.bool)
        half[:, :14] = True  # a mask, so that scalars are logged too
        return ProbeBatch.from_dataset(
            self.digits, count=3, mean=[example.MEAN], std=[example.STD], masks={"top": half}
        )

    def run(
        self, *callbacks: Any, validate: bool = True, ckpt_path: Any = None, **options: Any
    ) -> dict[str, Any]:
        """Train; return everything that the run leaves behind, with what it logged."""
        self.runs += 1
        folder = self.folder / str(self.runs)
        pl.seed_everything(3)
        trainer = quiet_trainer(folder, *callbacks, **{"max_epochs": 3, **options})
        module = self.example.DigitNet()
        val = DataLoader(Subset(self.digits, VAL), batch_size=25) if validate else None
        train = DataLoader(Subset(self.digits, TRAIN), batch_size=20, shuffle=True)
        trainer.fit(module, train, val, ckpt_path=ckpt_path)
        logged = scalars(folder) if list(folder.glob("events*")) else {}
        return {**run_state(trainer, module), "logged scalars": logged}


@pytest.fixture
def demo(fit_digits: ModuleType, digits: TensorDataset, tmp_path: Path) -> Demo:
    return Demo(fit_digits, digits, tmp_path)


@pytest.mark.parametrize(
    ("ours", "options"),
    [
        pytest.param({}, {}, id="as-in-the-demo"),
        pytest.param({"probe": None}, {}, id="probe-chosen-by-itself"),
        pytest.param({"every_n_train_steps": 2}, {}, id="every-2-steps"),
        pytest.param({}, {"accumulate_grad_batches": 3}, id="accumulation-over-the-epoch-end"),
        pytest.param(
            {"every_n_train_steps": 1}, {"accumulate_grad_batches": 3}, id="within-accumulation"
        ),
        pytest.param({}, {"validate": False}, id="no-validation-loop"),
        pytest.param({}, {"val_check_interval": 0.5}, id="two-validations-an-epoch"),
        pytest.param({}, {"check_val_every_n_epoch": 2}, id="validation-every-2-epochs"),
        pytest.param(
            {"probe": None, "targets": "top3", "rule": "gradient", "chunk_size": 3},
            {"validate": False, "max_steps": 7},
            id="all-at-once",
        ),
    ],
)
def test_the_demo_ends_as_if_it_were_not_observed(ours, options, demo):
    alone = demo.run(**options)
    callback = SaliencyCallback(**{"probe": demo.probe(), **ours})
    observed = demo.run(callback, **options)
    assert len(seen(callback)) >= 3
    assert alone["logged scalars"]
    assert differences(alone, observed) == []


def test_what_a_csv_logger_writes_is_the_same_but_for_columns_of_our_own(demo, tmp_path):
    tables = []
    for name, callbacks in (("alone", []), ("observed", [SaliencyCallback(demo.probe())])):
        demo.run(*callbacks, logger=CSVLogger(tmp_path, name=name, version="run"))
        with (tmp_path / name / "run" / "metrics.csv").open() as file:
            rows = [
                {k: v for k, v in r.items() if "saliency" not in k} for r in csv.DictReader(file)
            ]
        tables.append([row for row in rows if set(row.values()) - {row["step"], ""}])
    assert len(tables[0]) > 10
    assert tables[0] == tables[1]


def test_a_resumed_run_ends_as_if_it_were_not_observed(demo, tmp_path):
    ends = []
    for name, callbacks in (("alone", []), ("observed", [SaliencyCallback(demo.probe())])):
        keep = pl.callbacks.ModelCheckpoint(tmp_path / name, every_n_train_steps=7, save_top_k=-1)
        demo.run(*callbacks, keep, enable_checkpointing=True)
        (first, *_) = sorted((tmp_path / name).glob("*.ckpt"))
        again = [SaliencyCallback(demo.probe()) for _ in callbacks]
        ends.append(demo.run(*again, ckpt_path=first))
    assert differences(*ends) == []


def _disturb(*_: Any) -> None:
    """Do to the run what code may have done by the time it fails."""
    torch.rand(3)
    np.random.rand(3)
    random.random()
    raise RuntimeError("injected")


@pytest.mark.parametrize("at", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("lightning_saliency.attribution.passes.run_forward", id="in-the-forward-pass"),
        pytest.param(
            "lightning_saliency.attribution.passes._input_gradient", id="between-two-passes"
        ),
    ],
)
def test_an_observation_that_fails_while_explaining_is_not_noticed(broken, at, demo, monkeypatch):
    alone = demo.run()
    _fail_in_observation(monkeypatch, broken, at)
    with pytest.warns(SaliencyWarning, match=r"observing the model \(.*\) failed, training goes"):
        observed = demo.run(SaliencyCallback(demo.probe(), on_error="warn"))
    assert differences(alone, observed) == []


@pytest.mark.parametrize(
    ("broken", "doing"),
    [
        pytest.param("callback.adapters.encode", "observing the model", id="encoding"),
        pytest.param("draw.mosaics.MosaicRenderer.mosaic", "observing the model", id="drawing"),
        pytest.param("observe.reducers.profiles_and_shares", "observing the model", id="measuring"),
        pytest.param(
            "draw.mosaics.MosaicRenderer.filmstrip", "drawing the film strips", id="film-strips"
        ),
    ],
)
def test_pictures_and_numbers_that_fail_are_not_noticed(broken, doing, demo, monkeypatch):
    alone = demo.run()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("injected")

    monkeypatch.setattr(f"lightning_saliency.{broken}", fail)
    with pytest.warns(SaliencyWarning, match=f"{doing}.* failed, training goes on: .*injected"):
        observed = demo.run(SaliencyCallback(demo.probe(), on_error="warn"))
    assert differences(alone, observed) == []


def _fail_in_observation(monkeypatch: pytest.MonkeyPatch, function: str, at: int) -> None:
    """Make ``function`` fail in observation number ``at``, in the middle of its work."""
    path, name = function.rsplit(".", 1)
    module = __import__(path, fromlist=[name])
    whole, observe = getattr(module, name), Session._observe
    number = -1

    def counted(*arguments: Any, **named: Any) -> None:
        nonlocal number
        number += 1
        monkeypatch.setattr(module, name, _disturb if number == at else whole)
        observe(*arguments, **named)

    monkeypatch.setattr(Session, "_observe", counted)


class Careless(SaliencyCallback):
    """Does one forbidden thing at the end of each epoch."""

    def __init__(self, probe: ProbeBatch, slip: Callable[[Any, Any], object]) -> None:
        super().__init__(probe)
        self.slip = slip

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self.slip(trainer, pl_module)


def _backward(_: Any, module: Any) -> None:
    module.head.bias.sum().backward()


def _nudge(_: Any, module: Any) -> None:
    with torch.no_grad():  # by the smallest possible amount
        bias = module.head.bias
        bias.copy_(torch.nextafter(bias, torch.ones_like(bias)))


@pytest.mark.parametrize(
    ("slip", "noticed"),
    [
        pytest.param(lambda *_: torch.rand(1), "torch RNG", id="draws-from-torch"),
        pytest.param(lambda *_: np.random.rand(), "numpy RNG", id="draws-from-numpy"),
        pytest.param(lambda *_: random.random(), "python RNG", id="draws-from-python"),
        pytest.param(lambda _, m: m.dropout.eval(), "modes", id="leaves-dropout-off"),
        pytest.param(lambda _, m: m(torch.ones(2, 1, 28, 28)), "norm1.running", id="moves-a-norm"),
        pytest.param(_nudge, "weights", id="moves-a-weight-by-one-bit"),
        pytest.param(_backward, "gradients", id="fills-gradients"),
        pytest.param(
            lambda _, m: m.conv1.register_forward_hook(print), "hooks", id="leaves-a-hook"
        ),
        pytest.param(lambda _, m: setattr(m, "kept", 1), "attributes", id="leaves-an-attribute"),
        pytest.param(lambda _, m: m.log("extra", 1.0), "logged scalars", id="logs-a-metric"),
        pytest.param(
            lambda t, _: t.optimizers[0].param_groups[0].update(lr=2e-3),
            "optimizer state",
            id="touches-the-optimizer",
        ),
    ],
)
def test_the_comparison_notices_a_careless_callback(slip, noticed, demo):
    """Otherwise a comparison of nothing with nothing would count as neutrality."""
    alone = demo.run(max_epochs=2)
    careless = demo.run(Careless(demo.probe(), slip), max_epochs=2)
    assert any(noticed in place for place in differences(alone, careless))
