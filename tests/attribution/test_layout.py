"""Convolutions are lent to a model in another memory format; nothing else may notice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from networks import Small, roughen
from oracle import relative_error
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lightning_saliency import explain
from lightning_saliency.attribution import layout
from lightning_saliency.attribution.logits import call_plainly

pytestmark = [
    pytest.mark.filterwarnings("ignore:no rectifier"),
    pytest.mark.usefixtures("one_thread"),
]

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Noting(Small):
    """Notes in which format its weights and its activations are when it is called."""

    def __init__(self) -> None:
        super().__init__(torch.relu)
        self.formats: list[tuple[bool, bool]] = []

    def forward(self, images: Tensor) -> Tensor:
        x = self.first(images)
        FORMATS.append((is_channels_last(self.first.weight), is_channels_last(x)))
        return self.head(self.act(self.second(self.act(self.norm(x)))).mean(dim=(2, 3)))


FORMATS: list[tuple[bool, bool]] = []


def is_channels_last(tensor: Tensor) -> bool:
    return tensor.is_contiguous(memory_format=torch.channels_last)


def is_lent(model: nn.Module, images: Tensor = IMAGES) -> bool:
    return layout.channels_last(call_plainly, model, images) is not None


@pytest.fixture(autouse=True)
def _no_formats():
    FORMATS.clear()


@pytest.fixture(autouse=True)
def _narrow_networks_too(monkeypatch):
    monkeypatch.setattr(layout, "_WIDE", 1)


def test_narrow_networks_are_called_as_they_are(monkeypatch):
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 4, 3))
    monkeypatch.setattr(layout, "_WIDE", 64)
    assert is_lent(model)
    assert not is_lent(nn.Sequential(nn.Conv2d(3, 63, 3), nn.ReLU(), nn.Conv2d(63, 4, 3)))


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Call models with their own weights from now on."""
    return lambda: monkeypatch.setattr(layout, "_pays", lambda _: False)


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "densenet121", "shufflenet_v2_x1_0"]
)
def test_maps_are_the_plain_ones_and_the_same_bits_each_time(name, plainly):
    torch.manual_seed(0)
    model = roughen(torchvision.models.get_model(name, num_classes=4)).eval()
    images, rules = torch.randn(2, 3, 64, 64), ("gradient", "guided_backprop", "deconvnet")
    assert is_lent(model, images)
    first, second = (explain(model, images, [[0, 1]] * 2, rules=rules) for _ in range(2))
    assert images.shape[1:] not in layout._misfits.get(model, ())
    plainly()
    plain = explain(model, images, [[0, 1]] * 2, rules=rules)
    assert torch.allclose(first.logits, plain.logits, rtol=1e-5, atol=1e-5)
    assert str(first.coverage) == str(plain.coverage)
    for rule in rules:
        assert torch.equal(first[rule], second[rule])
        assert first[rule].is_contiguous()
        assert relative_error(first[rule], plain[rule]) <= 1e-5


def test_the_model_sees_copies_and_live_weights_keep_everything():
    model = Noting()
    weight, before = model.first.weight, model.first.weight.detach().clone()
    found = (weight.data_ptr(), weight.stride(), weight._version, weight.requires_grad)
    explain(model, IMAGES)
    assert FORMATS == [(True, True)]
    assert model.first.weight is weight
    assert (weight.data_ptr(), weight.stride(), weight._version, weight.requires_grad) == found
    assert torch.equal(weight, before)
    assert list(dict(model.named_parameters())) == list(dict(Noting().named_parameters()))


def test_a_forward_of_the_users_gets_them_too_even_if_it_holds_the_model():
    model = Noting()
    explain(model, IMAGES, forward=lambda _, images: model(images))
    assert FORMATS == [(True, True)]


class Viewing(Noting):
    """Flattens by `view`, which needs the usual order in memory."""

    def forward(self, images: Tensor) -> Tensor:
        super().forward(images)
        return self.first(images).view(len(images), -1)[:, :3]


class Striding(Noting):
    """Reads memory by strides, which raises no error in another order."""

    def forward(self, images: Tensor) -> Tensor:
        super().forward(images)
        return self.first(images).as_strided((len(images), 3), (6 * 16 * 16, 1))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


