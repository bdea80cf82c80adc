"""Further inputs of a model go to it by rows, wherever some of the images do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training import quiet_trainer

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError, explain
from lightning_saliency.attribution.logits import call_plainly
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.check.verdict import Growth
from lightning_saliency.health import health
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.occlusion import find_place, hidden, probabilities_without
from lightning_saliency.observe.ranks import Ranks

N = 5


class Net(pl.LightningModule):
    """Two logits of an image, its age, and a flag that swaps their roles in the gradient."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head, self.age = nn.Conv2d(3, 6, 3), nn.Linear(6, 2), nn.Linear(1, 2)

    def forward(self, images: Tensor, age: Tensor, flag: Tensor | None = None) -> Tensor:
        x = self.conv(images).relu().mean(dim=(2, 3))
        x = x * age if flag is None else torch.where(flag[:, None], x * age, x)
        return self.head(x) + self.age(age)

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, age, labels = batch
        return F.cross_entropy(self(images, age), labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.01)


def images(count: int = N) -> Tensor:
    return torch.rand(count, 3, 12, 12, generator=torch.Generator().manual_seed(0))


AGES = torch.arange(1.0, N + 1)[:, None]
FLAGS = torch.tensor([True, False, True, True, False])
EXTRAS = {"age": AGES, "flag": FLAGS}


def one_by_one(rule: str = "gradient") -> Tensor:
    """The attributions of each image in a call of its own, with its rows in a closure."""
    found = []
    for i in range(N):
        row = slice(i, i + 1)

        def forward(model: nn.Module, x: Tensor, row: slice = row) -> Tensor:
            return model(x, AGES[row], FLAGS[row])

        found.append(explain(Net(), images()[row], rules=(rule,), forward=forward)[rule])
    return torch.cat(found)


@pytest.mark.parametrize("chunk_size", [None, 1, 2, N])
def test_rows_follow_their_images_in_every_chunk(chunk_size):
    found = explain(Net(), images(), rules=("gradient",), extras=EXTRAS, chunk_size=chunk_size)
    torch.testing.assert_close(found["gradient"], one_by_one())
    expected = Net()(images(), AGES, FLAGS)
    torch.testing.assert_close(found.logits, expected.detach())


def test_rows_follow_when_memory_runs_out():
    def short(model: nn.Module, x: Tensor, **extras: Tensor) -> Tensor:
        if len(x) > 2:
            raise torch.OutOfMemoryError("as planned")
        return model(x, **extras)

    with pytest.warns(UserWarning, match="memory ran out"):
        found = explain(Net(), images(), rules=("gradient",), extras=EXTRAS, forward=short)
    torch.testing.assert_close(found["gradient"], one_by_one())


def test_a_forward_gets_them_by_name_and_floats_in_the_precision_of_the_images():
    kinds = {}

    def forward(model: nn.Module, x: Tensor, *, age: Tensor, flag: Tensor, code: Tensor) -> Tensor:
        kinds.update(age=age.dtype, flag=flag.dtype, code=code.dtype)
        return model(x, age, flag)

    extras = {"age": AGES.double(), "flag": FLAGS, "code": torch.zeros(N, 2, dtype=torch.int16)}
    found = explain(Net(), images(), rules=("gradient",), extras=extras, forward=forward)
    torch.testing.assert_close(found["gradient"], one_by_one())
    assert kinds == {"age": torch.float32, "flag": torch.bool, "code": torch.int16}


def test_a_model_that_writes_to_them_changes_nothing():
    def forward(model: nn.Module, x: Tensor, age: Tensor) -> Tensor:
        return model(x, age.mul_(2))

    ages = AGES.clone()
    first = explain(Net(), images(), extras={"age": ages}, forward=forward)
    assert torch.equal(ages, AGES)
    second = explain(Net(), images(), extras={"age": ages}, forward=forward)
    assert torch.equal(first.logits, second.logits)


@pytest.mark.parametrize(
    ("extras", "error", "says"),
    [
        pytest.param([AGES], TypeError, r"must be a dict .* got list", id="a-list"),
        pytest.param({"age": [1] * N}, TypeError, r"`extras\['age'\]`.*got list.*as_t", id="list"),
        pytest.param({"age": AGES[:2]}, ValueError, r"one row for each of 5 .*\(2, 1\)", id="few"),
        pytest.param({"age": AGES[0, 0]}, ValueError, r"got shape \(\).*\.expand\(5", id="scalar"),
        pytest.param({"my age": AGES}, ValueError, r"'my age' must be a name such", id="a-space"),
        pytest.param({"class": AGES}, ValueError, r"'class' must be a name such", id="a-keyword"),
        pytest.param({"images": AGES}, ValueError, r"must not be named model, images", id="taken"),
        pytest.param({"age": AGES * 1j}, TypeError, "numbers or bools, got torch.complex", id="C"),
    ],
)
def test_what_cannot_be_passed_along_is_refused(extras, error, says):
    with pytest.raises(error, match=says):
        explain(Net(), images(), extras=extras)
    with pytest.raises(error, match=says):
        ProbeBatch(images(), extras=extras)


