"""Every kind of run that must not notice that it is observed.

`python tests/support/neutrality.py` runs them all and writes `docs/neutrality.md`.
"""

from __future__ import annotations

import itertools
import random
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from callables import nasty, noisy, of_captum
from logger_stores import STORES, offline
from older import average_weights
from pytorch_lightning.callbacks import (
    EarlyStopping,
    ModelCheckpoint,
    ModelPruning,
    StochasticWeightAveraging,
)
from pytorch_lightning.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset

from lightning_saliency import (
    AttentionCheck,
    ProbeBatch,
    Reference,
    SaliencyCallback,
)
from lightning_saliency.attribution import passes
from lightning_saliency.callback import build
from lightning_saliency.callback.checking import Checking
from lightning_saliency.isolation.rng import random_streams_kept

CLASSES = 4


class Shapes(Dataset[tuple[Tensor, int]]):
    """Bright squares in one of four corners on noise, augmented by three random streams."""

    def __init__(self, count: int, *, augment: bool) -> None:
        generator = torch.Generator().manual_seed(count)
        self.targets = torch.randint(CLASSES, (count,), generator=generator).tolist()
        self.images = torch.randn(count, 3, 12, 12, generator=generator)
        self.augment = augment
        for image, target in zip(self.images, self.targets, strict=True):
            y, x = divmod(target, 2)
            image[:, y * 6 : y * 6 + 6, x * 6 : x * 6 + 6] += 1

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index].clone()
        if self.augment:
            image += 0.1 * torch.randn(image.shape)
            image *= float(np.random.uniform(0.9, 1.1))
            if random.random() < 0.5:
                image = image.roll(1, dims=2)
        return image, self.targets[index]


class Volumes(Shapes):
    """The same with their colours as three slices, ``(1, 3, 12, 12)``."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return image[None], label


class Batches(Shapes):
    """The same as the dicts that models of Hugging Face take."""

    def __getitem__(self, index: int) -> Any:
        image, label = super().__getitem__(index)
        return {"pixel_values": image, "labels": label}


class Counting(Shapes):
    """Images that become brighter with every read, from a file that is opened on the first."""

    reads = 0
    file: Any = None

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.file = self.file or Path(__file__).open("rb")  # noqa: SIM115
        self.reads += 1
        image, label = super().__getitem__(index)
        return image + self.reads / 1000 + self.file.read(1)[0] / 1000, label


class Touchy(pl.LightningModule):
    """Has what a careless observer disturbs: dropout, a frozen norm, a buffer that counts calls."""

    def __init__(self, *, compiled: str = "", checkpointed: str = "") -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.dropout = nn.Dropout(0.2)
        self.head = nn.Linear(8 * 9, CLASSES)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.checkpointed = checkpointed
        if compiled == "in place":
            self.conv2.compile(backend="aot_eager")
        elif compiled == "attribute":
            self.conv2 = torch.compile(self.conv2, backend="aot_eager")
        elif compiled == "method":
            self.features = torch.compile(self.features, backend="aot_eager")

    def features(self, images: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(images)), inplace=True)
        return F.relu(self.norm2(self.conv2(x)) + x)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        if self.checkpointed:
            x = checkpoint(self.features, images, use_reentrant=self.checkpointed == "reentrant")
        else:
            x = self.features(images)
        return self.head(self.dropout(F.max_pool2d(x, 4).flatten(1)))

    def on_train_epoch_start(self) -> None:
        self.norm1.eval()  # frozen, in a module that is otherwise in training mode

    def loss(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("loss", loss)
        return loss

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        return self.loss(batch)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        images, labels = batch
        self.log("val_acc", (self(images).argmax(dim=1) == labels).float().mean())

    def test_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        images, labels = batch
        self.log("test_acc", (self(images).argmax(dim=1) == labels).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 2)]


class Volumetric(Touchy):
    """Takes volumes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv3d(1, 8, 3, padding=1), nn.BatchNorm3d(8)
        self.conv2, self.norm2 = nn.Conv3d(8, 8, 3, padding=1), nn.BatchNorm3d(8)

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        x = F.max_pool3d(self.features(images), (3, 4, 4))
        return self.head(self.dropout(x.flatten(1)))


