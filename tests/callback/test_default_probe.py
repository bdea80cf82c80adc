"""Without a probe, eight images of the trainer's data are taken, as its module sees them."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from matrix import Shapes, Touchy
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, default_collate
from training import Listed, fit, loader, quiet_trainer, seen

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


def chosen(folder: Any, **options: Any) -> ProbeBatch:
    """Train shortly with ``options``; return the probe that was chosen."""
    observer = SaliencyCallback(targets="predicted", tile_size=24)
    fit(folder, observer, **{"max_epochs": 1} | options)
    assert len(seen(observer)) == 2
    assert observer.probe is not None
    return observer.probe


class Loose(Touchy):
    """Takes batches of any form, and any number of validation loaders."""

    def training_step(self, batch: Any, _: int) -> Tensor:
        if isinstance(batch, dict):
            batch = batch["pixel_values"], batch["label"]
        return super().training_step(batch, 0)

    def validation_step(self, batch: Any, _: int, dataloader_idx: int = 0) -> None:
        return None


def test_it_is_eight_images_spread_over_the_classes(tmp_path):
    probe = chosen(tmp_path)
    data = Shapes(16, augment=False)
    assert probe.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    for image, label in zip(probe.images, probe.labels.tolist(), strict=True):
        (index,) = [i for i in range(16) if torch.equal(data.images[i], image)]
        assert data.targets[index] == label


@pytest.mark.parametrize(
    "again",
    [
        pytest.param({}, id="same"),
        pytest.param({"num_sanity_val_steps": 0}, id="no-sanity-check"),
        pytest.param({"check_val_every_n_epoch": 2}, id="validation-every-2-epochs"),
        pytest.param(
            # Lightning then makes the validation loader only after training has started.
            {"check_val_every_n_epoch": 2, "num_sanity_val_steps": 0},
            id="validation-still-to-come",
        ),
        pytest.param({"val_check_interval": 0.4}, id="several-validations"),
        pytest.param({"val": loader(16, shuffle=True)}, id="shuffled"),
        pytest.param({"val": DataLoader(Shapes(16, augment=False), 3)}, id="other-batch-size"),
        pytest.param({"val": [loader(16), loader(24)], "module": Loose()}, id="first-of-a-list"),
        pytest.param(
            {"val": {"a": loader(16), "b": loader(24)}, "module": Loose()}, id="of-a-dict"
        ),
    ],
)
def test_it_is_the_same_in_every_run_with_the_same_data(again, tmp_path):
    torch.manual_seed(5)
    first = chosen(tmp_path / "1")
    torch.manual_seed(6)
    assert chosen(tmp_path / "2", **again).fingerprint == first.fingerprint


def test_random_transforms_draw_the_same_in_every_run(tmp_path):
    prints = []
    for seed in (5, 6):
        pl.seed_everything(seed)
        augmented = DataLoader(Shapes(16, augment=True), batch_size=8)
        prints.append(chosen(tmp_path / str(seed), val=augmented).fingerprint)
    assert prints[0] == prints[1]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"validate": False}, id="no-validation-loader"),
        pytest.param(
            {"validate": False, "train": {"a": loader(24)}}, id="dict-of-training-loaders"
        ),
    ],
)
def test_without_validation_data_it_is_of_the_training_data(options, tmp_path):
    class First(Touchy):
        def training_step(self, batch: Any, _: int) -> Tensor:
            return super().training_step(batch["a"] if isinstance(batch, dict) else batch, 0)

    probe = chosen(tmp_path, module=First(), **{"train": loader(24)} | options)
    images = Shapes(24, augment=False).images
    assert all(any(torch.equal(image, other) for other in images) for image in probe.images)


def test_batches_may_be_dicts(tmp_path):
    data = Shapes(16, augment=False)
    items = [{"label": label, "pixel_values": image, "id": f"no. {label}"} for image, label in data]
    loaders = DataLoader(Listed(items), batch_size=8)
    probe = chosen(tmp_path, module=Loose(), train=loaders, val=loaders)
    assert sorted(probe.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_loader_s_own_collate_fn_makes_the_batch(tmp_path):
    def flipped(items: list[Any]) -> Any:
        images, labels = default_collate(items)
        return images.flip(-1), labels

    data = Shapes(16, augment=False)
    plain = chosen(tmp_path / "1")
    own = chosen(tmp_path / "2", val=DataLoader(data, batch_size=8, collate_fn=flipped))
    torch.testing.assert_close(own.images, plain.images.flip(-1), rtol=0, atol=0)


class Normalising:
    """Normalises on the device in a hook, and notes the stage in which the hook was called."""

    # A class attribute: attributes of an instance are restored after a probe is chosen.
    stages: list[tuple[int, str]] = []  # noqa: RUF012

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        self.stages.append((len(images), str(self.trainer.state.stage)))
        return images / 2 + 3, labels


class NormalisingModule(Normalising, Touchy):
    pass


class NormalisingData(Normalising, pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(Shapes(40, augment=False), batch_size=10)

    def val_dataloader(self) -> Any:
        return DataLoader(Shapes(16, augment=False), batch_size=4)


@pytest.mark.parametrize("where", ["module", "datamodule"])
def test_the_hooks_that_normalise_on_the_device_are_not_skipped(where, tmp_path):
    plain = chosen(tmp_path / "1")
    data = NormalisingData()
    module = NormalisingModule() if where == "module" else Touchy()
    Normalising.stages.clear()
    observer = SaliencyCallback(targets="predicted", tile_size=24)
    trainer = quiet_trainer(tmp_path / "2", observer, max_epochs=1)
    if where == "module":
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
    else:
        trainer.fit(module, datamodule=data)
    torch.testing.assert_close(observer.probe.images, plain.images / 2 + 3, rtol=0, atol=0)
    # Only the probe has eight images. They must count as validation data, because some modules
    # augment in training.
    assert [stage for count, stage in Normalising.stages if count == 8] == [
        "RunningStage.VALIDATING"
    ]


def test_a_module_that_augments_in_training_does_not_augment_its_probe(tmp_path):
    class Augmenting(Touchy):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            images, labels = batch
            return (images * 100 if self.trainer.training else images), labels

    assert chosen(tmp_path, module=Augmenting()).images.abs().max() < 100


class Streamed(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(Shapes(16, augment=False))


@pytest.mark.parametrize(
    ("val", "message"),
    [
        pytest.param(
            DataLoader(Streamed(), batch_size=8),
            r"a probe cannot be chosen from Streamed, which is iterable only\. Pass `probe=ProbeBa",
            id="iterable",
        ),
        pytest.param(
            DataLoader(TensorDataset(torch.rand(16, 5), torch.zeros(16).long()), batch_size=8),
            r"no images \(N, C, H, W\) in a batch that is a list of \(1?8?, 5\), .* Pass `probe=",
            id="vectors",
        ),
        pytest.param(
            DataLoader(Listed([{"text": 1.0}] * 16), batch_size=8),
            r"no images \(N, C, H, W\) in a batch that is a dict with 'text'\. Pass `probe=Pr",
            id="no-images-in-a-dict",
        ),
        pytest.param(
            [[1, 2], [3]],
            r"no DataLoader to choose a probe from\. Pass `probe=ProbeBatc",
            id="none",
        ),
    ],
)
def test_data_that_hold_no_probe_are_an_error_that_says_what_to_pass(val, message, tmp_path):
    module = Loose()
    options = {"train": [[next(iter(loader()))]]} if isinstance(val, list) else {}
    with pytest.raises(SaliencyError, match=message):
        fit(tmp_path, SaliencyCallback(), module=module, val=val, **options)
    assert module.training


def test_the_trainer_s_own_loaders_are_not_iterated(tmp_path):
    """Another iteration would move the sampler, start workers, or exhaust a one-time source."""
    begun: list[str] = []

    class Noted(DataLoader[Any]):
        def __iter__(self) -> Any:
            begun.append("begun")
            return super().__iter__()

    counts = []
    for callbacks in ([], [SaliencyCallback(tile_size=24)]):
        begun.clear()
        fit(tmp_path, *callbacks, val=Noted(Shapes(16, augment=False), batch_size=8))
        counts.append(len(begun))
    assert counts[0] == counts[1]
