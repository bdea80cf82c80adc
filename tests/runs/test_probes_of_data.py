"""Probes of all kinds of data in real trainings: what is measured, kept and said."""

from __future__ import annotations

import enum
import warnings
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from training import Listed, fit

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError, explain
from lightning_saliency.record.run import open_run

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

IMAGES = torch.rand(16, 3, 16, 16, generator=torch.Generator().manual_seed(0))
CLASSES = [i * 3 % 4 for i in range(16)]


class Meta(Tensor):
    """A tensor that carries metadata, as MONAI's ``MetaTensor`` does."""


class Name(str, enum.Enum):
    MINE = "mine"
    CAT = "cat"


class Net(pl.LightningModule):
    """A classifier of batches of any form: ``loss(module, batch)`` says how it is trained."""

    def __init__(self, loss: Any = None, outputs: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, outputs)
        self.loss = loss or (lambda module, batch: F.cross_entropy(module(batch[0]), batch[1]))

    def forward(self, images: Tensor) -> Tensor:
        hidden = nn.ReLU(inplace=True)(self.conv(images))
        return self.head(hidden.mean(dim=(2, 3)))

    def training_step(self, batch: Any, _: int) -> Tensor:
        return self.loss(self, batch).as_subclass(Tensor)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(folder: Any, data: Any, module: Any = None, **options: Any) -> SaliencyCallback:
    """Train for an epoch on ``data``, a loader or its dataset; no probe is an error."""
    callback = SaliencyCallback(**{"tile_size": 24, "on_error": "raise"} | options)
    loader = data if isinstance(data, DataLoader) else DataLoader(data, batch_size=8)
    fit(folder, callback, module=module or Net(), train=loader, validate=False, max_epochs=1)
    return callback


@pytest.mark.parametrize("form", ["integers", "bools", "floats", "column"])
def test_labels_of_a_binary_classifier(form: str, tmp_path):
    labels = torch.tensor(CLASSES) > 1
    kept = {
        "integers": labels.long(),
        "bools": labels,
        "floats": labels.float(),
        "column": labels.float()[:, None],
    }[form]

    def loss(module: Any, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(batch[0])[:, 0], batch[1].float().view(-1))

    module = Net(loss, outputs=1)
    callback = train(tmp_path, Listed(list(zip(IMAGES, kept, strict=True))), module)
    probe, measured = callback.probe, open_run(tmp_path).last().measured
    assert probe is not None
    assert set(probe.labels.tolist()) == {0, 1}
    assert torch.equal(measured.classes, probe.labels)
    with torch.no_grad():
        chances = module.eval()(probe.images)[:, 0].sigmoid()
    expected = torch.where(probe.labels == 1, chances, 1 - chances)
    torch.testing.assert_close(measured.probabilities, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_several_labels_have_a_probability_each(dtype: torch.dtype, tmp_path):
    several = (torch.arange(4) < 1 + torch.tensor(CLASSES)[:, None]).to(dtype)

    def loss(module: Any, batch: Any) -> Tensor:
        return F.binary_cross_entropy_with_logits(module(batch[0]), batch[1].float())

    module = Net(loss)
    callback = train(tmp_path, TensorDataset(IMAGES, several), module)
    assert callback.probe.multi_label
    measured = open_run(tmp_path).last().measured
    with torch.no_grad():
        chances = module.eval()(callback.probe.images).sigmoid()[:, 0]
    torch.testing.assert_close(measured.probabilities, chances)


def test_one_hot_labels_of_a_softmax_classifier_are_one_class_each(tmp_path):
    module = Net()
    callback = train(tmp_path, TensorDataset(IMAGES, torch.eye(4)[CLASSES]), module)
    with torch.no_grad():
        chances = module.eval()(callback.probe.images).softmax(dim=1)
    expected = chances.gather(1, callback.probe.labels[:, None])[:, 0]
    torch.testing.assert_close(open_run(tmp_path).last().measured.probabilities, expected)


class Numbered(Listed):
    """Items with their number between image and label."""

    def __init__(self, labels: list[int]) -> None:
        super().__init__([(IMAGES[i], i, label) for i, label in enumerate(labels)])


def by_third(module: Any, batch: Any) -> Tensor:
    return F.cross_entropy(module(batch[0]), batch[2])


def test_labels_are_those_that_the_dataset_lists(tmp_path):
    data = Numbered(CLASSES)
    data.targets = CLASSES
    probe = train(tmp_path, data, Net(by_third)).probe
    for image, label in zip(probe.images, probe.labels.tolist(), strict=True):
        (index,) = [i for i in range(16) if torch.equal(IMAGES[i], image)]
        assert label == CLASSES[index]


def test_labels_out_of_range_name_their_field_and_the_remedy_works(tmp_path):
    """Only two classes are left after `% 2`, so the model has too few logits for the others."""

    def loss(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1] % 2)

    data = TensorDataset(IMAGES, torch.tensor(CLASSES))
    says = (
        r"labels that were found do not fit: the model has 2 logit\(s\), for classes from 0 to 1, "
        r"but `batch\[1\]` has classes 0, 0, 1, 1.*`targets` of the dataset, or pass `probe=ProbeB"
    )
    with pytest.raises(SaliencyError, match=says):
        train(tmp_path / "1", data, Net(loss, outputs=2))
    with pytest.raises(ValueError, match=r"`labels` of the probe do not fit: .* they have classes"):
        train(tmp_path / "2", data, Net(loss, 2), probe=ProbeBatch(IMAGES, CLASSES))
    probe = ProbeBatch(IMAGES, [c % 2 for c in CLASSES])
    train(tmp_path / "3", data, Net(loss, outputs=2), probe=probe)