class HuggingFace(pl.LightningModule):
    """A vision transformer of Hugging Face, called with its batches."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import AutoModelForImageClassification, ViTConfig

        sizes = {"image_size": 12, "patch_size": 4, "hidden_size": 16, "intermediate_size": 32}
        layers = {"num_hidden_layers": 2, "num_attention_heads": 2}
        config = ViTConfig(
            **sizes, **layers, num_labels=CLASSES, hidden_dropout_prob=0.1, hidden_act="relu"
        )
        self.model = AutoModelForImageClassification.from_config(config)

    def forward(self, **batch: Tensor) -> Any:
        return self.model(**batch)

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self(**batch).loss

    def validation_step(self, batch: Any, _: int) -> None:
        hits = self(**batch).logits.argmax(dim=1) == batch["labels"]
        self.log("val_acc", hits.float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


class Manual(Touchy):
    """Steps two toggled optimizers by hand, the second one on every other batch."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        for number, optimizer in enumerate(self.optimizers()):
            if number and index % 2:
                continue
            self.toggle_optimizer(optimizer)
            loss = self.loss(batch)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        body = [*self.conv1.parameters(), *self.conv2.parameters()]
        return [torch.optim.SGD(body, lr=0.05), torch.optim.Adam(self.head.parameters(), lr=0.01)]


class Talkative(Touchy):
    """Logs in its forward pass, and keeps what it has seen in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []
        self.passes = 0

    def forward(self, images: Tensor) -> Tensor:
        self.log("brightness", images.mean())
        self.seen.append(float(images.mean()))
        self.passes += 1
        return super().forward(images)


class Renormed(Touchy):
    """Writes to its weights in each forward pass, in ways that autograd notices and does not."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.places = nn.Embedding(3, 8, max_norm=0.5)
        self.mean, self.scale = nn.Parameter(torch.zeros(8)), nn.Parameter(torch.ones(8))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, images: Tensor) -> Tensor:
        weight = self.head.weight
        if self.how == "new memory":
            weight.data = torch.renorm(weight.data, 2, 0, 0.2 + float(images.mean().abs()))
        elif self.how == "alias":
            weight.data.clamp_(-0.05, 0.05).add_(images.mean().detach(), alpha=0.01)
        elif self.how == "copy":
            with torch.no_grad():
                weight.copy_(weight * 0.9)
        return super().forward(images)

    def features(self, images: Tensor) -> Tensor:
        found = super().features(images)
        if self.how == "embedding":
            where = torch.arange(len(images)) % 2
            found = found + self.places(where)[:, :, None, None]
        elif self.how == "data-dependent":
            if not self.initialised:
                self.mean.data.copy_(found.detach().mean(dim=(0, 2, 3)))
                self.scale.data.copy_(1 / (found.detach().std(dim=(0, 2, 3)) + 0.1))
                self.initialised.fill_(True)
            found = (found - self.mean[:, None, None]) * self.scale[:, None, None]
        return found


class Lazy(Touchy):
    """Has layers that its first forward pass initialises at random."""

    def __init__(self) -> None:
        super().__init__()
        self.conv2, self.norm2 = nn.LazyConv2d(8, 3, padding=1), nn.LazyBatchNorm2d()
        self.head = nn.LazyLinear(CLASSES)


class Growing(Touchy):
    """Makes a parameter at random in its first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = None

    def forward(self, images: Tensor) -> Tensor:
        if self.shift is None:
            self.shift = nn.Parameter(torch.randn(images.shape[1], 1, 1))
        return super().forward(images + self.shift)


class Noted:
    """An object with slots, whose state decides what a module computes."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count, self.last = 0, deque([0.0], maxlen=3)


