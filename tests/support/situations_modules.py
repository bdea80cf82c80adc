"""Kinds of modules, of what they return, and of what changes them."""

from __future__ import annotations

import collections
import random
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from older import average_weights
from pytorch_lightning.callbacks import ModelPruning
from situations import CLASSES, REFUSES, SAYS, SIDE, Net, Situation, images, labels, load, shown
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch

X, Y = images(), labels()
PAIR = TensorDataset(X, Y)


def pairs() -> dict[str, Any]:
    return load(PAIR)


def kind(name: str, module: Callable[[], Any], **changed: Any) -> Situation:
    """A module that is trained on images and labels."""
    return Situation(name, module, **{"data": pairs, **changed})


def forward(
    function: Callable[[Any, Tensor], Tensor], *, outputs: Callable[[Tensor], Tensor] | None = None
) -> dict[str, Any]:
    """Follow the advice to pass ``forward``, and compare with it."""
    to_chances = outputs or (lambda logits: logits.softmax(1))
    return {
        "options": lambda data: {"forward": function},
        "chances": lambda module, probe: to_chances(function(module, probe.images)),
    }


FORWARD = "`forward=lambda module, images: …`"


# --- What `forward` takes.


class TakesBatch(Net):
    """``forward(batch)``."""

    def forward(self, batch: Any) -> Tensor:
        return self.head(self.features(batch[0]))

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch), batch[1])


class NoForward(Net):
    """A module that calls its layers in its steps."""

    forward = None

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self.head(self.features(batch[0])), batch[1])


class WithAge(Net):
    """``forward(images, age)``."""

    def forward(self, x: Tensor, age: Tensor) -> Tensor:
        return self.head(self.features(x)) + age[:, None] * torch.arange(CLASSES)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0], batch[2]), batch[1])


AGE = torch.rand(len(X), generator=torch.Generator().manual_seed(1))


def aged(module: Any, probe: ProbeBatch) -> Tensor:
    return module(probe.images, probe.extras["age"]).softmax(1)


class Gan(Net):
    """A generator, and a discriminator that is not ``forward``."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(5, 3 * SIDE * SIDE)

    def forward(self, noise: Tensor) -> Tensor:
        return self.make(noise).unflatten(1, (3, SIDE, SIDE))

    def loss(self, batch: Any) -> Tensor:
        made = self(torch.randn(8, 5))
        real = self.head(self.features(batch[0]))
        return F.cross_entropy(real, batch[1]) + self.head(self.features(made)).mean()


INPUTS = (
    kind("a module that squeezes its output", lambda: Returning(lambda m, x, y: y.squeeze())),
    kind(
        "`forward(batch)`",
        TakesBatch,
        outcome=REFUSES,
        says="forward=lambda",
        remedy="`forward=lambda module, images: module([images])`",
        **forward(lambda module, x: module([x])),
    ),
    kind(
        "no `forward`",
        NoForward,
        outcome=REFUSES,
        says="forward=lambda",
        remedy="`forward=lambda module, images: module.head(module.features(images))`",
        **forward(lambda module, x: module.head(module.features(x))),
    ),
    Situation(
        "`forward(images, age)`",
        WithAge,
        lambda: load(TensorDataset(X, Y, AGE)),
        REFUSES,
        says="forward=lambda",
        remedy="`probe=ProbeBatch(images, labels, extras={'age': …})`",
        options=lambda data: {
            "probe": ProbeBatch(X[:4], Y[:4], extras={"age": AGE[:4]}),
            "chunk_size": 3,
        },
        chances=aged,
    ),
    kind(
        "a GAN",
        Gan,
        outcome=REFUSES,
        says="forward=lambda",
        remedy="`forward=` that calls the discriminator",
        **forward(lambda module, x: module.head(module.features(x))),
    ),
)


# --- What `forward` returns.


class Returning(Net):
    """Returns what ``out(module, images, logits)`` makes of its logits."""

    def __init__(
        self,
        out: Callable[[Any, Tensor, Tensor], Any],
        loss: Callable[[Any, Tensor], Tensor] = F.cross_entropy,
        **known: Any,
    ) -> None:
        super().__init__(**known)
        self.out, self.of = out, loss

    def forward(self, x: Tensor) -> Any:
        return self.out(self, x, super().forward(x))

    def loss(self, batch: Any) -> Tensor:
        return self.of(self(batch[0]), batch[1])


class Output(NamedTuple):
    """What some models return."""

    logits: Tensor
    aux_logits: Tensor


class HasLogits:
    """What other models return."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.loss = logits, None


