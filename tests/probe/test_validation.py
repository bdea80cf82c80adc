"""What a probe keeps of its arguments: plain strings, tensors and numbers, or an error."""

from __future__ import annotations

import enum
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from lightning_saliency import ProbeBatch
from lightning_saliency.errors import SaliencyWarning

IMAGES = torch.rand(2, 3, 8, 8)


class Meta(Tensor):
    """A tensor that carries metadata, as MONAI's ``MetaTensor`` does."""


class Animal(str, enum.Enum):
    CAT = "cat"
    DOG = "dog"


class Colour(str, enum.Enum):
    """What `enum.StrEnum` is, which Python 3.10 lacks."""

    RED = "red"
    BLUE = "blue"

    __str__ = str.__str__


def make_probe() -> ProbeBatch:
    """A probe of which every argument is of a subclass."""
    masks = {
        Colour.RED: tv_tensors.Mask(torch.ones(2, 8, 8).bool()),
        np.str_("blue"): torch.zeros(2, 8, 8).bool().as_subclass(Meta),
    }
    return ProbeBatch(
        IMAGES.as_subclass(Meta),
        torch.tensor([1, 0]).as_subclass(Meta),
        class_names=np.array(["cat", "dog"]),
        names=[Animal.CAT, np.str_("other")],
        masks=masks,
        mean=np.array([0.5, 0.5, 0.5], dtype=np.float32),
        std=torch.ones(3).as_subclass(Meta),
    )


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for pair in value.items() for part in pair for leaf in leaves(part)]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def test_what_is_kept_is_plain(tmp_path: Any):
    probe = make_probe()
    assert {type(leaf) for leaf in leaves(probe.state())} == {Tensor, str, float}
    assert probe.names == ("cat", "other")
    assert probe.class_names == ("cat", "dog")
    assert sorted(probe.masks) == ["blue", "red"]
    assert (probe.mean, probe.std) == ((0.5,) * 3, (1.0,) * 3)
    torch.save(probe.state(), tmp_path / "state.ckpt")
    read = ProbeBatch.from_state(torch.load(tmp_path / "state.ckpt", weights_only=True))
    assert read.fingerprint == probe.fingerprint


def test_images_of_a_subclass_in_a_batch_become_plain():
    probe = ProbeBatch.from_batch(
        (tv_tensors.Image(IMAGES), torch.tensor([1, 0]).as_subclass(Meta))
    )
    assert (type(probe.images), type(probe.labels)) == (Tensor, Tensor)


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["a", "b", "c"], id="list"),
        pytest.param(np.array(["a", "b", "c"]), id="array"),
        pytest.param((name for name in "abc"), id="generator"),
        pytest.param({2: "c", 0: "a", 1: "b"}, id="dict-in-any-order"),
        pytest.param({np.int64(1): "b", np.int64(0): "a", np.int64(2): "c"}, id="numpy-keys"),
        pytest.param({"b": 1, "c": 2, "a": 0}, id="class-to-index"),
    ],
)
def test_class_names(names: Any):
    assert ProbeBatch(IMAGES, class_names=names).class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("known", "error", "message"),
    [
        pytest.param({"class_names": {"a", "b"}}, TypeError, "A set has no order", id="set"),
        pytest.param({"class_names": "cat"}, TypeError, "one name per item", id="string"),
        pytest.param({"class_names": 3}, TypeError, "one name per item", id="number"),
        pytest.param({"class_names": [1, 2]}, TypeError, r"got \[1, 2\]", id="numbers"),
        pytest.param({"class_names": {0: "a", 2: "b"}}, ValueError, "the keys 0, 2", id="gap"),
        pytest.param({"class_names": {"x": "a"}}, ValueError, "the keys 'x'", id="no-numbers"),
        pytest.param({"class_names": {"a": 0, "b": 0}}, ValueError, "the keys 'a', 'b'", id="0-0"),
        pytest.param({"names": {"a": 0, "b": 1}}, TypeError, "one name per item", id="names-dict"),
        pytest.param({"masks": [IMAGES[:, 0] > 0]}, TypeError, r"`masks=\{'object'", id="masks"),
        pytest.param({"masks": {1: IMAGES[:, 0] > 0}}, TypeError, r"keys \[1\]", id="mask-key"),
        pytest.param({"mean": 0.5, "std": float("nan")}, ValueError, "finite value", id="nan"),
        pytest.param({"mean": [0.5, float("inf"), 0], "std": 1}, ValueError, "finite", id="inf"),
        pytest.param({"mean": 0.5, "std": 0}, ValueError, "`std` above 0", id="zero"),
        pytest.param({"mean": [0.5, 0.5], "std": 1}, ValueError, "each of 3 channel", id="two"),
        pytest.param({"mean": "imagenet", "std": "imagenet"}, TypeError, "numbers", id="word"),
        pytest.param({"mean": {0: 1}, "std": 1}, TypeError, "must be numbers", id="dict"),
    ],
)
def test_bad_arguments_are_refused(known: Any, error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        ProbeBatch(IMAGES, **known)


def test_one_number_is_the_mean_of_all_channels():
    probe = ProbeBatch(IMAGES, mean=0.5, std=np.float64(2))
    assert (probe.mean, probe.std) == ((0.5,) * 3, (2.0,) * 3)


def test_no_masks_may_be_none():
    assert ProbeBatch(IMAGES, masks=None).masks == {}


@pytest.mark.parametrize("shape", [(2, 32, 24, 3), (2, 8, 8, 4), (2, 28, 28, 1)])
def test_images_whose_channels_seem_to_come_last_are_said(shape: tuple[int, ...]):
    with pytest.warns(SaliencyWarning, match=r"look like \(N, H, W, C\).*permute\(0, 3, 1, 2\)"):
        ProbeBatch(torch.rand(shape))


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (2, 4, 8, 4), (2, 8, 64, 1), (2, 512, 7, 7)])
def test_other_shapes_are_accepted_in_silence(shape: tuple[int, ...]):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProbeBatch(torch.rand(shape))