class Stateful(Touchy):
    """Computes with generators and objects of its own, all of which a forward pass moves."""

    def __init__(self) -> None:
        super().__init__()
        self.streams = {
            "torch": torch.Generator().manual_seed(1),
            "others": [np.random.default_rng(1), np.random.RandomState(1), random.Random(1)],
        }
        self.noted, self.totals, self.numbers = Noted(), {"sums": [np.zeros(3)]}, itertools.count()

    def forward(self, images: Tensor) -> Tensor:
        numpy, old_numpy, python = self.streams["others"]
        noise = torch.randn(images.shape, generator=self.streams["torch"])
        drawn = numpy.random() + old_numpy.rand() + python.random()
        self.noted.count += 1
        self.noted.last.append(float(images.mean()))
        (sums,) = self.totals["sums"]
        sums += 0.01 * next(self.numbers)
        known = self.noted.count % 3 + sum(self.noted.last) + float(sums.mean()) % 1
        return super().forward(images + 0.01 * drawn * noise) * (1 + 0.01 * known)


class Held(Logger):
    """Keeps every scalar in memory, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.scalars: list[tuple[int | None, str, float]] = []

    name = "held"
    version = 0

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        ours = {k: v for k, v in metrics.items() if not k.startswith("saliency")}
        self.scalars += [(step, name, float(value)) for name, value in sorted(ours.items())]


@dataclass(frozen=True)
class Row:
    """One kind of run: the arguments of the trainer and the callback, and the module."""

    trainer: dict[str, Any] = field(default_factory=dict)
    module: Callable[[], Any] = Touchy
    data: Callable[..., Shapes] = Shapes
    callback: dict[str, Any] = field(default_factory=dict)
    before: Callable[[], list[pl.Callback]] = list  # callbacks that come before ours
    after: Callable[[], list[pl.Callback]] = list
    second: dict[str, Any] | None = None  # arguments of a second callback
    validate: bool = True  # whether a validation loader is passed
    checked: bool = False  # whether a check fails at the end of every epoch
    seen: bool = True  # whether there is anything to observe
    doing: str = "fit"  # or another method of the trainer
    loggers: Callable[[Path], AbstractContextManager[list[Any]]] = lambda _: nullcontext([])
    needs: str = ""  # a package that may be missing


def probe() -> ProbeBatch:
    corner = torch.zeros(4, 12, 12, dtype=torch.bool)
    corner[:, :6, :6] = True
    return ProbeBatch.from_dataset(Shapes(16, augment=False), count=4, masks={"corner": corner})


@cache
def failing_check() -> AttentionCheck:
    """A check that every run fails at the end of every epoch, with a confirmation each time."""
    with tempfile.TemporaryDirectory() as folder, random_streams_kept():
        run(Row({"max_epochs": 1}), Path(folder), observed=True)
        reference = Reference.from_runs([next(Path(folder).rglob("run.json")).parent])
    # With one good run, automatic bounds only warn; a bound that is a number fails.
    return AttentionCheck(reference, require=["corner.share <= 0"], start_after="val_acc>=0")


class Counted(SaliencyCallback):
    """Counts its observations: a run that is never observed is never disturbed either."""

    observations = 0

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        session = self._session
        session._observe = self._counting(session, session._observe)

    def _counting(self, session: Any, observe: Any) -> Any:
        def counted(*args: Any) -> None:
            observe(*args)
            # There is no observer if the trial before training failed.
            self.observations += session._observer is not None

        return counted


@contextmanager
def counting_confirmations() -> Iterator[list[None]]:
    """Note every failure of a check that was confirmed."""
    confirmed: list[None] = []
    act_on = Checking._act_on

    def noted(self: Checking, verdict: Any, *args: Any) -> None:
        if verdict.outcome == "fail" and verdict.occluded is not None:
            confirmed.append(None)
        act_on(self, verdict, *args)

    with mock.patch.object(Checking, "_act_on", noted):
        yield confirmed


def run(row: Row, folder: Path, *, observed: bool, **ours: Any) -> tuple[dict[str, Any], int]:
    """Train; return all in which runs can differ, and how often this one was observed."""
    if row.checked and observed:
        ours["check"] = failing_check()
    pl.seed_everything(7)
    held = Held()
    shared = {"probe": probe(), "tile_size": 24, **row.callback, **ours}
    wanted = [{}] if row.second is None else [{}, row.second]
    watchers = [Counted(**{**shared, **own}) for own in wanted if observed]
    defaults: dict[str, Any] = {"max_epochs": 3, "enable_checkpointing": False}
    module = row.module()
    train = DataLoader(row.data(40, augment=True), batch_size=8, shuffle=True)
    val = DataLoader(row.data(16, augment=True), batch_size=8) if row.validate else None
    with row.loggers(folder) as loggers, counting_confirmations() as confirmed:
        trainer = pl.Trainer(
            **{**defaults, **row.trainer},
            accelerator="cpu",
            devices=1,
            default_root_dir=folder,
            logger=[held, *loggers],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*row.before(), *watchers, *row.after()],
        )
        if row.doing == "fit":
            trainer.fit(module, train, val)
        else:
            getattr(trainer, row.doing)(module, val, verbose=False)
        left = run_state(trainer, module)
    expected = (
        0 if ours.get("on_error") == "warn" else trainer.max_epochs
    )  # if every observation is to fail
    if row.checked and len(confirmed) != expected * len(watchers):
        raise AssertionError("not checked at the end of every epoch")
    return {**left, "scalars": held.scalars}, sum(w.observations for w in watchers)


@dataclass(frozen=True)
class Verdict:
    """How a kind of run compares with the same without the callback."""

    times: int  # how often it was observed
    observed: list[str]  # the places in which the two differ
    failing: list[str]  # the same if every observation fails

    @property
    def words(self) -> str:
        seen = f"bitwise the same, observed {self.times} times" if not self.observed else "differs"
        return f"{seen}; {'bitwise the same' if not self.failing else 'differs'} when it fails"


def judge(row: Row, folder: Path) -> Verdict:
    """Train three times: without the callback, with it, and with every observation failing."""
    alone, _ = run(row, folder, observed=False)
    observed, times = run(row, folder, observed=True)
    with failing_observations() as failures:
        broken, _ = run(row, folder, observed=True, on_error="warn")
    if bool(failures) != row.seen:
        raise AssertionError(f"{len(failures)} observations failed; `seen` is {row.seen}")
    return Verdict(times, differences(alone, observed), differences(alone, broken))


@contextmanager
def failing_observations() -> Iterator[list[None]]:
    """Let every observation fail after its forward pass, with random numbers drawn by then.

    The trial before training is spared: if it failed, nothing would be observed at all.
    """
    failures: list[None] = []
    whole, try_model = passes.Graph, build._try_model

    def fail(*_: object) -> None:
        failures.append(None)
        torch.rand(3)
        np.random.rand(3)
        raise RuntimeError("injected")

    def spare(*args: Any) -> int:
        with mock.patch.object(passes, "Graph", whole):
            return try_model(*args)

    with mock.patch.object(passes, "Graph", fail), mock.patch.object(build, "_try_model", spare):
        yield failures


def run_state(trainer: Any, module: Any) -> dict[str, Any]:
    """Everything in which an observed run could differ from the same run, not observed."""
    ours = "saliency"
    return {
        "weights and buffers": {k: v.detach().clone() for k, v in module.state_dict().items()},
        "optimizer state": [optimizer.state_dict() for optimizer in trainer.optimizers],
        "schedulers": [s.scheduler.state_dict() for s in trainer.lr_scheduler_configs],
        "callback metrics": _numbers(trainer.callback_metrics, but=ours),
        "logged metrics": _numbers(trainer.logged_metrics, but=ours),
        "torch RNG": torch.get_rng_state(),
        "numpy RNG": np.random.get_state(),  # includes the position in the stream
        "python RNG": random.getstate(),
        "modes": [m.training for m in module.modules()],
        "gradients": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "attributes": {name: sorted(m.__dict__) for name, m in module.named_modules()},
        "kept values": (getattr(module, "seen", None), getattr(module, "passes", None)),
        "hooks": {name: _hooks(m) for name, m in module.named_modules()},
        "grad mode": torch.is_grad_enabled(),
    }


def _numbers(metrics: Any, *, but: str) -> dict[str, float]:
    return {name: float(v) for name, v in metrics.items() if not name.startswith(but)}


def _hooks(module: torch.nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for kind in kinds)


def differences(first: Any, second: Any, where: str = "") -> list[str]:
    """The places where two results are not bitwise the same."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        same = first.dtype == second.dtype and first.shape == second.shape
        return [] if same and _bits(first) == _bits(second) else [where]
    if isinstance(first, np.ndarray):
        return [] if np.array_equal(first, second) else [where]
    if isinstance(first, dict) and first.keys() == second.keys():
        return [d for key in first for d in differences(first[key], second[key], f"{where}/{key}")]
    if isinstance(first, list | tuple) and len(first) == len(second):
        pairs = enumerate(zip(first, second, strict=True))
        return [d for i, (a, b) in pairs for d in differences(a, b, f"{where}[{i}]")]
    return [] if type(first) is type(second) and (first == second or first != first) else [where]