def test_a_checkpoint_is_read_with_weights_only_whatever_was_passed(tmp_path):
    probe = ProbeBatch(
        IMAGES[:2].as_subclass(Meta),
        np.array([1, 0]),
        class_names=np.array(["dog", "cat", "owl", "fox"]),
        names=[Name.CAT, np.str_("other")],
        masks={Name.CAT: (IMAGES[:2, 0] > 0.5).as_subclass(Meta)},
        mean=np.float32(0.5),
        std=np.ones(3),
    )
    callback = SaliencyCallback(
        probe,
        targets=[np.str_("cat"), np.int64(0)],
        name=Name.MINE,
        rule=np.str_("gradient"),
        tile_size=24,
    )
    data = DataLoader(TensorDataset(IMAGES, torch.tensor(CLASSES)), batch_size=8)
    trainer = fit(tmp_path, callback, module=Net(), train=data, validate=False, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    read = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert read["callbacks"]["SaliencyCallback[mine]"]["shown"] == {
        "rule": "gradient",
        "targets": ["cat", 0],
    }
    again = SaliencyCallback(name="mine", targets=["cat", 0], rule="gradient", tile_size=24)
    again.load_state_dict(read["callbacks"]["SaliencyCallback[mine]"])
    assert again.probe.fingerprint == probe.fingerprint


def test_images_of_a_subclass_train_and_resume(tmp_path):
    def collate(items: list[Any]) -> Any:
        images, labels = zip(*items, strict=True)
        return torch.stack(images).as_subclass(Meta), torch.tensor(labels)

    data = Listed(list(zip(IMAGES, CLASSES, strict=True)))
    loader = DataLoader(data, batch_size=8, collate_fn=collate)
    callback = SaliencyCallback(tile_size=24)
    trainer = fit(tmp_path, callback, module=Net(), train=loader, validate=False, max_epochs=1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    torch.load(tmp_path / "last.ckpt", weights_only=True)


def test_explain_takes_images_of_a_subclass():
    model = Net()
    plain, tagged = (explain(model, images) for images in (IMAGES, IMAGES.as_subclass(Meta)))
    assert torch.equal(plain["guided_backprop"], tagged["guided_backprop"])
    assert type(tagged["guided_backprop"]) is Tensor


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_probe_of_another_precision_is_cast_to_that_of_the_model(dtype: torch.dtype, tmp_path):
    data = TensorDataset(IMAGES, torch.tensor(CLASSES))
    measured = []
    for folder, images in (("cast", IMAGES.to(dtype).float()), ("given", IMAGES.to(dtype))):
        probe = ProbeBatch(images[:4], CLASSES[:4])
        train(tmp_path / folder, data, probe=probe)
        measured.append(open_run(tmp_path / folder).last().measured)
    torch.testing.assert_close(measured[1].probabilities, measured[0].probabilities)
    torch.testing.assert_close(measured[1].profiles, measured[0].profiles)


def test_a_clip_is_explained_as_its_message_says(tmp_path):
    clips = torch.rand(16, 4, 3, 8, 8)

    def loss(module: Any, batch: Any) -> Tensor:
        return F.cross_entropy(module(batch[0]), batch[1])

    class Video(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images.flatten(0, 1)).unflatten(0, images.shape[:2]).mean(1)

    data = TensorDataset(clips, torch.tensor(CLASSES))
    with pytest.raises(SaliencyError, match=r"images.transpose\(1, 2\)") as raised:
        train(tmp_path / "1", data, Video(loss))
    forward = eval(str(raised.value).split("`forward=")[1].split("`")[0])
    probe = ProbeBatch(clips[:2].transpose(1, 2), CLASSES[:2])
    train(tmp_path / "2", data, Video(loss), probe=probe, forward=forward)


@pytest.mark.parametrize("scaling", ["divides", "by dtype"])
def test_bytes_are_explained_as_their_message_says(scaling: str, tmp_path):
    """Each of the two remedies gives the model the same numbers as the bytes do."""
    pixels = (IMAGES * 255).byte()

    class Scaling(Net):
        def forward(self, images: Tensor) -> Tensor:
            divide = scaling == "divides" or images.dtype == torch.uint8
            return super().forward(images.float() / 255 if divide else images)

    data, module = TensorDataset(pixels, torch.tensor(CLASSES)), Scaling()
    with pytest.raises(SaliencyError, match=r"`images.float\(\)`; otherwise .*`images / 255`"):
        train(tmp_path / "1", data, module)
    images = pixels[:4].float() if scaling == "divides" else pixels[:4] / 255
    train(tmp_path / "2", data, module, probe=ProbeBatch(images, CLASSES[:4]))
    with torch.no_grad():
        expected = module.eval()(pixels[:4]).softmax(dim=1)
    found = open_run(tmp_path / "2").last().measured
    torch.testing.assert_close(
        found.probabilities, expected.gather(1, found.classes[:, None])[:, 0]
    )


def test_images_whose_channels_come_last_are_named_where_the_model_refuses_them(tmp_path):
    data = TensorDataset(IMAGES, torch.tensor(CLASSES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        probe = ProbeBatch(IMAGES.permute(0, 2, 3, 1), CLASSES)
    says = r"\(16, 16, 3\) torch.float32, failed.*\n.*seem to have their channels last"
    with pytest.raises(SaliencyError, match=says):
        train(tmp_path, data, probe=probe)
