"""A model with one logit, which stands for class 1 against class 0: its only target is 0."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from matrix import Shapes
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training import fit, pictures

from lightning_saliency import AttentionCheck, ProbeBatch, Reference, SaliencyCallback
from lightning_saliency.draw.mosaics import MosaicRenderer
from lightning_saliency.record.run import open_run
from lightning_saliency.testing import assert_attention

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


def binary() -> TensorDataset:
    shapes = Shapes(16, augment=False)
    return TensorDataset(shapes.images, (torch.tensor(shapes.targets) > 1).long())


def images(**known: Any) -> ProbeBatch:
    return ProbeBatch.from_dataset(binary(), per_class=2, class_names=["top", "bottom"], **known)


class Binary(pl.LightningModule):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4 * 100, 1)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(pixels)).flatten(1))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0])[:, 0], batch[1].float())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


def train(folder: Any, callback: SaliencyCallback, seed: int = 0) -> Binary:
    module = Binary(seed)
    loader = DataLoader(binary(), batch_size=8)
    fit(folder, callback, module=module, train=loader, validate=False, max_epochs=2)
    return module


@pytest.mark.parametrize("targets", ["auto", "all", "label", "predicted", "top3", [0]])
def test_it_trains_with_any_targets(targets, tmp_path):
    train(tmp_path, SaliencyCallback(images(), targets=targets, tile_size=24))
    assert len([tag for tag in pictures(tmp_path) if tag.startswith("saliency/")]) == 4


def test_the_probe_may_be_chosen_by_itself(tmp_path):
    train(tmp_path, SaliencyCallback(tile_size=24))
    assert set(open_run(tmp_path).last().measured.classes.tolist()) == {0, 1}


def test_the_probability_of_the_label_is_that_of_its_side(tmp_path):
    probe = images()
    module = train(tmp_path, SaliencyCallback(probe, tile_size=24))
    with torch.no_grad():
        chances = module.eval()(probe.images)[:, 0].sigmoid()
    expected = torch.where(probe.labels == 1, chances, 1 - chances)
    measured = open_run(tmp_path).last().measured
    torch.testing.assert_close(measured.probabilities, expected)
    assert torch.equal(measured.classes, probe.labels)


def test_its_tile_is_of_class_1_and_framed_where_that_is_true(tmp_path, monkeypatch):
    tiles = []
    draw = MosaicRenderer._tile

    def noted(self: Any, snapshot: Any, rule: str, image: int, k: int, **named: Any) -> Any:
        tiles.append((image, draw(self, snapshot, rule, image, k, **named)))
        return tiles[-1][1]

    monkeypatch.setattr(MosaicRenderer, "_tile", noted)
    probe = images()
    train(tmp_path, SaliencyCallback(probe, tile_size=24))
    for image, tile in tiles:
        assert tile.name in ("bottom", "")
        assert tile.framed == (int(probe.labels[image]) == 1)
        assert tile.strong == (int(tile.note.strip("<%")) >= 50)


def test_it_is_judged_and_confirmed(tmp_path):
    for seed in range(3):
        train(tmp_path / str(seed), SaliencyCallback(images(), tile_size=24), seed)
    reference = Reference.from_runs([tmp_path / str(seed) for seed in range(3)])
    check = AttentionCheck(reference, require=["moved_mass <= 0.0001"])
    with pytest.warns(UserWarning, match="Hiding it") as caught:
        module = train(tmp_path / "new", SaliencyCallback(images(), tile_size=24, check=check), 7)
    assert any("FAIL" in str(w.message) for w in caught)
    with pytest.raises(AssertionError, match="Hiding it"):
        assert_attention(module, reference, probe=images(), require=["moved_mass <= 0.0001"])
