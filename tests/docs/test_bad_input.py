"""Bad input, one row each: what it is answered with, and that the answer says what to do.

The rows are also the table in ``docs/errors.md``, which ``python tests/docs/test_bad_input.py``
writes.
"""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors.torch
import torch
from captum.attr import LayerGradCam, NeuronGradient, Saliency
from PIL import Image
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import IterableDataset, TensorDataset
from torchvision import transforms
from torchvision.models import ResNet18_Weights

from lightning_saliency import (
    AttentionCheck,
    ProbeBatch,
    SaliencyCallback,
    SaliencyError,
    class_index,
    explain,
)
from lightning_saliency.attribution.activations import declare
from lightning_saliency.captum import rule as by
from lightning_saliency.cli.checkpoints import check_kind, read_checkpoint
from lightning_saliency.cli.commands import _parser
from lightning_saliency.cli.imported import import_object, parse_arguments
from lightning_saliency.errors import RecordError, SaliencyWarning
from lightning_saliency.probe.photos import read_photo
from lightning_saliency.testing import reference_from_models
from lightning_saliency.viewer import show

PAGE = Path(__file__).parents[2] / "docs/errors.md"
ORIENTATION = 0x0112


class Case(NamedTuple):
    """What was given, and the part of the message that says what to do."""

    what: str
    call: Callable[[Path], Any]
    error: type[Exception]
    says: str


# --- what the calls are made with


class Net(nn.Module):
    """Three logits of RGB images of any size; ``out`` says what is made of them."""

    def __init__(self, out: Callable[[Tensor], Any] = lambda logits: logits) -> None:
        super().__init__()
        self.conv, self.head, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), out

    def forward(self, images: Tensor) -> Any:
        return self.out(self.head(self.conv(images).relu().mean(dim=(2, 3))))


