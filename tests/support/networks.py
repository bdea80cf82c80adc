"""Small seeded networks, each with something that trips up a tool that hooks modules."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Small(nn.Module):
    """Two convolutions with an activation, then three logits."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 3)
        self.act = act

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(images)))
        return self.head(self.act(self.second(x)).mean(dim=(2, 3)))


class Residual(Small):
    """Uses the input of the rectifier a second time, on a path around it."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.first(images))
        x = self.act(x) + 0.5 * x
        return self.head((self.act(self.second(x)) - x).mean(dim=(2, 3)))


class Gated(Small):
    """Has a squeeze-and-excite gate, whose sigmoid keeps its own gradient."""

    def forward(self, images: Tensor) -> Tensor:
        x = self.act(self.norm(self.first(images)))
        x = x * torch.sigmoid(self.second(x).mean(dim=(2, 3), keepdim=True))
        return self.head((x * torch.tanh(x)).mean(dim=(2, 3)))


class Normalised(Small):
    """Calls `F.normalize`, which clamps to an epsilon and is no rectifier."""

    def forward(self, images: Tensor) -> Tensor:
        x = F.normalize(self.act(self.first(images)), dim=1)
        return self.head(F.normalize(self.second(x), dim=1).mean(dim=(2, 3)))


class Bounded(Small):
    """Clamps the input to [0, 1], which is no rectifier."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.clamp(0, 1))


class ParameterSide(Small):
    """Rectifies a parameter, from which no path leads to the images."""

    def __init__(self) -> None:
        super().__init__(torch.tanh)
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + F.relu(self.bias) * F.relu(-self.bias)


class Mixed(Small):
    """Rectifies by functions, in place, and with one module used several times."""

    def __init__(self) -> None:
        super().__init__(nn.ReLU())
        self.in_place = nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        x = self.in_place(self.norm(self.first(images)))
        x = F.relu(self.second(x)) + x
        x = torch.relu_(self.second(x)) + self.act(x) * self.act(-x + 1)
        return self.head(F.relu(self.second(x), inplace=True).mean(dim=(2, 3)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x.clone(), inplace=True),
    "relu method": lambda x: x.relu(),
    "relu6": F.relu6,
    "hardtanh 0..2": lambda x: F.hardtanh(x, 0.0, 2.0),
    "hardtanh -1..1": F.hardtanh,
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "leaky_relu": F.leaky_relu,
    "leaky_relu, negative slope": lambda x: F.leaky_relu(x, -0.3),
    "prelu, negative slope": lambda x: F.prelu(x, torch.tensor([-0.3], dtype=x.dtype)),
    "rrelu": lambda x: F.rrelu(x, training=False),
    "elu": F.elu,
    "elu in place": lambda x: F.elu(x.clone(), inplace=True),
    "celu": lambda x: F.celu(x, 0.7),
    "selu": F.selu,
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "silu in place": lambda x: F.silu(x.clone(), inplace=True),
    "hardswish": F.hardswish,
    "mish": F.mish,
    "softplus": F.softplus,
    "clamp(min=0)": lambda x: x.clamp(min=0),
    "clamp_(0)": lambda x: x.clone().clamp_(0),
    "clamp_min(0)": lambda x: torch.clamp_min(x, 0),
    "clip(0)": lambda x: torch.clip(x, 0),
    "clamp(0, 1)": lambda x: x.clamp(0, 1),
    "clamp(max=1)": lambda x: x.clamp(max=1),
    "clamp(min=0.1)": lambda x: x.clamp(min=0.1),
    "clamp to a tensor": lambda x: x.clamp(min=torch.zeros((), dtype=x.dtype)),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "hardsigmoid": F.hardsigmoid,
    "softmax": lambda x: x.softmax(dim=1),
}


class RandomNetwork(nn.Module):
    """A directed acyclic graph of activations, convolutions, sums, products and gates."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.channels = 4
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.convs = nn.ModuleList(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
        self.head = nn.Linear(4, 3)
        kinds = ("act", "act", "act", "conv", "add", "mul", "gate", "shared")
        self.steps = [
            (draw.choice(kinds), draw.random(), draw.random(), draw.choice(list(ACTIVATIONS)))
            for _ in range(draw.randint(4, 12))
        ]

    def forward(self, images: Tensor) -> Tensor:
        made = [self.stem(images)]
        for number, (kind, first, second, name) in enumerate(self.steps):
            a, b = made[int(first * len(made))], made[int(second * len(made))]
            act = ACTIVATIONS[name]
            made.append(
                {
                    "act": lambda a=a, act=act: act(a),
                    "conv": lambda a=a, n=number: self.convs[n % 3](a),
                    "add": lambda a=a, b=b: a - 0.5 * b,
                    "mul": lambda a=a, b=b: a * b.tanh(),
                    "gate": lambda a=a, b=b: a * b.sigmoid(),
                    "shared": lambda a=a, act=act: act(a) + act(-a) * 0.3 + a,
                }[kind]()
            )
        return self.head(sum(made[-3:], made[0]).mean(dim=(2, 3)))


def roughen(model: nn.Module) -> nn.Module:
    """Change a freshly initialised network so that every branch contributes to its maps.

    Batch norms get random statistics, because means of 0 and variances of 1 would hide mistakes in
    scale and sign. Constant parameters get noise: many networks start with a scale of 0 or 1e-6, or
    with a head of zeros, which would leave nothing to test.
    """
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                shape = module.running_mean.shape
                module.running_mean.copy_(0.1 * torch.randn(shape, generator=generator))
                module.running_var.copy_(0.5 + torch.rand(shape, generator=generator))
        for parameter in model.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model