class Custom(Noting):
    """Has an operation that may read raw memory, for all that is known."""

    def forward(self, images: Tensor) -> Tensor:
        return Double.apply(super().forward(images))


class Clamping(Noting):
    """Writes to the weights that it was made with, past the layer that owns them."""

    def __init__(self) -> None:
        super().__init__()
        self.made = [self.first.weight]

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.made[0].clamp_(-0.01, 0.01)
        return super().forward(images)


@pytest.mark.parametrize("kind", [Viewing, Striding, Custom, Clamping])
def test_what_depends_on_the_format_is_called_plainly_and_only_once_more(kind, plainly):
    torch.manual_seed(0)
    model = kind()
    first = explain(model, IMAGES, rules=("gradient",))
    assert FORMATS == [(True, True), (False, False)]
    second = explain(model, IMAGES, rules=("gradient",))
    assert FORMATS[2:] == [(False, False)]  # The second time, this is known.
    plainly()
    plain = explain(model, IMAGES, rules=("gradient",))
    assert torch.equal(first["gradient"], plain["gradient"])
    assert torch.equal(second["gradient"], plain["gradient"])


def test_an_error_that_may_be_gone_the_next_time_is_not_remembered():
    calls = []

    def forward(model: nn.Module, images: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("the disk is busy")
        return model(images)

    model = Noting()
    explain(model, IMAGES, forward=forward)
    explain(model, IMAGES, forward=forward)
    assert FORMATS == [(False, False), (True, True)]


class Own(nn.Conv2d):
    """A layer that may do anything with its weight."""


def _tied() -> nn.Module:
    first, second = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)
    second.weight = first.weight
    return nn.Sequential(first, second)


def _hooked() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    model[0].register_forward_hook(lambda module, *_: None)
    return model


def _hooked_backward() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())
    model[0].register_full_backward_hook(lambda *_: None)
    return model


def _compiled_in_place() -> nn.Module:
    model = nn.Conv2d(3, 3, 3)
    model.compile(backend="eager")
    return model


def _own_weight() -> nn.Module:
    class Weight(nn.Parameter):
        """May do anything when it is used."""

    model = nn.Conv2d(3, 3, 3)
    model.weight = Weight(model.weight.detach())
    return model


class OwnScript(torch.jit.ScriptModule):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3)


def _shared() -> nn.Module:
    return nn.Conv2d(3, 3, 3).share_memory()


CONV = nn.Conv2d(3, 3, 3)
EXCLUDED: dict[str, Callable[[], nn.Module]] = {
    "no convolution": lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 3)),
    "a subclass": lambda: Own(3, 3, 3),
    "tied weights": _tied,
    "a weight of a class of its own": _own_weight,
    "a hook": _hooked,
    "a backward hook": _hooked_backward,
    "memory of several processes": _shared,
    "a script": lambda: torch.jit.script(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU())),
    "a script of a class of its own": OwnScript,
    "a trace": lambda: torch.jit.trace(nn.Conv2d(3, 3, 3), IMAGES),
    "a parametrised weight": lambda: parametrizations.weight_norm(nn.Conv2d(3, 3, 3)),
    "data parallel": lambda: nn.DataParallel(nn.Conv2d(3, 3, 3)),
    "double precision": lambda: nn.Conv2d(3, 3, 3).double(),
    "half precision": lambda: nn.Conv2d(3, 3, 3).bfloat16(),
    "channels last already": lambda: nn.Conv2d(3, 3, 3).to(memory_format=torch.channels_last),
    "a compiled module": lambda: torch.compile(nn.Conv2d(3, 3, 3)),
    "a module compiled in place": _compiled_in_place,
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("case", EXCLUDED)
def test_it_is_left_alone_wherever_it_could_be_wrong(case):
    assert is_lent(CONV)
    assert not is_lent(EXCLUDED[case]())


def test_other_precisions_and_images_that_others_take_part_in_are_left_alone():
    assert not is_lent(CONV, IMAGES.double())
    assert not is_lent(CONV, IMAGES.to("meta"))


def test_weights_of_inference_mode_are_not_lent():
    with torch.inference_mode():
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    assert not is_lent(model)
