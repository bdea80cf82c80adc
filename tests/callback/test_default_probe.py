"""Without a probe, eight images of the trainer's data are taken, as its module sees them."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from matrix import (
    Shapes,
    Touchy,
    differences,
    failing_check,
    failing_observations,
    run_state,
)
from pytorch_lightning.utilities import CombinedLoader
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)
from training import Listed, fit, loader, quiet_trainer, seen

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.probe import reading

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


# A global: attributes are restored after a probe is chosen, of instances and of classes.
_stages: list[tuple[int, str]] = []


class Normalising:
    """Normalises on the device in a hook, and notes the stage in which the hook was called."""

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        images, labels = batch
        _stages.append((len(images), str(self.trainer.state.stage)))
        return images / 2 + 3, labels


class NormalisingModule(Normalising, Touchy):
    pass


class NormalisingData(Normalising, pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return DataLoader(Shapes(40, augment=False), batch_size=10)

    def val_dataloader(self) -> Any:
        return DataLoader(Shapes(16, augment=False), batch_size=5)


@pytest.mark.parametrize("where", ["module", "datamodule"])
def test_the_hooks_that_normalise_on_the_device_are_not_skipped(where, tmp_path):
    plain = chosen(tmp_path / "1")
    data = NormalisingData()
    module = NormalisingModule() if where == "module" else Touchy()
    _stages.clear()
    observer = SaliencyCallback(targets="predicted", tile_size=24)
    trainer = quiet_trainer(tmp_path / "2", observer, max_epochs=1)
    if where == "module":
        trainer.fit(module, data.train_dataloader(), data.val_dataloader())
    else:
        trainer.fit(module, datamodule=data)
    torch.testing.assert_close(observer.probe.images, plain.images / 2 + 3, rtol=0, atol=0)
    # Only the probe has a batch of three images, after one of five. They must count as validation
    # data, because some modules augment in training.
    assert [stage for count, stage in _stages if count == 3] == ["RunningStage.VALIDATING"]


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
            r"a probe cannot be chosen from Streamed, which is iterable only\. Pass "
            r"`probe=ProbeBatch\.from_batch\(next\(iter\(loader\)\)\)` with a loader of it",
            id="iterable",
        ),
        pytest.param(
            DataLoader(TensorDataset(torch.rand(16, 5), torch.zeros(16).long()), batch_size=8),
            r"no images \(N, C, H, W\) in a batch that is a list of float32 \(8, 5\), .* Pass `pro",
            id="vectors",
        ),
        pytest.param(
            DataLoader(Listed([{"text": 1.0}] * 16), batch_size=8),
            r"no images \(N, C, H, W\) in a batch that is a dict of 'text' float64 \(8,\)\. Pass `",
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
        fit(tmp_path, SaliencyCallback(on_error="raise"), module=module, val=val, **options)
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


EMPTY = DataLoader(Listed([]), batch_size=8)


@pytest.mark.parametrize(
    "val",
    [
        pytest.param([EMPTY, loader(16)], id="the-second-is-full"),
        pytest.param(CombinedLoader({"a": EMPTY, "b": loader(16)}), id="combined"),
        pytest.param(
            [DataLoader(Shapes(16, augment=False), sampler=[], batch_size=8), loader(16)],
            id="an-empty-sampler",
        ),
        pytest.param(
            [DataLoader(Shapes(4, augment=False), 8, drop_last=True), loader(16)], id="all-dropped"
        ),
        pytest.param([DataLoader(Streamed(), 8), loader(16)], id="a-stream-before"),
    ],
)
def test_it_is_of_the_first_loader_that_has_images(val, tmp_path):
    plain = chosen(tmp_path / "1")
    assert chosen(tmp_path / "2", module=Loose(), val=val).fingerprint == plain.fingerprint


def test_the_hooks_are_told_which_loader_it_is_of(tmp_path):
    class ByLoader(Loose):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0] + 100 * dataloader_idx, batch[1]

    probe = chosen(tmp_path, module=ByLoader(), val=[EMPTY, loader(16)])
    assert probe.images.mean() > 90


def test_if_the_validation_data_are_empty_it_is_of_the_training_data(tmp_path):
    plain = chosen(tmp_path / "1", validate=False)
    assert chosen(tmp_path / "2", val=EMPTY).fingerprint == plain.fingerprint


def test_a_split_by_samplers_gives_images_of_the_validation(tmp_path):
    data = Shapes(40, augment=False)
    train, val = (
        DataLoader(data, 8, sampler=SubsetRandomSampler(part))
        for part in (range(24), range(24, 40))
    )
    probe = chosen(tmp_path, train=train, val=val)
    assert all(
        any(torch.equal(image, other) for other in data.images[24:]) for image in probe.images
    )


class Unreadable(Shapes):
    """Lies where nothing can be read."""

    def __init__(self) -> None:
        super().__init__(16, augment=False)

    def __getitem__(self, index: int) -> Any:
        raise OSError("the disk is gone")


# The training itself could not read these data either.
UNVALIDATED = {"check_val_every_n_epoch": 5, "num_sanity_val_steps": 0}
NO_PROBE = {
    "stream": (DataLoader(Streamed(), batch_size=8), "which is iterable only"),
    "vectors": (
        DataLoader(TensorDataset(torch.rand(16, 5), torch.zeros(16).long()), batch_size=8),
        r"no images \(N, C, H, W\)",
    ),
    "unreadable": (
        DataLoader(Unreadable(), batch_size=8),
        r"reading images of the trainer's data failed: OSError: the disk is gone\nPass `probe=",
    ),
    "unreadable-in-a-worker": (
        DataLoader(Unreadable(), batch_size=8, num_workers=1),
        r"reading images of the trainer's data failed: OSError: the disk is gone\nPass `probe=",
    ),
}


@pytest.mark.parametrize("kind", NO_PROBE)
@pytest.mark.parametrize("on_error", [None, "warn"])
def test_without_a_probe_training_goes_on_and_says_once_what_to_pass(kind, on_error, tmp_path):
    val, message = NO_PROBE[kind]
    ends = []
    for callbacks in ([], [SaliencyCallback(on_error=on_error, every_n_train_steps=2)]):
        pl.seed_everything(3)
        module = Loose()
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            trainer = fit(tmp_path, *callbacks, module=module, val=val, **UNVALIDATED)
        ends.append(run_state(trainer, module))
    ours = [str(w.message) for w in said if issubclass(w.category, SaliencyWarning)]
    assert len(ours) == 1
    assert re.match(r"choosing a probe failed, training goes on and is not observed: Sali", ours[0])
    assert re.search(message, ours[0])
    assert "Pass `probe=" in ours[0]
    assert differences(*ends) == []


@pytest.mark.parametrize("kind", NO_PROBE)
def test_its_absence_is_an_error_if_that_is_asked_for(kind, tmp_path):
    val, message = NO_PROBE[kind]
    with pytest.raises(SaliencyError, match=message):
        fit(tmp_path, SaliencyCallback(on_error="raise"), module=Loose(), val=val, **UNVALIDATED)


def test_the_remedy_for_a_stream_works(tmp_path):
    val = DataLoader(Streamed(), batch_size=8)
    probe = ProbeBatch.from_batch(next(iter(val)))
    observer = SaliencyCallback(probe, targets="predicted", tile_size=24)
    fit(tmp_path, observer, module=Loose(), val=val)
    assert [caption for caption, _ in seen(observer)] == ["untrained", "epoch 0", "epoch 1"]


def test_a_failing_observation_is_an_error_by_default_all_the_same(tmp_path):
    with failing_observations(), pytest.raises(SaliencyError, match="injected"):
        fit(tmp_path, SaliencyCallback())


def test_a_check_without_a_probe_is_inconclusive_and_says_why(tmp_path):
    ours = SaliencyCallback(check=failing_check())
    with pytest.warns(
        SaliencyWarning,
        match=r"^INCONCLUSIVE  saliency: the model could not be obs"
        r"erved: SaliencyError: a probe cannot be chosen from Streamed",
    ):
        fit(tmp_path, ours, module=Loose(), val=DataLoader(Streamed(), batch_size=8))


def test_reading_that_takes_long_is_announced_on_the_trainer_s_logger(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(reading, "_SLOW", -1.0)
    items = [(image, label) for image, label in Shapes(16, augment=False)]
    with caplog.at_level("INFO", logger="pytorch_lightning"):
        chosen(tmp_path, val=DataLoader(Listed(items), batch_size=8))
    said = [r for r in caplog.records if "Choosing the images to explain takes" in r.message]
    assert [record.name for record in said] == ["pytorch_lightning.saliency"]
