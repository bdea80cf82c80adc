"""Images that come from data reach the probe as the hooks for batches make them."""

from __future__ import annotations

import copy
import pickle
import random
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matrix import Shapes, Touchy
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader
from training import fit, loader, quiet_trainer, run_state, seen

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

DATA = Shapes(16, augment=False)

# A global: attributes are restored after the hooks were called.
_stages: list[str] = []


class Hooks:
    """Normalises in three hooks, draws random numbers, counts, and writes to the batch."""

    transfers = 0

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        self.transfers += 1
        _stages.append(str(self.trainer.state.stage))
        torch.rand(1), random.random(), np.random.rand()
        batch[0].mul_(2)
        return batch

    def transfer_batch_to_device(self, batch: Any, device: Any, dataloader_idx: int) -> Any:
        return super().transfer_batch_to_device([batch[0] + 1, batch[1]], device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return batch[0] / 4, batch[1]


class HookedModule(Hooks, Touchy):
    pass


class HookedData(Hooks, pl.LightningDataModule):
    def train_dataloader(self) -> Any:
        return loader()

    def val_dataloader(self) -> Any:
        return loader(16)


def normalised(images: torch.Tensor) -> torch.Tensor:
    return (images * 2 + 1) / 4


WAYS = {
    "from_dataset": lambda **known: ProbeBatch.from_dataset(DATA, per_class=2, **known),
    "from_dataloader": lambda **known: ProbeBatch.from_dataloader(loader(16), 8, **known),
    "from_batch": lambda **known: ProbeBatch.from_batch(next(iter(loader(16))), DATA, **known),
}


def train(folder: Any, observer: Any, *, where: str) -> Any:
    trainer = quiet_trainer(folder, observer, max_epochs=1)
    if where == "module":
        trainer.fit(HookedModule(), loader(), loader(16))
    else:
        trainer.fit(Touchy(), datamodule=HookedData())
    return trainer


@pytest.mark.parametrize("where", ["module", "datamodule"])
@pytest.mark.parametrize("way", WAYS)
def test_a_probe_from_data_is_what_the_model_sees(way: str, where: str, tmp_path: Any):
    masks = {"all": torch.ones(8, 12, 12, dtype=torch.bool)}
    known = {"names": list("abcdefgh"), "masks": masks, "class_names": list("wxyz")}
    probe = WAYS[way](**known, mean=[0.1] * 3, std=[2.0] * 3)
    raw = probe.images.clone()
    observer = SaliencyCallback(probe, targets="label", tile_size=24)
    _stages.clear()
    train(tmp_path, observer, where=where)
    torch.testing.assert_close(observer.probe.images, normalised(raw), rtol=0, atol=0)
    assert torch.equal(observer.probe.labels, probe.labels)
    assert observer.probe.names == tuple("abcdefgh")
    assert observer.probe.class_names == tuple("wxyz")
    assert observer.probe.mean == (0.1,) * 3
    assert torch.equal(observer.probe.masks["all"], masks["all"])
    # After the two batches of the sanity check.
    assert _stages[2] == "RunningStage.VALIDATING"
    assert torch.equal(probe.images, raw)


def test_it_is_that_of_the_automatic_probe(tmp_path: Any):
    probes = []
    for number, probe in enumerate((None, ProbeBatch.from_dataloader(loader(16)))):
        observer = SaliencyCallback(probe, targets="label", tile_size=24)
        train(tmp_path / str(number), observer, where="module")
        probes.append(observer.probe.fingerprint)
    assert probes[0] == probes[1]


def test_images_that_were_passed_as_such_do_not_pass_the_hooks(tmp_path: Any):
    probe = ProbeBatch(DATA.images[:4], torch.tensor(DATA.targets[:4]))
    observer = SaliencyCallback(probe, targets="label", tile_size=24)
    train(tmp_path, observer, where="module")
    assert observer.probe.fingerprint == probe.fingerprint


def test_hooks_that_change_nothing_leave_the_fingerprint(tmp_path: Any):
    probe = WAYS["from_dataset"]()
    observer = SaliencyCallback(probe, targets="label", tile_size=24)
    fit(tmp_path, observer, max_epochs=1)
    assert observer.probe.fingerprint == probe.fingerprint


def test_a_second_trainer_passes_the_same_images_through_its_own_hooks(tmp_path: Any):
    probe = WAYS["from_dataset"]()
    observer = SaliencyCallback(probe, targets="label", tile_size=24)
    for folder in ("1", "2"):
        train(tmp_path / folder, observer, where="module")
        assert torch.equal(observer.probe.images, normalised(probe.images))
    fit(tmp_path / "3", observer, max_epochs=1)
    assert observer.probe.fingerprint == probe.fingerprint


def test_a_second_stage_of_a_trainer_does_not_pass_them_again(tmp_path: Any):
    probe = WAYS["from_dataset"]()
    observer = SaliencyCallback(probe, targets="label", tile_size=24)
    module = HookedModule()
    trainer = quiet_trainer(tmp_path, observer, max_epochs=1)
    trainer.fit(module, loader(), loader(16))
    trainer.validate(module, loader(16), verbose=False)
    assert torch.equal(observer.probe.images, normalised(probe.images))


def test_the_run_does_not_notice(tmp_path: Any):
    ends = []
    for callbacks in ([], [SaliencyCallback(WAYS["from_dataset"](), tile_size=24)]):
        pl.seed_everything(3)
        module = HookedModule()
        trainer = fit(tmp_path / str(len(callbacks)), *callbacks, module=module)
        ends.append([*map(repr, run_state(trainer, module).values()), module.transfers])
    assert ends[0] == ends[1]


def test_a_run_that_is_resumed_goes_on_with_its_pictures(tmp_path: Any, recwarn: Any):
    for epochs, resumed in ((1, None), (2, tmp_path / "last.ckpt")):
        observer = SaliencyCallback(WAYS["from_dataset"](), targets="label", tile_size=24)
        saver = ModelCheckpoint(tmp_path, save_last=True)
        module = HookedModule()
        fit(
            *(tmp_path, observer, saver),
            module=module,
            max_epochs=epochs,
            ckpt_path=resumed,
            enable_checkpointing=True,
        )
    assert [caption for caption, _ in seen(observer)] == ["untrained", "epoch 0", "epoch 1"]
    assert not [w for w in recwarn if "the pictures of" in str(w.message)]


def test_what_cannot_be_pickled_stays_behind(tmp_path: Any):
    images, labels = next(iter(loader(16)))
    probe = ProbeBatch.from_batch([images, labels, lambda: None])
    assert len(pickle.loads(pickle.dumps(probe))) == 8
    assert "_batches" not in probe.state()
    plain = copy.deepcopy(pickle.loads(pickle.dumps(WAYS["from_batch"]())))
    observer = SaliencyCallback(plain, targets="label", tile_size=24)
    train(tmp_path, observer, where="module")
    assert torch.equal(observer.probe.images, normalised(plain.images))
    probe.save(tmp_path / "probe")
    assert ProbeBatch.load(tmp_path / "probe").fingerprint == probe.fingerprint


def test_batches_that_stayed_behind_are_named_where_the_hooks_need_them(tmp_path: Any):
    """Otherwise a spawned process would explain images that its model never sees."""
    batch = next(iter(loader(16)))
    probe = ProbeBatch.from_batch([*batch, lambda: None])
    sent = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(probe))))
    message = r"cannot pass the batch hooks in this process.*cannot be pickled: .*lambda.* Pass `p"
    with pytest.raises(SaliencyError, match=message):
        train(tmp_path / "1", SaliencyCallback(sent, tile_size=24), where="module")
    remedy = SaliencyCallback(ProbeBatch(normalised(probe.images), probe.labels), tile_size=24)
    here = SaliencyCallback(copy.deepcopy(probe), tile_size=24)
    for folder, observer in (("2", remedy), ("3", here)):
        train(tmp_path / folder, observer, where="module")
        assert torch.equal(observer.probe.images, normalised(probe.images))


