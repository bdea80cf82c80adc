"""Which fields of a batch become the images and the labels of a probe."""

from __future__ import annotations

import warnings
from collections import UserDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset
from torchvision import transforms

from lightning_saliency import ProbeBatch, SaliencyError
from lightning_saliency.errors import SaliencyWarning

N = 24
IMAGES = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(0))
CLASSES = [i * 7 % 5 for i in range(N)]  # neither sorted nor the positions of the items
LABELS = torch.tensor(CLASSES)
BOXES = torch.rand(N, 4, generator=torch.Generator().manual_seed(1))
MASKS = (IMAGES[:, :1] > 0.5).float()

Pair = namedtuple("Pair", ["x", "y"])


@dataclass
class Data:
    pixels: Tensor
    truth: Tensor


@attrs.define
class Slotted:
    img: Tensor
    gt: Tensor


class Items(Dataset[Any]):
    """Items made by a function of their position; they may list their targets."""

    def __init__(self, item: Any, targets: Any = None, **attributes: Any) -> None:
        self.item = item
        self.__dict__.update(attributes)
        if targets is not None:
            self.targets = targets

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> Any:
        return self.item(index)


FOUND = {
    "tuple": (IMAGES, LABELS),
    "list": [IMAGES, LABELS],
    "label first": (LABELS, IMAGES),
    "box between": (IMAGES, BOXES, LABELS),
    "two views": ((IMAGES, IMAGES + 1), LABELS),
    "a dict in a tuple": (IMAGES, {"y": LABELS, "area": BOXES}),
    "tuples in a dict": {"image": (IMAGES, BOXES), "label": (LABELS,)},
    "dict": {"label": LABELS, "pixel_values": IMAGES, "id": list(map(str, range(N)))},
    "index, image, gt": {"idx": torch.arange(N), "image": IMAGES, "gt": LABELS},
    "an id of one's own": {"patient_id": LABELS + 1, "scan": IMAGES, "grade": LABELS},
    "user dict": UserDict(image=IMAGES, target=LABELS),
    "named tuple": Pair(IMAGES, LABELS),
    "dataclass": Data(IMAGES, LABELS),
    "attrs": Slotted(IMAGES, LABELS),
    "object": SimpleNamespace(imgs=IMAGES, labels=LABELS, size=3),
    "mask before the image": {"mask": MASKS, "image": IMAGES, "label": LABELS},
    "mask before the image, no known name": {"mask": MASKS, "scan": IMAGES, "label": LABELS},
    "mask before the image in a tuple": (MASKS, IMAGES, LABELS),
    "depth before the image in a tuple": (IMAGES[:, :1], IMAGES, LABELS),
    "a map of classes before the image": (MASKS.long(), IMAGES, LABELS),
    "bytes for show": {"original": (IMAGES * 255).byte(), "img": IMAGES, "label": LABELS},
    "labels as a list": (IMAGES, CLASSES),
    "labels as an array": (IMAGES, np.array(CLASSES)),
    "labels twice": {"image": IMAGES, "label": LABELS, "target": LABELS},
}


@pytest.mark.parametrize("name", FOUND)
def test_images_and_labels_are_found(name: str):
    probe = ProbeBatch.from_batch(FOUND[name])
    assert torch.equal(probe.images, IMAGES)
    assert probe.labels.tolist() == CLASSES


