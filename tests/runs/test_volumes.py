"""Real trainings on volumes: what a run shows, records, resumes and checks of them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training import fit, pictures, seen, steps

from lightning_saliency import AttentionCheck, ProbeBatch, Reference, SaliencyCallback, explain
from lightning_saliency.draw.colours import colorize
from lightning_saliency.record.run import open_run
from lightning_saliency.viewer.record import Record

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SIDES = (6, 12, 16)


def balls(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy volumes with a bright ball, whose quarter in the plane is the class, and its mask."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    volumes = 0.2 * torch.randn(count, 1, *SIDES, generator=generator)
    masks = torch.zeros(count, *SIDES, dtype=torch.bool)
    z, y, x = (torch.arange(side) for side in SIDES)
    for n, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        shift = torch.rand(3, generator=generator)
        centre = (1.5 + 3 * shift[0], 2.5 + 6 * row + shift[1], 3.5 + 8 * column + shift[2])
        distance = (
            (z[:, None, None] - centre[0]) ** 2
            + (y[:, None] - centre[1]) ** 2
            + (x - centre[2]) ** 2
        )
        masks[n] = distance < 5
        volumes[n, 0] += 1.5 * (-distance / 4).exp()
    return volumes, labels, masks


class Scanner(pl.LightningModule):
    """Looks for the ball in each quarter of the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv3d(1, 6, 3, padding=1), nn.AdaptiveMaxPool3d((1, 2, 2))
        self.head = nn.Linear(24, 4)

    def forward(self, volumes: Tensor) -> Tensor:
        return self.head(self.pool(self.conv(volumes).relu()).flatten(1))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, _: int) -> None:
        self.log("val_acc", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=0.02)


def train(folder: Path, *callbacks: Any, seed: int = 0, **options: Any) -> Any:
    volumes, labels, _ = balls(64, 1)
    pl.seed_everything(seed, verbose=False)
    data = DataLoader(TensorDataset(volumes, labels), 16)
    return fit(folder, *callbacks, module=Scanner(), train=data, val=data, **options)


def probe(**known: Any) -> ProbeBatch:
    volumes, labels, masks = balls(4, 2)
    return ProbeBatch(volumes, labels, masks={"ball": masks}, **known)


def callback(**options: Any) -> SaliencyCallback:
    return SaliencyCallback(
        **{"probe": probe(), "targets": "label", "image_format": "png"} | options
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("trained")
    torch.set_num_threads(1)
    return folder, train(folder, callback(rule=("guided_backprop", "gradient")), max_epochs=4)


def test_the_maps_lie_where_the_ball_is(trained):
    folder, trainer = trained
    last = open_run(folder).last()
    assert float(trainer.callback_metrics["val_acc"]) > 0.9
    _, _, masks = balls(4, 2)
    assert last.measured.maps.shape == (4, *SIDES[1:])
    assert last.snapshot.maps["guided_backprop"].shape == (4, 1, *SIDES[1:])
    for n in range(4):
        strongest = last.snapshot.maps["guided_backprop"][n, 0].abs().argmax()
        assert bool(masks[n].any(dim=0).flatten()[strongest])
    assert last.measured.mean_share("ball") > 3 * float(masks.double().mean())


def test_the_picture_in_tensorboard_shows_the_strongest_value_along_the_depth(trained):
    folder, trainer = trained
    volumes, labels, _ = balls(4, 2)
    attribution = explain(trainer.lightning_module, volumes, labels)["guided_backprop"]
    strongest = attribution[0, 0, 0].gather(0, attribution[0, 0, 0].abs().argmax(0, keepdim=True))
    expected = colorize((strongest[0] / strongest.abs().max()).numpy(), 96, "signed").astype(int)
    (picture,) = list(pictures(folder)["saliency/image 0 · class 0"].values())[-1:]
    found = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int)
    # The tile stands at the left edge, somewhere below the image.
    tops = range(found.shape[0] - 96)
    apart = [np.abs(found[top + 8 : top + 88, 14:94] - expected[8:88, 8:88]).max() for top in tops]
    assert min(apart) <= 6  # maps are kept in half precision


def test_the_viewer_and_the_record_are_flat(trained):
    folder, _ = trained
    run = open_run(folder)
    assert run.photos().shape == (4, 96, 96, 3)
    assert run.info.settings["depth"] == "max"
    assert run.info.settings["depth_axis"] == -3
    record = Record(run.folder, "run")
    assert record.moment(run.steps()[-1]).map == SIDES[1:]


def test_a_figure_shows_volumes_flat(trained):
    _, trainer = trained
    explained = explain(trainer.lightning_module, balls(4, 2)[0], 0)
    flat = explained.plot(probe(depth="middle"), image=1)
    assert flat.axes[0].images[0].get_array().shape == SIDES[1:]
    upright = explained.plot(probe(depth_axis=-1), image=1)
    assert upright.axes[2].images[0].get_array().shape == SIDES[:2]
    assert explained.plot(balls(4, 2)[0]).axes[0].images[0].get_array().shape == SIDES[1:]
    assert explained._repr_png_().startswith(b"\x89PNG")


def test_a_run_goes_on_with_its_probe_and_its_depth(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept")
    first = callback(probe=probe(depth="middle", depth_axis=-2), record=False)
    train(tmp_path / "1", first, keep, enable_checkpointing=True)
    resumed = callback(probe=None, record=False)
    train(tmp_path / "2", resumed, max_epochs=3, ckpt_path=keep.best_model_path)
    assert (resumed.probe.depth, resumed.probe.depth_axis) == ("middle", -2)
    assert resumed.probe.fingerprint == first.probe.fingerprint
    assert [caption for caption, _ in seen(resumed)] == [
        "untrained",
        "epoch 0",
        "epoch 1",
        "epoch 2",
    ]
    assert steps(tmp_path / "2") == [11]


@pytest.mark.filterwarnings("default")
def test_pictures_begin_again_with_another_depth(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept")
    train(tmp_path / "1", callback(), keep, enable_checkpointing=True)
    resumed = callback(probe=probe(depth=2))
    with pytest.warns(match=r"had `depth='max'`; the pictures of 'saliency' begin again with"):
        train(tmp_path / "2", resumed, max_epochs=3, ckpt_path=keep.best_model_path)
    assert [caption for caption, _ in seen(resumed)] == ["epoch 2"]


def test_a_run_is_checked_and_what_grew_is_hidden(tmp_path):
    for seed in range(3):
        train(tmp_path / str(seed), callback(), seed=seed)
    reference = Reference.from_runs([tmp_path / str(seed) for seed in range(3)])
    wrong = callback(check=AttentionCheck(reference, require=("ball.share >= 0.99",)))
    train(tmp_path / "checked", wrong, seed=4)
    verdict = judged(tmp_path / "checked")
    assert verdict["outcome"] == "fail"
    assert verdict["growth"] is not None
    assert 0 <= verdict["occluded"]["after"] <= 1
    # Profiles along another axis must not be compared.
    other = callback(probe=probe(depth_axis=-1), check=AttentionCheck(reference))
    train(tmp_path / "other", other, seed=4)
    assert judged(tmp_path / "other")["outcome"] == "not comparable"


def judged(folder: Path) -> dict[str, Any]:
    """What the check of a run wrote."""
    return json.loads(next(folder.rglob("verdict.json")).read_text())