class Failing(Touchy):
    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        if not self.trainer.sanity_checking:
            raise KeyError("statistics")
        return batch


def test_hooks_that_fail_on_the_probe_are_named(tmp_path: Any):
    message = r"the batch hooks of Failing or its datamodule failed on the probe: KeyError: 'statis"
    with pytest.raises(SaliencyError, match=message + r"tics'\nPass `probe=ProbeBatch\(images, la"):
        fit(tmp_path, SaliencyCallback(WAYS["from_dataset"]()), module=Failing())


def test_hooks_that_return_other_images_are_named(tmp_path: Any):
    class Dropping(Touchy):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0][:3], batch[1][:3]

    with pytest.raises(
        SaliencyError, match=r"made 3 images of one size of the probe's 8\. Pass `p"
    ):
        fit(tmp_path, SaliencyCallback(WAYS["from_dataset"]()), module=Dropping())


def test_hooks_may_change_size_and_channels(tmp_path: Any):
    class Grey(Touchy):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0].repeat(1, 1, 2, 2), batch[1]

    observer = SaliencyCallback(WAYS["from_dataset"](mean=[0.0] * 3, std=[1.0] * 3), tile_size=24)

    class Fitting(Grey):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images[..., ::2, ::2])

    fit(tmp_path, observer, module=Fitting(), max_epochs=1)
    assert observer.probe.images.shape == (8, 3, 24, 24)


def test_a_probe_of_sizes_that_hooks_make_equal(tmp_path: Any):
    """Those that the probe lost for their size do not come back in the place of others."""
    items = [(torch.full((3, 12 + i % 2, 12), float(i)), i % 4) for i in range(12)]

    class Cropping(Touchy):
        def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return batch[0][:, :, :12], batch[1]

    probe = ProbeBatch.from_dataloader(DataLoader(items, batch_size=1), 4)
    observer = SaliencyCallback(probe, targets="label", tile_size=24)
    fit(tmp_path, observer, module=Cropping(), max_epochs=1)
    assert observer.probe.names == probe.names
    assert torch.equal(observer.probe.images[:, 0, 0, 0], probe.images[:, 0, 0, 0])