ITEMS = {
    "(image, label)": lambda i: (IMAGES[i], CLASSES[i]),
    "(image, index, label)": lambda i: (IMAGES[i], i, CLASSES[i]),
    "(index, image, label)": lambda i: (i, IMAGES[i], CLASSES[i]),
    "(image, label, index)": lambda i: (IMAGES[i], CLASSES[i], i),
    "(image, camera, label)": lambda i: (IMAGES[i], i % 2, CLASSES[i]),
    "(image, box, label)": lambda i: (IMAGES[i], BOXES[i], CLASSES[i]),
    "(image, index)": lambda i: (IMAGES[i], i),
    "(image, camera)": lambda i: (IMAGES[i], i // 2 % 2),
    "(image, constant)": lambda i: (IMAGES[i], 0),
    "image": lambda i: IMAGES[i],
    "(image, one-hot)": lambda i: (IMAGES[i], torch.eye(5)[CLASSES[i]]),
    "two names": lambda i: {"image": IMAGES[i], "label": CLASSES[i] % 2, "target": CLASSES[i]},
    "wrong name": lambda i: {"image": IMAGES[i], "label": i % 2, "fine": CLASSES[i]},
}


@pytest.mark.parametrize("name", ITEMS)
@pytest.mark.parametrize("listed", ["targets", "labels"])
@pytest.mark.parametrize("within", [False, True], ids=["itself", "subset"])
@pytest.mark.parametrize("per_class", [1, 2])
def test_what_a_dataset_lists_as_its_targets_decides(
    name: str, listed: str, within: bool, per_class: int
):
    data: Any = Items(ITEMS[name], **{listed: CLASSES})
    if within:
        data = Subset(Subset(data, range(N - 1, 3, -1)), range(10))
    probe = ProbeBatch.from_dataset(data, per_class=per_class)
    for image, label in zip(probe.images, probe.labels.tolist(), strict=True):
        (index,) = [i for i in range(N) if torch.equal(IMAGES[i], image)]
        assert label == CLASSES[index]
    assert len(set(probe.labels.tolist())) == 5


def test_listed_targets_may_be_several_per_item():
    several = (torch.arange(5) < 1 + LABELS[:, None]).long()
    data = Items(lambda i: (IMAGES[i], i), targets=several)
    probe = ProbeBatch.from_dataset(data, indices=[3, 9])
    assert torch.equal(probe.labels, several[[3, 9]].float())


def test_a_target_transform_decides_what_the_model_learns():
    """Neither the listed classes nor their names belong to what the model is trained with."""
    data = Items(
        lambda i: (IMAGES[i], i, CLASSES[i] % 2),
        targets=CLASSES,
        target_transform=lambda label: label % 2,
        classes=list("abcde"),
    )
    probe = ProbeBatch.from_dataset(data, indices=[2, 4, 5])
    assert probe.labels.tolist() == [CLASSES[i] % 2 for i in (2, 4, 5)]
    assert probe.class_names is None


@pytest.mark.parametrize("indices", [[5, 6, 7, 8], [5, 7, 10, 12]], ids=["distinct", "repeated"])
def test_labels_that_an_item_renumbers_are_those_of_the_item(indices: list[int]):
    data = Items(lambda i: (IMAGES[i], CLASSES[i] + 1), targets=CLASSES)
    probe = ProbeBatch.from_dataset(data, indices=indices)
    assert probe.labels.tolist() == [CLASSES[i] + 1 for i in indices]


def test_positions_of_the_items_are_not_their_labels():
    for item in ((IMAGES, torch.arange(N), LABELS), (torch.arange(N), IMAGES, LABELS)):
        data = TensorDataset(*item)
        assert ProbeBatch.from_dataset(data, indices=[9, 4, 2]).labels.tolist() == [
            CLASSES[i] for i in (9, 4, 2)
        ]


@pytest.mark.parametrize(
    ("batch", "names"),
    [
        pytest.param((IMAGES, LABELS, LABELS % 2), [r"batch\[1\]", r"batch\[2\]"], id="tuple"),
        pytest.param(
            {"image": IMAGES, "coarse_label": LABELS % 2, "fine_label": LABELS},
            [r"batch\['coarse_label'\]", r"batch\['fine_label'\]"],
            id="coarse-and-fine",
        ),
        pytest.param(
            {"image": IMAGES, "label": LABELS % 2, "y": LABELS},
            [r"batch\['label'\]", r"batch\['y'\]"],
            id="two-known-names",
        ),
        pytest.param(
            (IMAGES, {"age": LABELS, "sex": LABELS % 2}),
            [r"batch\[1\]\['age'\]", r"batch\[1\]\['sex'\]"],
            id="nested",
        ),
    ],
)
def test_several_possible_labels_are_named_and_the_remedy_works(batch: Any, names: list[str]):
    candidates = " or ".join(rf"`{name}` \(int64 \(24,\): [\d, …]*\)" for name in names)
    with pytest.raises(
        SaliencyError, match=f"can be the labels: {candidates}.* `targets`"
    ) as raised:
        ProbeBatch.from_batch(batch)
    remedy = str(raised.value).split("`")[-2].removeprefix("probe=")
    probe = eval(remedy, {"ProbeBatch": ProbeBatch, "batch": batch})
    assert probe.labels is not None


def test_a_black_image_in_a_batch_of_its_own_does_not_pass_for_a_mask():
    """Whether a field holds masks is decided for all batches together."""
    images = IMAGES.clone()
    images[0] = 0.0
    data = Items(lambda i: (MASKS[i].expand(3, 8, 8), images[i], CLASSES[i]), targets=CLASSES)
    for known in ({}, {"labels": [0, 1, 2, 3, 4]}):
        probe = ProbeBatch.from_dataloader(DataLoader(data, batch_size=1), 5, **known)
        assert torch.equal(probe.images, images[[0, 3, 1, 4, 2]])
        assert probe.labels.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (0, 2, 1)])