class Swish(torch.autograd.Function):
    """A custom function whose node nothing is known of."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        gate = x.sigmoid()
        return upstream * gate * (1 + x * (1 - gate))


class Hidden(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return Swish.apply(images).mean(dim=(2, 3))


def without_channels(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return images.sum(dim=1)


def failing(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    return model.classifier(images)


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        yield torch.zeros(3, 8, 8), 0


IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def of(**options: Any) -> Callable[[Path], Any]:
    """A probe of two images with something wrong in it."""
    return lambda _: ProbeBatch(**{"images": IMAGES} | options)


def volumes(**options: Any) -> Callable[[Path], Any]:
    """The same of volumes with four slices."""
    return of(images=IMAGES[:, :, None].expand(2, 3, 4, 8, 8), **options)


def asked(targets: Any = "all", model: Any = None, images: Any = IMAGES, **options: Any) -> Any:
    """An explanation asked for with something wrong."""
    return lambda _: explain(Net() if model is None else model, images, targets, **options)


def answering(out: Callable[[Tensor], Any]) -> Callable[[Path], Any]:
    """An explanation of a model whose output is wrong."""
    return asked(model=Net(out))


def photo(name: str, **options: Any) -> Callable[[Path], Any]:
    """A probe of one file."""
    return lambda desk: ProbeBatch.from_files([desk / name], 4, **options)


def masked(name: str) -> Callable[[Path], Any]:
    return lambda desk: ProbeBatch.from_files(
        [desk / "photo.png"], 4, masks={"object": [desk / name]}
    )


def reported(*arguments: str) -> Callable[[Path], Any]:
    """What the command `report` raises, before it is printed; ``{}`` stands for the desk."""

    def call(desk: Path) -> Any:
        given = [text.replace("{}", str(desk)) for text in arguments]
        options = _parser().parse_args(["report", "-o", str(desk / "report.html"), *given])
        return options.command(options)

    return call


def plotted(**options: Any) -> Callable[[Path], Any]:
    images = options.pop("images", IMAGES)
    return lambda _: explain(Net(), IMAGES, 1).plot(images, **options)


@pytest.fixture(scope="session")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("desk"))


def lay_out(desk: Path) -> Path:
    """Files, most of them not what they should be."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    good = Image.fromarray(pixels)
    good.save(desk / "photo.png")
    good.resize((40, 40)).save(desk / "square.png")
    good.save(desk / "whole.jpg")
    whole = (desk / "whole.jpg").read_bytes()
    (desk / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (desk / "empty.png").touch()
    (desk / "text.jpg").write_text("A cat, honestly.")
    (desk / "program.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    Image.new("1", (8000, 8000)).save(desk / "huge.png")
    nan = np.full((8, 8), np.nan, np.float32)
    Image.fromarray(nan).save(desk / "nan.tif")
    _lay_out_masks(desk, good)
    _lay_out_folders(desk, good)
    _lay_out_runs(desk)
    (desk / "probe.safetensors").write_bytes(safetensors.torch.save({"images": IMAGES}))
    (desk / "damaged.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (desk / "text.ckpt").write_text("A checkpoint, honestly.")
    torch.save({"head.weight": IMAGES}, desk / "weights.pt")
    torch.save({"state_dict": {}, "hyper_parameters": {"root": Path("data")}}, desk / "path.ckpt")
    return desk


def _lay_out_masks(desk: Path, good: Image.Image) -> None:
    Image.new("1", (10, 10)).save(desk / "small.png")
    Image.new("1", good.size[::-1]).save(desk / "lying.png")
    good.save(desk / "colours.png")
    Image.new("L", good.size, 1).save(desk / "ones.png")


def _lay_out_folders(desk: Path, good: Image.Image) -> None:
    for folder in ("none", "bare/cat", "animals/cat", "masks/cat", "twins/cat"):
        (desk / folder).mkdir(parents=True)
    good.save(desk / "animals/cat/1.png")
    for name in ("1.png", "1.bmp"):
        Image.new("1", good.size).save(desk / "twins/cat" / name)


def _lay_out_runs(desk: Path) -> None:
    import records  # whose folder pytest knows, and a program that writes the page does not

    runs = [records.record(desk / "runs" / name) for name in ("whole", "young", "torn", "cut")]
    for run in runs[1:3]:
        for path in (run / "saliency").glob("observation-*"):
            path.unlink() if run.name == "young" else path.write_bytes(b"{")
    (runs[3] / "saliency/run.json").write_text('{"schema": 1, "name": ')


ToTensor = transforms.ToTensor

FILES = [
    Case("no such file", photo("none.png"), FileNotFoundError, "Relative paths start at"),
    Case("a folder in place of a photo", photo("none"), ValueError, "use `from_folder`"),
    Case("an empty file", photo("empty.png"), ValueError, "it is empty.*save it again"),
    Case("text named .jpg", photo("text.jpg"), ValueError, "format is unknown.*save it again"),
    Case("half a JPEG", photo("cut.jpg"), ValueError, "(?i)truncated.*save it again"),
    Case("a program (EPS)", photo("program.eps"), ValueError, "save it again as JPEG or PNG"),
    Case("64 million pixels", photo("huge.png"), ValueError, "Scale it down first"),
    Case("pixels that are NaN", photo("nan.tif"), ValueError, "Save it with 8 or 16 bits"),
    Case(
        "one path, not a list",
        lambda desk: ProbeBatch.from_files(str(desk / "photo.png")),
        TypeError,
        r"pass \['.*photo.png'\]",
    ),
    Case(
        "an empty list", lambda _: ProbeBatch.from_files([]), ValueError, "Does the pattern match"
    ),
    Case("a mask of another size", masked("small.png"), ValueError, "Draw the mask at the size"),
    Case("a mask lying on its side", masked("lying.png"), ValueError, "Rotate the mask as"),
    Case(
        "a mask in colours", masked("colours.png"), ValueError, "Save each region to its own file"
    ),
    Case("a mask of zeros and ones", masked("ones.png"), ValueError, r"save `mask \* 255`"),
    Case(
        "fewer masks than photos",
        lambda desk: ProbeBatch.from_files([desk / "photo.png"], masks={"object": []}),
        ValueError,
        "in the same order",
    ),
    Case(
        "a folder that is not there",
        lambda desk: ProbeBatch.from_folder(desk / "nowhere"),
        ValueError,
        "must hold one folder per class",
    ),
    Case(
        "a folder without classes",
        lambda desk: ProbeBatch.from_folder(desk / "none"),
        ValueError,
        "`ProbeBatch.from_files` takes photos without classes",
    ),
    Case(
        "a class without photos",
        lambda desk: ProbeBatch.from_folder(desk / "bare"),
        ValueError,
        "Put photos in it, or remove it",
    ),
    Case(
        "a photo without a mask",
        lambda desk: ProbeBatch.from_folder(desk / "animals", 4, masks=desk / "masks"),
        FileNotFoundError,
        r"there is no .*cat/1\.\*.*Each photo needs one",
    ),
    Case(
        "two masks for one photo",
        lambda desk: ProbeBatch.from_folder(desk / "animals", 4, masks=desk / "twins"),
        ValueError,
        r"got 1\.bmp, 1\.png. Keep one",
    ),
    Case(
        "a probe file that is not there",
        lambda desk: ProbeBatch.load(desk / "nowhere.safetensors"),
        FileNotFoundError,
        "`ProbeBatch.save` writes one",
    ),
    Case(
        "a probe file that is damaged",
        lambda desk: ProbeBatch.load(desk / "damaged.safetensors"),
        ValueError,
        "Save the probe again",
    ),
    Case(
        "weights in place of a probe",
        lambda desk: ProbeBatch.load(desk / "probe.safetensors"),
        ValueError,
        "is not a probe written by `ProbeBatch.save`.*it has no metadata.*again",
    ),
    Case(
        "a size in words",
        lambda desk: ProbeBatch.from_files([desk / "photo.png"], "big"),
        TypeError,
        r"or a pair \(resize, crop\)",
    ),
    Case(
        "a size of nothing",
        lambda desk: ProbeBatch.from_files([desk / "photo.png"], 0),
        ValueError,
        "must be at least 1",
    ),
    Case("`mean` without `std`", photo("photo.png", std=None), ValueError, "None leaves values in"),
    Case(
        "an unknown normalisation",
        photo("photo.png", mean="cifar", std="cifar"),
        ValueError,
        "in its training code",
    ),
    Case(
        "the mean of images in 0…255",
        photo("photo.png", mean=[124, 116, 104], std=[58, 57, 57]),
        ValueError,
        "Divide both by 255",
    ),
    Case(
        "a transform not called",
        photo("photo.png", transform=ResNet18_Weights.DEFAULT.transforms),
        TypeError,
        r"it is `weights.transforms\(\)`",
    ),
    Case(
        "a transform that gives no tensor",
        photo("photo.png", transform=transforms.Resize(4)),
        TypeError,
        r"so does `transforms.ToTensor\(\)`",
    ),
    Case(
        "photos of several sizes after a transform",
        lambda desk: ProbeBatch.from_files(
            [desk / "photo.png", desk / "square.png"], transform=ToTensor()
        ),
        ValueError,
        "End the transform with a crop",
    ),
    Case(
        "labels in words",
        photo("photo.png", labels=["cat"]),
        TypeError,
        "`class_index` finds ImageNet's",
    ),
    Case(
        "a lower limit of pixels",
        lambda desk: read_photo(desk / "photo.png", max_pixels=10),
        ValueError,
        "Scale it down first",
    ),
]

PROBES = [
    Case("an array of images", of(images=IMAGES.numpy()), TypeError, "`torch.as_tensor`"),
    Case("one image without a batch axis", of(images=IMAGES[0]), ValueError, r"images\[None\]"),
    Case("images of bytes", of(images=IMAGES.byte()), TypeError, "images / 255"),
    Case(
        "signals (N, C, L)",
        of(images=IMAGES[0]),
        ValueError,
        r"signals\[:, :, None\]`, with `forward=lambda model, images: model\(images",
    ),
    Case(
        "images with four axes of space",
        of(images=IMAGES[:, :, None, None]),
        ValueError,
        r"images.flatten\(1, 2\)`, and unfold them again in `forward=lambda",
    ),
    Case("a depth of flat images", of(depth="max"), ValueError, "Leave them out"),
    Case("a slice that is not there", volumes(depth=9), ValueError, "from 0 to 3, got 9"),
    Case("an axis that is none of space", volumes(depth_axis=1), ValueError, "-3, -2 or -1, for"),
    Case(
        "a mask of one slice, for another axis",
        volumes(masks={"object": torch.ones(2, 4, 7).bool()}),
        ValueError,
        r"\(2, 4, 8, 8\), as the images have",
    ),
    Case(
        "data of clips whose frames come first",
        lambda _: ProbeBatch.from_batch((torch.rand(2, 5, 3, 8, 8), torch.tensor([0, 1]))),
        SaliencyError,
        r"pass `images.transpose\(1, 2\)`, with `forward=lambda",
    ),
    Case(
        "a list of images, as detectors take them",
        lambda _: ProbeBatch.from_batch(([*IMAGES], [{"boxes": torch.ones(1, 4)}] * 2)),
        SaliencyError,
        r"`probe=ProbeBatch\(torch.stack\(images\)\)`",
    ),
    Case("no images", of(images=IMAGES[:0]), ValueError, "must not be empty"),
    Case("images with NaN", of(images=IMAGES / 0 * 0), ValueError, "Look for a division by zero"),
    Case("labels as a dict", of(labels={"a": 1}), TypeError, "Number the names in `class_names`"),
    Case("a label too few", of(labels=torch.tensor([1])), ValueError, "Pass one label per image"),
    Case("float labels", of(labels=torch.tensor([0.5, 2.0])), ValueError, r"`labels.long\(\)`"),
    Case(
        "pairs of classes",
        of(labels=torch.tensor([[3, 1], [4, 0]])),
        ValueError,
        "must be 0 or 1.*Pass one class per image.*For several labels per image, pass floats",
    ),
    Case("a negative label", of(labels=[-7, 1]), ValueError, "-1 stands for an image without"),
    Case(
        "a label without a name",
        of(labels=torch.tensor([0, 2]), class_names=["cat", "dog"]),
        ValueError,
        "Give every class a name",
    ),
    Case("one string of class names", of(class_names="cat"), TypeError, "Pass one name per item"),
    Case("a set of class names", of(class_names={"cat"}), TypeError, "A set has no order"),
    Case(
        "a dict of class names with a gap",
        of(class_names={0: "cat", 2: "dog"}),
        ValueError,
        "each class from 0 to 1, got the keys 0, 2. Pass a list",
    ),
    Case("a list of masks", of(masks=[IMAGES[:, 0] > 0]), TypeError, r"Pass `masks=\{'object': m"),
    Case(
        "a clip whose frames come first",
        of(images=IMAGES[None]),
        SaliencyWarning,
        r"pass `images.transpose\(1, 2\)`, with `forward=lambda",
    ),
    Case("`mean` in words", of(mean="imagenet", std="imagenet"), TypeError, "must be numbers"),
    Case(
        "`mean` and `std` of images in [0, 255]",
        lambda _: ProbeBatch(IMAGES, mean=123, std=58).displayed(),
        SaliencyWarning,
        r"divide those for images in \[0, 255\] by 255",
    ),
    Case("a `std` that is NaN", of(mean=0.5, std=float("nan")), ValueError, "one finite value"),
    Case("a name twice", of(names=["cat", "cat"]), ValueError, "Number the duplicates"),
    Case("a name too few", of(names=["cat"]), ValueError, "images are named by number"),
    Case("a mask of numbers", of(masks={"object": IMAGES[:, 0]}), TypeError, "Use `mask > 0`"),
    Case(
        "masks with channels",
        of(masks={"object": IMAGES > 0}),
        ValueError,
        "A mask has no channels",
    ),
    Case("`mean` alone", of(mean=[0.5] * 3), ValueError, "or neither"),
    Case(
        "one mean for three channels",
        of(mean=[0.5], std=[0.5]),
        ValueError,
        "of `transforms.Normalize`",
    ),
    Case(
        "a stream of images",
        lambda _: ProbeBatch.from_dataset(Stream()),
        TypeError,
        r"`probe=ProbeBatch\(images, labels\)`",
    ),
    Case(
        "an empty dataset",
        lambda _: ProbeBatch.from_dataset(TensorDataset(IMAGES[:0])),
        SaliencyError,
        "Is the path, or the split",
    ),
    Case(
        "an item beyond the end",
        lambda _: ProbeBatch.from_dataset(TensorDataset(IMAGES), indices=[7]),
        ValueError,
        "positions in the dataset",
    ),
    Case(
        "a dataset without images",
        lambda _: ProbeBatch.from_dataset(TensorDataset(torch.zeros(4, 9))),
        SaliencyError,
        r"Pass `probe=ProbeBatch\(images, labels\)`",
    ),
    Case(
        "a dataset of PIL images",
        lambda _: ProbeBatch.from_dataset([(Image.new("RGB", (8, 8)), 0)]),
        SaliencyError,
        r"PIL images \(item\[0\]\).*`transforms.ToTensor\(\)`",
    ),
    Case(
        "a dataset of bytes",
        lambda _: ProbeBatch.from_dataset(TensorDataset(IMAGES.byte())),
        SaliencyError,
        r"`batch\[0\]` is uint8 \(2, 3, 8, 8\).*`images.float\(\)`.*`images / 255`",
    ),
    Case(
        "a dataset with two kinds of classes",
        lambda _: ProbeBatch.from_dataset(TensorDataset(IMAGES, *torch.tensor([[3, 5], [1, 0]]))),
        SaliencyError,
        r"`batch\[1\]` \(.*3, 5\) or `batch\[2\]` \(.*1, 0\).*`targets` of the dataset",
    ),
]

CLASSES = [
    Case("a class that the model lacks", asked(3), ValueError, "classes from 0 to 2"),
    Case("a negative class", asked(-2), ValueError, "Use 'predicted' for the strongest"),
    Case("a class by name", asked("zebra"), ValueError, "`class_index` finds the index"),
    Case(
        "a class as a float", asked(torch.tensor([0.0, 1.0])), TypeError, "Pass several classes as"
    ),
    Case(
        "classes of three images for two",
        asked(torch.tensor([0, 1, 2])),
        ValueError,
        "one row per image",
    ),
    Case("more classes than there are", asked(torch.zeros(2, 4).long()), ValueError, "at most 3"),
    Case("an unknown name", lambda _: class_index("zebrra"), ValueError, r"'zebra' \(340\)"),
    Case("an ambiguous name", lambda _: class_index("crane"), ValueError, "say 'crane bird'"),
    Case("an index for a name", lambda _: class_index(24), TypeError, "an index needs no"),
    Case("a set of names", lambda _: class_index({"zebra"}), TypeError, "A set has no order"),
    Case("a class that was not explained", plotted(targets=2), ValueError, "Ask for it with"),
]

MODELS = [
    Case(
        "the name of a model",
        asked(model="resnet18"),
        TypeError,
        "pass the module it uses as `model`",
    ),
    Case("no images", asked(images=IMAGES[:0]), ValueError, "Pass at least one image"),
    Case("images as a list", asked(images=IMAGES.tolist()), TypeError, "`torch.as_tensor`"),
    Case("an image without a batch axis", asked(images=IMAGES[0]), ValueError, r"images\[None\]"),
    Case("images of integers", asked(images=IMAGES.long()), TypeError, "images / 255"),
    Case("a detached output", answering(Tensor.detach), SaliencyError, "returns the logits"),
    Case(
        "predictions in place of logits",
        answering(lambda logits: logits.argmax(dim=1)),
        SaliencyError,
        "no logits found.*Pass `forward=lambda",
    ),
    Case("a model that returns nothing", answering(lambda _: None), SaliencyError, "`forward=lam"),
    Case(
        "a dict without logits",
        answering(lambda logits: {"out": logits}),
        SaliencyError,
        "Pass `forward=lambda",
    ),
    Case(
        "a map of logits (segmentation)",
        answering(lambda logits: logits[..., None, None]),
        SaliencyError,
        "by a mean over positions",
    ),
    Case(
        "maps of logits in a dict (segmentation)",
        answering(lambda logits: {"out": logits[..., None, None]}),
        SaliencyError,
        r'model\(images\)\["out"\].mean\(dim=\(2, 3\)\)',
    ),
    Case(
        "logits of each voxel",
        answering(lambda logits: logits[..., None, None, None]),
        SaliencyError,
        r"model\(images\).mean\(dim=\(2, 3, 4\)\)",
    ),
    Case(
        "logits of each box (detection)",
        answering(lambda logits: logits[:, None].expand(-1, 5, -1)),
        SaliencyError,
        r"model\(images\).amax\(dim=1\)",
    ),
    Case(
        "two tensors that may be the logits",
        answering(lambda logits: (logits[:, :2] * 2, logits * 2)),
        SaliencyError,
        r"model\(images\)\[1\]",
    ),
    Case(
        "extras of too few images",
        asked(extras={"age": torch.ones(1)}),
        ValueError,
        r"one row for each of 2 image\(s\).*`value.expand\(2",
    ),
    Case(
        "extras as a list",
        asked(extras=[torch.ones(2)]),
        TypeError,
        "must be a dict from names to tensors",
    ),
    Case(
        "a model that takes a batch",
        asked(forward=lambda model, x: model(*x)),
        SaliencyError,
        "pass `forward=lambda model, images: …` that returns the logits",
    ),
    Case(
        "logits of one image only",
        answering(lambda logits: logits[:1]),
        SaliencyError,
        r"must have shape \(2, num_classes\)",
    ),
    Case(
        "a custom function with no rule",
        asked(model=Hidden()),
        SaliencyError,
        r"lightning_saliency.rules.declare\(function",
    ),
    Case(
        "reentrant checkpoints",
        asked(forward=lambda model, x: checkpoint(model, x, use_reentrant=True)),
        SaliencyError,
        "pass `use_reentrant=False`",
    ),
    Case("an unknown rule", asked(rules=("guided",)), ValueError, "must be among gradient, guided"),
    Case("one rule as a word", asked(rules="gradient"), ValueError, r"tuple such as \('gradient',"),
    Case("no rule", asked(rules=()), ValueError, "Choose from gradient"),
    Case(
        "a callable without a name",
        asked(rules=(lambda model, images, targets: images,)),
        ValueError,
        r"Give it one with `def my_rule\(model, images, targets\)",
    ),
    Case(
        "a callable with the name of a built-in rule",
        asked(rules=(by(Saliency, name="gradient"),)),
        ValueError,
        'rule.name = "my_gradient"',
    ),
    Case(
        "two callables with one name",
        asked(rules=(by(Saliency), by(Saliency, abs=False))),
        ValueError,
        "told apart by their attribute `name`",
    ),
    Case(
        "a callable that returns maps without channels",
        asked(rules=(without_channels,)),
        SaliencyError,
        r"Add an axis for the channels: `maps\[:, None\]`",
    ),
    Case(
        "a callable that fails",
        asked(rules=(failing,)),
        SaliencyError,
        r"It is called as `rule\(model, images, targets\)`",
    ),
    Case(
        "a check by a callable",
        lambda _: AttentionCheck(rule=by(Saliency)),
        ValueError,
        r"show the callable with `SaliencyCallback\(rule=…\)`",
    ),
    Case(
        "a layer that the model does not have",
        asked(rules=(by(LayerGradCam, layer="convs"),)),
        SaliencyError,
        "Did you mean 'conv'",
    ),
    Case(
        "an option that a method of Captum does not have",
        lambda _: by(Saliency, abss=True),
        ValueError,
        "did you mean",
    ),
    Case(
        "a method of Captum without its layer",
        lambda _: by(LayerGradCam),
        ValueError,
        'needs the name of a layer: `layer="layer4"`',
    ),
    Case(
        "a method of Captum that explains a neuron",
        lambda _: by(NeuronGradient, layer="conv"),
        ValueError,
        "Choose a method that does",
    ),
    Case("chunks of nothing", asked(chunk_size=0), ValueError, "`None` takes all"),
    Case(
        "a rule that was not explained",
        lambda _: explain(Net(), IMAGES)["gradient"],
        KeyError,
        r"rules=\('gradient',\)",
    ),
    Case(
        "an unknown reduction",
        lambda _: explain(Net(), IMAGES).maps("guided_backprop", "mean"),
        ValueError,
        "must be one of abs_max, max",
    ),
    Case("a plot of other images", plotted(images=IMAGES[:1]), ValueError, "that were explained"),
    Case("a plot of image 9", plotted(image=9), IndexError, "must be from 0 to 1"),
    Case(
        "a function for `declare`",
        lambda _: declare(Swish.apply, "activation"),
        TypeError,
        "not its `apply`",
    ),
    Case(
        "a list as the callback's probe",
        lambda _: SaliencyCallback([IMAGES]),
        TypeError,
        r"ProbeBatch\(images",
    ),
]

MODELS_OF_REFERENCES = [
    Case(
        "a class without a colon",
        lambda _: import_object("--model", "train.Net"),
        ValueError,
        r"Did you mean train:Net\?",
    ),
    Case(
        "a class that is not Lightning's",
        lambda _: check_kind(nn.Linear, "train:Net"),
        ValueError,
        "Name the LightningModule that was trained",
    ),
    Case(
        "an argument of a class without a value",
        lambda _: parse_arguments("--model-arg", ["width"]),
        ValueError,
        "must read like name=value",
    ),
    Case(
        "a checkpoint that is not there",
        lambda desk: read_checkpoint(str(desk / "nowhere.ckpt")),
        FileNotFoundError,
        "there is no checkpoint",
    ),
    Case(
        "text in place of a checkpoint",
        lambda desk: read_checkpoint(str(desk / "text.ckpt")),
        ValueError,
        "is not a checkpoint of Lightning, or it is damaged. Save it again",
    ),
    Case(
        "the folder of a sharded checkpoint",
        lambda desk: read_checkpoint(str(desk / "none")),
        ValueError,
        "none is a folder, as.*consolidate_checkpoint",
    ),
    Case(
        "weights in place of a checkpoint",
        lambda desk: read_checkpoint(str(desk / "weights.pt")),
        ValueError,
        "`trainer.save_checkpoint` and `ModelCheckpoint` write such files",
    ),
    Case(
        "a path among the hyperparameters of a checkpoint",
        lambda desk: read_checkpoint(str(desk / "path.ckpt")),
        ValueError,
        r"Path, and only tensors.*`save_hyperparameters\(ignore=\[…\]\)`",
    ),
    Case(
        "one model in place of a list",
        lambda _: reference_from_models(Net(), ProbeBatch(IMAGES, [0, 1])),
        TypeError,
        r"Pass `\[model\]`",
    ),
    Case(
        "a reference of no models",
        lambda _: reference_from_models([], ProbeBatch(IMAGES, [0, 1])),
        ValueError,
        "at least one module, preferably three",
    ),
    Case(
        "images without labels or a probe",
        lambda _: reference_from_models([Net()], IMAGES),
        TypeError,
        r"Wrap tensors as `ProbeBatch\(images, labels\)`",
    ),
]

# What `lightning-saliency report` and `viewer.show` cannot show. The command prints the message in
# one line, and its exit code is 2.
RUNS = [
    Case("a run that is not there", reported("{}/nowhere"), RecordError, "pass the log folder of"),
    Case(
        "a folder without a recorded run",
        reported("{}/animals"),
        RecordError,
        r"A run with `SaliencyCallback\(record=True\)` writes it",
    ),
    Case(
        "a run that was not observed yet",
        reported("{}/runs/young"),
        RecordError,
        "The callback writes the first one when training begins",
    ),
    Case(
        "a run whose observations are damaged",
        reported("{}/runs/torn"),
        RecordError,
        r"2 damaged file\(s\). Copy the folder again, or pass another",
    ),
    Case(
        "a run whose `run.json` is damaged",
        reported("{}/runs/cut"),
        RecordError,
        "run.json is damaged.*Copy the folder again, or pass another",
    ),
    Case(
        "a remote run without a package for its store",
        reported("abfs://logs/run"),
        RecordError,
        "Install adlfs",
    ),
    Case(
        "a protocol that nobody knows",
        lambda _: show("s4://bucket/run"),
        RecordError,
        "pass a local path, or a URL that fsspec knows",
    ),
    Case(
        "a remote folder without a recorded run",
        lambda _: show("memory://nothing/here"),
        RecordError,
        "pass the log folder of one run",
    ),
    Case(
        "a budget in words",
        reported("{}/runs/whole", "--budget", "ten"),
        ValueError,
        "must be a size such as 500kB or 10MB",
    ),
    Case(
        "a budget that is too small",
        reported("{}/runs/whole", "--budget", "9kB"),
        ValueError,
        "Allow as much, or pass fewer runs",
    ),
    Case(
        "a folder in place of a file to write",
        reported("{}/runs/whole", "-o", "{}/none"),
        ValueError,
        "name a file, such as report.html in it",
    ),
    Case("nothing to show", lambda _: show(), ValueError, r"such as `show\('logs/version_0'\)`"),
    Case(
        "a list of runs to show",
        lambda desk: show([desk / "runs/whole"]),
        TypeError,
        r"`show\(first, second\)`, not as a list",
    ),
    Case(
        "a height with a unit",
        lambda desk: show(desk / "runs/whole", height="720px"),
        TypeError,
        "a number of pixels such as 720",
    ),
    Case(
        "a budget as a text",
        lambda desk: show(desk / "runs/whole", budget="10MB"),
        TypeError,
        "a number of bytes such as 10_000_000",
    ),
    Case(
        "a budget of nothing",
        lambda desk: show(desk / "runs/whole", budget=0),
        ValueError,
        "must be at least 1",
    ),
]

# What can be explained, but perhaps not as its name promises: warnings.
DOUBTS = [
    Case(
        "a model without a rectifier",
        asked(model=nn.Sequential(nn.Conv2d(3, 2, 8), nn.Tanh(), nn.Flatten())),
        SaliencyWarning,
        "is the plain gradient",
    ),
    Case(
        "weights that are NaN",
        answering(lambda logits: logits * torch.nan),
        SaliencyWarning,
        "Check the logits and the learning rate",
    ),
    Case(
        "a batch norm without statistics",
        asked(model=nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), Net())),
        SaliencyWarning,
        "Explain one image at a time",
    ),
]

GROUPS = {
    "Files and photos": FILES,
    "Probes": PROBES,
    "Classes": CLASSES,
    "Models and arguments": MODELS,
    "Models of references, and checkpoints": MODELS_OF_REFERENCES,
    "Runs to show": RUNS,
    "Doubts, told by a warning": DOUBTS,
}
CASES = [case for cases in GROUPS.values() for case in cases]


def answer(case: Case, desk: Path) -> str:
    """What a call raises or warns, in one line and without the folder of the test."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("error", SaliencyWarning)
        torch.manual_seed(0)
        with pytest.raises(case.error) as raised:
            case.call(desk)
    assert raised.type is case.error
    told = str(raised.value).replace(f"{desk}/", "").replace(str(Path.cwd()), "/home/you")
    return re.sub(r" at 0x[0-9a-f]+", "", " ".join(told.split()))


def table(desk: Path) -> str:
    """All of them, in the words that users read."""
    lines = [
        "# Errors and what to do",
        "",
        "What bad input is answered with. `TypeError`: a wrong type or dtype; `ValueError`: a",
        "wrong shape or value; `SaliencyError`: a model that cannot be explained; `RecordError`: a",
        "recorded run that cannot be read. A message names the argument, what is required, what",
        "was got and the remedy. A command prints it in one line, and its exit code is 2. Each row",
        "is a test in",
        "[`test_bad_input.py`](../tests/docs/test_bad_input.py), which writes this page.",
    ]
    for title, cases in GROUPS.items():
        lines += ["", f"## {title}", "", "| given | raised | with |", "|---|---|---|"]
        for case in cases:
            told = answer(case, desk).replace("|", "\\|")
            lines.append(f"| {case.what} | `{case.error.__name__}` | {told} |")
    return "\n".join(lines) + "\n"


def test_the_table_of_errors_has_a_row_for_each():
    """What other packages say in a message changes with their versions; ours is compared."""
    rows = [line.split(" | ", 2) for line in PAGE.read_text().splitlines() if " | `" in line]
    assert [row[0].removeprefix("| ") for row in rows] == [case.what for case in CASES]
    for case, (_, error, told) in zip(CASES, rows, strict=True):
        assert error == f"`{case.error.__name__}`"
        assert re.search(case.says, told), f"{case.what}: run tests/docs/test_bad_input.py"


def test_there_are_more_than_fifty():
    assert len({case.what for group in GROUPS.values() for case in group}) > 50


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_each_bad_input_is_told_what_to_do(case: Case, desk: Path):
    assert re.search(case.says, answer(case, desk))


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1] / "support"))
    with tempfile.TemporaryDirectory() as folder:
        PAGE.write_text(table(lay_out(Path(folder))))