def returning(out: Callable[..., Any], loss: Callable[..., Tensor], **known: Any) -> Any:
    return lambda: Returning(out, loss, **known)


def found_by(read: Callable[[Any], Tensor]) -> dict[str, Any]:
    """Compare with the logits that ``read`` finds in an output."""
    return {"chances": lambda module, probe: read(module(probe.images)).softmax(1)}


class Featured(Net):
    """Returns its logits and the features under them, in either order."""

    def __init__(self, *, last: bool) -> None:
        super().__init__()
        self.last = last

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        logits = self.head(features)
        return (features, logits) if self.last else (logits, features)

    def loss(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0])[1 if self.last else 0], batch[1])


def positions(module: Any, x: Tensor, logits: Tensor) -> Tensor:
    return logits[..., None, None].expand(-1, -1, 2, 2)


OUTPUTS = (
    kind(
        "a dict with `'logits'`",
        returning(lambda m, x, y: {"logits": y}, lambda o, y: F.cross_entropy(o["logits"], y)),
        **found_by(lambda output: output["logits"]),
    ),
    kind(
        "an object with `.logits`",
        returning(lambda m, x, y: HasLogits(y), lambda o, y: F.cross_entropy(o.logits, y)),
        **found_by(lambda output: output.logits),
    ),
    kind(
        "a named tuple, logits and auxiliary logits",
        returning(lambda m, x, y: Output(y, 2 * y), lambda o, y: F.cross_entropy(o.logits, y)),
        **found_by(lambda output: output.logits),
    ),
    kind("`(logits, features)`", lambda: Featured(last=False), **found_by(lambda o: o[0])),
    kind("`(features, logits)`", lambda: Featured(last=True), **found_by(lambda o: o[1])),
    kind(
        "`(logits, features)`, of two networks",
        returning(lambda m, x, y: (y, x.flatten(1)), lambda o, y: F.cross_entropy(o[0], y)),
        outcome=REFUSES,
        says=r"model\(images\)\[",
        remedy="`forward=lambda model, images: model(images)[0]`",
        **forward(lambda module, x: module(x)[0]),
    ),
    kind(
        "softmax probabilities",
        returning(lambda m, x, y: y.softmax(1), lambda o, y: F.nll_loss(o.log(), y)),
        outcome=SAYS,
        says="softmax",
        remedy="explains the logits under it",
        chances=lambda module, probe: module(probe.images),
    ),
    kind(
        "log-softmax",
        returning(lambda m, x, y: y.log_softmax(1), F.nll_loss),
        outcome=SAYS,
        says="softmax",
        remedy="explains the logits under it",
        chances=lambda module, probe: module(probe.images).exp(),
    ),
    Situation(
        "one sigmoid probability",
        returning(
            lambda m, x, y: y.sigmoid(),
            lambda o, y: F.binary_cross_entropy(o, y[:, None].float()),
            outputs=1,
        ),
        lambda: load(TensorDataset(X, (Y == 1).long())),
        SAYS,
        says="sigmoid",
        remedy="explains the logit under it",
        truth=lambda probe: (shown(probe.displayed()) == 1).long(),
        chances=lambda module, probe: torch.cat(
            [1 - module(probe.images), module(probe.images)], 1
        ),
    ),
    kind(
        "logits at each position, `(N, C, H, W)`",
        returning(positions, lambda o, y: F.cross_entropy(o.mean((2, 3)), y)),
        outcome=REFUSES,
        says="reduces",
        remedy="`forward=lambda module, images: module(images).mean((2, 3))`",
        **forward(lambda module, x: module(x).mean((2, 3))),
    ),
    kind(
        "two heads, in a dict",
        returning(
            lambda m, x, y: {"kind": y, "side": -y}, lambda o, y: F.cross_entropy(o["kind"], y)
        ),
        outcome=REFUSES,
        says="forward=lambda",
        remedy="`forward=lambda module, images: module(images)['kind']`",
        **forward(lambda module, x: module(x)["kind"]),
    ),
    kind(
        "fewer logits than labels: a binary head on three classes",
        returning(lambda m, x, y: y, lambda o, y: F.cross_entropy(o, y.clamp(max=1)), outputs=2),
        outcome=REFUSES,
        says="label",
        remedy="`probe=` with labels that the model has",
        options=lambda data: {"probe": ProbeBatch(X[:4], Y[:4].clamp(max=1))},
        truth=lambda probe: shown(probe.images).clamp(max=1),
    ),
)