@pytest.mark.parametrize("listed", [True, False])
def test_an_index_is_not_the_label_of_images_of_several_sizes(order: tuple[int, ...], listed: bool):
    """Each batch holds one item, and those of the rarer size are left out."""

    def item(i: int) -> Any:
        parts = IMAGES[i] if i % 3 else IMAGES[i].repeat(1, 2, 1), i, CLASSES[i]
        return tuple(parts[number] for number in order)

    loader = DataLoader(Items(item, targets=CLASSES if listed else None), batch_size=1)
    with pytest.warns(SaliencyWarning, match="the images have several sizes") as warned:
        probe = ProbeBatch.from_dataloader(loader, 8)
    assert {warning.filename for warning in warned} == {__file__}
    for image, label in zip(probe.images, probe.labels.tolist(), strict=True):
        (index,) = [i for i in range(N) if torch.equal(IMAGES[i], image)]
        assert label == CLASSES[index]


def test_labels_that_are_passed_replace_those_of_a_loader():
    data = Items(lambda i: (IMAGES[i], i), targets=CLASSES, classes=list("abcde"))
    loader, chosen = DataLoader(data, batch_size=2), [4, 9, 7]
    probe = ProbeBatch.from_dataloader(loader, indices=chosen, labels=[2, 0, 1])
    assert torch.equal(probe.images, IMAGES[chosen])
    assert (probe.labels.tolist(), probe.class_names) == ([2, 0, 1], tuple("abcde"))
    # Class 7 has no name, so the names cannot belong to these labels.
    probe = ProbeBatch.from_dataloader(loader, indices=chosen, labels=[2, 0, 7])
    assert (probe.labels.tolist(), probe.class_names) == ([2, 0, 7], None)
    assert ProbeBatch.from_dataloader(loader, 5, labels=None).labels is None
    with pytest.raises(ValueError, match=r"one entry for each of 3 image\(s\), got"):
        ProbeBatch.from_dataloader(loader, indices=chosen, labels=[2, 0])


def test_images_cannot_be_passed_next_to_those_of_a_batch():
    with pytest.raises(TypeError, match="multiple values for argument 'images'"):
        ProbeBatch.from_batch((IMAGES, LABELS), images=IMAGES)


def test_no_indices_are_refused():
    data = Items(ITEMS["(image, label)"])
    with pytest.raises(ValueError, match=r"`indices` must hold at least one position, got none"):
        ProbeBatch.from_dataset(data, indices=[])
    assert len(ProbeBatch.from_dataset(data)) == 5