# --- in a probe


def probe(**known: Any) -> ProbeBatch:
    return ProbeBatch(images(), torch.tensor([0, 1, 0, 1, 1]), **{"extras": EXTRAS, **known})


def test_a_probe_keeps_copies_and_gives_them_back(tmp_path: Path):
    ages = AGES.clone()
    made = probe(extras={"age": ages, "flag": FLAGS}, masks={"all": torch.ones(N, 12, 12) > 0})
    ages.zero_()
    made.save(tmp_path / "probe.safetensors")
    for other in (
        ProbeBatch.from_state(made.state()),
        ProbeBatch.load(tmp_path / "probe.safetensors"),
    ):
        assert other.fingerprint == made.fingerprint
        assert list(other.masks) == ["all"]
        assert {name: rows.dtype for name, rows in other.extras.items()} == {
            "age": torch.float32,
            "flag": torch.bool,
        }
        assert torch.equal(other.extras["age"], AGES)


def test_extras_belong_to_the_fingerprint_and_none_leave_it_as_it_was():
    without = probe(extras={})
    assert without.fingerprint != probe().fingerprint
    assert probe(extras={"age": AGES + 1}).fingerprint != probe(extras={"age": AGES}).fingerprint
    assert without.fingerprint == (ProbeBatch(images(), torch.tensor([0, 1, 0, 1, 1])).fingerprint)
    assert not any(name.startswith("extra:") for name in without.state()["tensors"])


class Second:
    """The second of two ranks, as far as shards go."""

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor])

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision


def test_a_rank_passes_the_rows_of_its_own_images():
    seen = []

    def forward(model: nn.Module, x: Tensor, **extras: Tensor) -> Tensor:
        seen.append((x.detach().clone(), extras["age"].clone()))
        return model(x, **extras)

    made = probe()
    meter = Meter.for_probe(made, 12)
    ranks = Ranks(Second(), 2, 1)
    options = PassOptions(forward, chunk_size=2)
    Observer(made, None, ("gradient",), 12, options, meter, ranks).observe(Net(), "now", 0)
    assert torch.equal(torch.cat([x for x, _ in seen]), images()[[3, 4, 4]])
    assert torch.equal(torch.cat([age for _, age in seen]), AGES[[3, 4, 4]])


@pytest.mark.parametrize("chunk_size", [None, 2])
def test_the_pass_with_a_place_hidden_gets_them(chunk_size):
    made, classes = probe(), torch.tensor([0, 1, 0, 1, 1])
    growth = Growth(None, row=0, column=0, before=0.1, now=0.2)
    found = probabilities_without(
        growth, Net(), made, classes, PassOptions(call_plainly, chunk_size), lambda rows: rows
    )
    pictures = hidden(images(), find_place(growth, made))
    expected = Net()(pictures, AGES, FLAGS).softmax(dim=1)[torch.arange(N), classes]
    torch.testing.assert_close(found, expected.detach())


def test_health_passes_them_along():
    found = health(Net(), probe(), rule="gradient")
    assert -1 <= found.all_layers <= 1


@pytest.mark.parametrize("chunk_size", [None, 2])
@pytest.mark.parametrize("precision", ["32-true", "64-true"])
def test_a_run_shows_what_the_model_says_with_them(tmp_path: Path, chunk_size, precision):
    """Once of a probe in float64, which a run in float32 takes as its own images."""
    data = TensorDataset(images(8), torch.arange(8.0)[:, None], torch.arange(8) % 2)
    made = ProbeBatch(images().double(), torch.tensor([0, 1, 0, 1, 1]), extras={"age": AGES})
    watch = SaliencyCallback(made, chunk_size=chunk_size, record=False, tile_size=24)
    model = Net()
    trainer = quiet_trainer(tmp_path, watch, max_epochs=1, precision=precision)
    trainer.fit(model, DataLoader(data, 4))
    shown = watch.state_dict()["history"]["last"]["probabilities"]
    dtype = next(model.parameters()).dtype
    expected = model.eval()(images().to(dtype), AGES.to(dtype)).softmax(dim=1)
    torch.testing.assert_close(shown, expected.detach(), rtol=1e-5, atol=1e-6, check_dtype=False)


def test_a_forward_of_fixed_rows_is_pointed_to_them_and_they_work(tmp_path: Path):
    data = TensorDataset(images(8), torch.arange(8.0)[:, None], torch.arange(8) % 2)

    def fit(made: ProbeBatch, **options: Any) -> None:
        watch = SaliencyCallback(made, record=False, tile_size=24, **options)
        quiet_trainer(tmp_path, watch, max_epochs=1).fit(Net(), DataLoader(data, 4))

    plain = ProbeBatch(images(), torch.tensor([0, 1, 0, 1, 1]))
    with pytest.raises(
        SaliencyError, match=r"(?s)failed: .*`ProbeBatch\(images, labels, extras=\{"
    ):
        fit(plain, forward=lambda model, x: model(x, AGES))
    fit(probe(extras={"age": AGES}), forward=lambda model, x, age: model(x, age))