# --- What `forward` writes, draws and remembers.


class Renormalising(Net):
    """Keeps the norms of its weights in ``forward``."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.head.weight
        weight.data = weight.data.renorm(2, 0, 0.5)
        self.conv.weight.data.clamp_(-0.2, 0.2)
        with torch.no_grad():
            self.head.bias.mul_(0.99)
        return super().forward(x)


class Embedding(Net):
    """Looks up an embedding whose norm is limited when it is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 16, max_norm=0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x) + self.table(torch.zeros(len(x), dtype=torch.long)))


class ActNorm(Net):
    """Starts its scale from the first batch that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.ready = nn.Parameter(torch.ones(16)), False

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        if not self.ready:
            self.scale.data.copy_(1 / (features.std(0).detach() + 0.1))
            self.ready = True
        return self.head(features * self.scale)


class Lazy(Net):
    """Finds its widths in its first forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.LazyConv2d(4, 3, padding=1), nn.LazyLinear(CLASSES)
        self.norm = nn.LazyBatchNorm2d()

    def features(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu(self.norm(self.conv(x))), 2).flatten(1)


class Plain:
    """An object that modules keep."""

    def __init__(self) -> None:
        self.calls, self.scale = 0, np.ones(1)


class Remembering(Net):
    """Whose next forward pass depends on how often it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = collections.deque(maxlen=3)
        self.plain, self.nested = Plain(), {"deep": [{"calls": 0}]}

    def forward(self, x: Tensor) -> Tensor:
        self.last.append(len(x))
        self.plain.calls += 1
        self.plain.scale *= 1.01
        self.nested["deep"][0]["calls"] += 1
        shift = len(self.last) + self.plain.calls + self.nested["deep"][0]["calls"]
        return super().forward(x) * float(self.plain.scale[0]) + 0.001 * shift


class Drawing(Net):
    """Draws from generators of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.torch_stream = torch.Generator().manual_seed(0)
        self.numpy_stream, self.python_stream = np.random.default_rng(0), random.Random(0)

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.rand(1, generator=self.torch_stream).item()
        shift += float(self.numpy_stream.random()) + self.python_stream.random()
        return super().forward(x) * (1 + 0.1 * shift)


class Checkpointed(Net):
    def features(self, x: Tensor) -> Tensor:
        return checkpoint(super().features, x, use_reentrant=False)


class Compiled(Net):
    def __init__(self) -> None:
        super().__init__()
        self.features = torch.compile(self.features, backend="eager")


class InPlace(Net):
    def features(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu_(self.conv(x)), 2).flatten(1)