def test_labels_that_are_passed_replace_those_of_the_batch():
    probe = ProbeBatch.from_batch((IMAGES, LABELS, LABELS % 2), labels=LABELS)
    assert probe.labels.tolist() == CLASSES
    assert ProbeBatch.from_batch((IMAGES, LABELS), labels=None).labels is None


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param(torch.rand(N) + 0.1, id="numbers"),
        pytest.param(torch.rand(N, 2) * 9, id="pairs"),
        pytest.param(LABELS - 9, id="negative"),
        pytest.param(["cat"] * N, id="names"),
    ],
)
def test_what_seems_to_be_labels_and_is_not_read_is_said(labels: Any):
    for batch in ((IMAGES, labels), {"image": IMAGES, "label": labels}):
        with pytest.warns(SaliencyWarning, match="is not read as labels.*without labels"):
            assert ProbeBatch.from_batch(batch).labels is None


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(IMAGES, id="images"),
        pytest.param((IMAGES, MASKS), id="masks"),
        pytest.param((IMAGES, MASKS[:, 0].long()), id="maps"),
        pytest.param((IMAGES, torch.full((N,), -1)), id="unlabelled"),
        pytest.param({"image": IMAGES, "index": torch.arange(N)}, id="index"),
        pytest.param((IMAGES, [{"boxes": BOXES[:2]}] * N), id="boxes"),
    ],
)
def test_images_without_labels_are_taken_in_silence(batch: Any):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ProbeBatch.from_batch(batch).labels is None


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        pytest.param(
            {"text": ["a"], "size": torch.ones(2, 5)},
            r"a dict of 'text' list, 'size' float32 \(2, 5\)",
            id="dict",
        ),
        pytest.param((torch.ones(2, 5), 3), r"a tuple of float32 \(2, 5\), int\. Pass", id="tuple"),
        pytest.param(
            Data(torch.ones(2, 5), 3), r"a Data of pixels float32 \(2, 5\), truth int", id="data"
        ),
        pytest.param(
            {"image": (IMAGES * 255).byte(), "label": LABELS},
            r"`batch\['image'\]` is uint8 \(24, 3, 8, 8\).*divides by 255 itself.*`images / 255`",
            id="bytes-in-a-dict",
        ),
        pytest.param(
            ((IMAGES * 255).byte(), MASKS, LABELS),
            r"`batch\[0\]` is uint8 \(24, 3, 8, 8\)",
            id="bytes-before-a-mask",
        ),
        pytest.param(
            (torch.rand(2, 4, 3, 8, 8), torch.tensor([0, 1])),
            r"`batch\[0\]` is float32 \(2, 4, 3, 8, 8\), .*model\(images.transpose\(1, 2\)\)",
            id="clips",
        ),
        pytest.param(
            (torch.rand(2, 8, 8), torch.tensor([0, 1])),
            r"`batch\[0\]` holds grey images \(N, H, W\), pass them as `images\[:, None\]`",
            id="grey",
        ),
        pytest.param({"mask": MASKS, "image": "a.png"}, r"a dict of 'mask' float32 \(", id="mask"),
        pytest.param((torch.rand(2, 1, 99), 3), r"`signals\[:, :, None\]`, with", id="signals"),
        pytest.param("cat", r"a batch that is a str\.", id="word"),
    ],
)
def test_a_batch_without_images_is_described(batch: Any, message: str):
    with pytest.raises(SaliencyError, match=rf"^no .*images.*{message}"):
        ProbeBatch.from_batch(batch)


def test_items_without_a_label_are_not_chosen_if_others_have_one():
    classes = [-1 if i < 8 else CLASSES[i] for i in range(N)]
    data = Items(lambda i: (IMAGES[i], classes[i]), targets=classes)
    assert ProbeBatch.from_dataset(data).labels.tolist() == [0, 1, 2, 3, 4]
    unlabelled = Items(lambda i: (IMAGES[i], -1), targets=[-1] * N)
    probe = ProbeBatch.from_dataset(unlabelled)
    assert (len(probe), probe.labels) == (8, None)


def test_pil_items_are_refused_with_a_remedy_that_works():
    photo = Image.new("RGB", (8, 8))
    with pytest.raises(
        SaliencyError, match=r"PIL images \(item\['image'\]\).*`transforms.ToTensor"
    ):
        ProbeBatch.from_dataset(Items(lambda i: {"image": photo, "label": CLASSES[i]}))
    ready = Items(lambda i: {"image": transforms.ToTensor()(photo), "label": CLASSES[i]})
    assert len(ProbeBatch.from_dataset(ready)) == 5

    def collate(items: list[Any]) -> Any:
        return torch.stack([transforms.ToTensor()(image) for image, _ in items])

    loader = DataLoader(Items(lambda i: (photo, CLASSES[i])), collate_fn=collate)
    assert len(ProbeBatch.from_dataloader(loader, 4)) == 4


def test_an_error_of_a_collate_fn_is_its_own():
    def collate(items: list[Any]) -> Any:
        raise TypeError("mine")

    with pytest.raises(TypeError, match=r"^mine$"):
        ProbeBatch.from_dataset(Items(ITEMS["(image, label)"]), collate_fn=collate)


def test_more_images_than_anybody_may_have_meant_are_said():
    many = TensorDataset(torch.rand(200, 1, 8, 8), torch.arange(200))
    with pytest.warns(SaliencyWarning, match=r"the probe has 200 images.*`count=`.*`count=16`"):
        assert len(ProbeBatch.from_dataset(many)) == 200
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProbeBatch.from_dataset(many, count=65)
        ProbeBatch.from_dataset(many, indices=range(65))
        ProbeBatch.from_dataset(TensorDataset(many.tensors[0], torch.arange(200) % 64))