def _bits(tensor: Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())


class LoadingBest(pl.Callback):
    """Loads at the end of training the weights of an earlier step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if trainer.global_step == 7:
            self.best = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        pl_module.load_state_dict(self.best)


class Halving(Touchy):
    """Halves its own weights at the end of training, where autograd does not notice it."""

    def on_train_end(self) -> None:
        for parameter in self.parameters():
            parameter.data.mul_(0.5)


def _ema() -> list[pl.Callback]:
    return [average_weights(decay=0.9)]


def _swa() -> list[pl.Callback]:
    return [StochasticWeightAveraging(swa_lrs=1e-2, swa_epoch_start=1)]


def _logging_to(kind: str) -> Callable[[Path], AbstractContextManager[list[Any]]]:
    @contextmanager
    def opened(folder: Path) -> Iterator[list[Any]]:
        with offline(folder / "services"):
            # The first Comet experiment of a process draws random numbers, observed or not.
            with random_streams_kept():
                logger = STORES[kind].make(pl, folder / kind)
            try:
                yield [logger]
            finally:
                STORES[kind].close(logger)

    return opened


BY_CAPTUM = (
    "guided_backprop",
    of_captum("IntegratedGradients", n_steps=4),
    of_captum("LayerGradCam", layer="conv2"),
)

ROWS: dict[str, Row] = {
    "plain": Row(),
    "no validation loop": Row(validate=False),
    "val_check_interval=0.4": Row({"val_check_interval": 0.4}),
    "check_val_every_n_epoch=2": Row({"check_val_every_n_epoch": 2}),
    "max_steps in mid-epoch": Row({"max_steps": 7, "max_epochs": -1}),
    "accumulation over the epoch end": Row({"accumulate_grad_batches": 3}),
    "accumulation, observed in its middle": Row(
        {"accumulate_grad_batches": 2}, callback={"every_n_train_steps": 1}
    ),
    "gradient clipping": Row({"gradient_clip_val": 0.1}),
    "manual optimization, two toggled optimizers": Row(module=Manual),
    "every_n_train_steps=2": Row(callback={"every_n_train_steps": 2}),
    "fast_dev_run": Row({"fast_dev_run": 2}),
    "no sanity check": Row({"num_sanity_val_steps": 0}),
    "limit_val_batches=0": Row({"limit_val_batches": 0}),
    "limit_train_batches=0": Row({"limit_train_batches": 0}, seen=False),
    "overfit_batches=2": Row({"overfit_batches": 2}),
    "a probe of its own choice": Row(callback={"probe": None}),
    "the same, of data that open a file and count their reads": Row(
        data=Counting, callback={"probe": None}
    ),
    "volumes, with a probe of its own choice": Row(
        module=Volumetric, data=Volumes, callback={"probe": None}
    ),
    "a vision transformer of Hugging Face": Row(
        module=HuggingFace, data=Batches, callback={"probe": None}, needs="transformers"
    ),
    "a check that fails at every epoch's end, confirmed by hiding what grew": Row(checked=True),
    "the same in bf16-mixed": Row({"precision": "bf16-mixed"}, checked=True),
    "keep=2": Row(callback={"keep": 2}),
    "record=False": Row(callback={"record": False}),
    "one image a forward pass": Row(callback={"chunk_size": 1}),
    "plain gradient": Row(callback={"rule": "gradient", "targets": "top3"}),
    "two rules": Row(callback={"rule": ("guided_backprop", "gradient")}),
    "integrated gradients and Grad-CAM by Captum, next to guided backprop": Row(
        callback={"rule": BY_CAPTUM, "targets": "label"}
    ),
    "the same in bf16-mixed, alone": Row(
        {"precision": "bf16-mixed"}, callback={"rule": BY_CAPTUM[1:], "targets": "label"}
    ),
    "callables that leave hooks, gradients, modes and random numbers behind": Row(
        callback={"rule": ("gradient", nasty, noisy)}
    ),
    "deterministic": Row({"deterministic": True}),
    "anomaly detection": Row({"detect_anomaly": True}),
    "EarlyStopping and ModelCheckpoint": Row(
        {"enable_checkpointing": True},
        after=lambda: [EarlyStopping("val_acc", mode="max"), ModelCheckpoint(monitor="val_acc")],
    ),
    "weight averaging before": Row(before=_ema),
    "weight averaging after": Row(after=_ema),
    "stochastic weight averaging": Row(after=_swa),
    "weight averaging without a validation": Row(before=_ema, validate=False),
    "pruning": Row(after=lambda: [ModelPruning("l1_unstructured", amount=0.5)]),
    "the best weights loaded when training ends": Row(after=lambda: [LoadingBest()]),
    "weights changed by the module when training ends": Row(module=Halving),
    "two callbacks": Row(second={"name": "saliency_too", "rule": "deconvnet"}),
    "validate alone": Row(doing="validate"),
    "test alone": Row(doing="test"),
    "16-mixed (bf16-mixed, as Lightning has it on a CPU)": Row({"precision": "16-mixed"}),
    "bf16-mixed": Row({"precision": "bf16-mixed"}),
    "bf16-true": Row({"precision": "bf16-true"}),
    "16-true": Row({"precision": "16-true"}),
    "64-true": Row({"precision": "64-true"}),
    "a forward pass that logs and remembers": Row(module=Talkative),
    "weights that `forward` replaces by `.data = …`": Row(module=lambda: Renormed("new memory")),
    "weights that `forward` writes through `.data`": Row(module=lambda: Renormed("alias")),
    "weights that `forward` writes in place": Row(module=lambda: Renormed("copy")),
    "an embedding with max_norm": Row(module=lambda: Renormed("embedding")),
    "weights that the first batch initialises (ActNorm)": Row(
        {"num_sanity_val_steps": 0}, module=lambda: Renormed("data-dependent")
    ),
    "lazy layers": Row(module=Lazy),
    "lazy layers, no validation before": Row({"num_sanity_val_steps": 0}, module=Lazy),
    "a parameter that the first forward pass makes": Row(
        {"num_sanity_val_steps": 0}, module=Growing
    ),
    "random generators and counters in objects, deques and nested containers": Row(module=Stateful),
    "compiled in place": Row(module=lambda: Touchy(compiled="in place")),
    "a compiled attribute": Row(module=lambda: Touchy(compiled="attribute")),
    "a compiled method": Row(module=lambda: Touchy(compiled="method")),
    "compiled as a whole": Row(module=lambda: torch.compile(Touchy(), backend="aot_eager")),
    "activation checkpointing": Row(module=lambda: Touchy(checkpointed="not reentrant")),
    "reentrant checkpointing, which cannot be observed": Row(
        module=lambda: Touchy(checkpointed="reentrant"), callback={"on_error": "warn"}, seen=False
    ),
    "a W&B logger, offline": Row(loggers=_logging_to("W&B")),
    "a Comet logger, offline": Row(loggers=_logging_to("Comet")),
    "a SwanLab logger, offline": Row(loggers=_logging_to("SwanLab")),
}