class Frozen(Net):
    """Features without a gradient."""

    def features(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().features(x)


class Recurrent(Net):
    """Reads the rows of an image one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.GRU(3 * SIDE, 16, batch_first=True)

    def features(self, x: Tensor) -> Tensor:
        return self.rows(x.transpose(1, 2).flatten(2))[0][:, -1]


class Attending(Net):
    """A small vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, stride=4)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def features(self, x: Tensor) -> Tensor:
        return self.layer(self.patches(x).flatten(2).transpose(1, 2)).mean(1)


def with_conv_frozen() -> Net:
    module = Net()
    module.conv.requires_grad_(False)
    return module


STATE = (
    kind("weights written in `forward`", Renormalising, chances=None),
    kind("`nn.Embedding(max_norm=…)`", Embedding),
    kind("a scale that starts from the first batch", ActNorm),
    kind("lazy layers", Lazy),
    kind(
        "lazy layers, no sanity check",
        Lazy,
        outcome=SAYS,
        says="[Ll]azy",
        remedy="does not observe the untrained model",
        trainer=lambda: {"num_sanity_val_steps": 0},
    ),
    kind("counters in objects, deques, nested lists", Remembering, chances=None),
    kind("random generators of the module's own", Drawing, chances=None),
    kind("a frozen layer", with_conv_frozen),
    kind("activation checkpointing", Checkpointed),
    kind("`torch.compile` on a part", Compiled),
    kind("ReLU in place", InPlace),
    kind(
        "a GRU",
        Recurrent,
        outcome=SAYS,
        says="no rectifier",
        remedy="there is nothing to guide: the map is the plain gradient",
    ),
    kind("a vision transformer", Attending),
    kind(
        "features under `no_grad`",
        Frozen,
        outcome=REFUSES,
        says="gradient",
        remedy="`forward=` that keeps the graph",
        **forward(lambda module, x: module.head(Net.features(module, x))),
    ),
)


# --- Runs.


class BestAtTheEnd(Net):
    """Loads other weights when training ends, as those who want the best epoch do."""

    def on_train_end(self) -> None:
        with torch.no_grad():
            self.head.weight.mul_(-1)


class Manual(Net):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: Any, _: int) -> None:
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        optimizer.step()


class FromIterator(Net):
    """``training_step(dataloader_iter)``."""

    def training_step(self, dataloader_iter: Any) -> Tensor:
        batch, _, _ = next(dataloader_iter)
        return self.loss(batch)


class OnPlateau(Net):
    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.2)
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "monitor": "val_loss"},
        }


def doubled(data: dict[str, Any]) -> dict[str, Any]:
    return {key: DataLoader(TensorDataset(X.double(), Y), 8) for key in data}


RUNS = (
    kind(
        "an exponential moving average of the weights",
        Net,
        trainer=lambda: {"callbacks": [average_weights(decay=0.9)]},
    ),
    kind(
        "pruning",
        Net,
        trainer=lambda: {"callbacks": [ModelPruning("l1_unstructured", amount=0.5)]},
    ),
    kind("other weights loaded when training ends", BestAtTheEnd),
    kind("manual optimization", Manual),
    kind("`training_step(dataloader_iter)`", FromIterator),
    kind("`ReduceLROnPlateau`", OnPlateau),
    kind("accumulated gradients", Net, trainer=lambda: {"accumulate_grad_batches": 2}),
    kind("bf16-mixed", Net, trainer=lambda: {"precision": "bf16-mixed"}, chances=None),
    kind(
        "64-true",
        Net,
        data=lambda: doubled(load(PAIR)),
        trainer=lambda: {"precision": "64-true"},
        chances=lambda module, probe: module(probe.images.double()).softmax(1),
    ),
    kind("`max_steps` in the middle of an epoch", Net, trainer=lambda: {"max_steps": 2}),
    kind("`every validation` twice an epoch", Net, trainer=lambda: {"val_check_interval": 0.34}),
)

MODULES = (*INPUTS, *OUTPUTS, *STATE, *RUNS)
