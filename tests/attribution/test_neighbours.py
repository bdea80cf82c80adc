"""Mistakes of other packages, with one test for each that this package does not make it.

Captum is installed, so its behaviour is demonstrated. What the other packages do was read in their
sources; each test names the mistake and shows that this package behaves differently.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr import Deconvolution, GuidedBackprop
from matrix import CLASSES, Shapes, Touchy
from networks import Residual, roughen
from oracle import oracle, relative_error
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from training import callback, fit, pictures, shown

from lightning_saliency import ProbeBatch, SaliencyCallback, explain

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:Setting backward hooks:UserWarning"),
    pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require:UserWarning"),
]

TARGET = torch.tensor([[2]])
BOTH: tuple[Any, ...] = ("guided_backprop", "gradient")


class Two(nn.Module):
    """Two ReLU modules between linear layers, which Captum explains correctly too."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3))
        self.norm, self.act, self.head = nn.BatchNorm2d(4), nn.ReLU(), nn.Linear(4, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.act(self.norm(self.body(images))).mean(dim=(2, 3)))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return roughen(Two().double()).train()


@pytest.fixture
def images() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, 3, 12, 12, generator=generator, dtype=torch.float64)


def plain_gradient(model: nn.Module, images: Tensor, target: int) -> Tensor:
    """Compute the gradient with autograd alone."""
    leaf = images.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, target].sum(), leaf)[0]


# --- FlashTorch


def test_flashtorch_multiplies_by_the_activation_we_by_its_mask():
    """A ReLU that outputs 3 has the mask 1, so a gradient of 2 stays 2. FlashTorch makes it 6."""

    class Doubled(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 2 * F.relu(images.flatten(1))

    found = explain(Doubled(), torch.full((1, 1, 1, 1), 3.0))
    assert found["guided_backprop"].item() == 2.0


def test_flashtorch_explains_the_predicted_class_we_the_one_asked_for(model, images):
    model.eval()
    weakest = model(images).argmin(dim=1)
    found = explain(model, images, weakest, rules=("gradient",))
    assert torch.equal(found.targets[:, 0], weakest)
    for i, target in enumerate(weakest.tolist()):
        expected = plain_gradient(model, images[i : i + 1], target)
        torch.testing.assert_close(found["gradient"][i, 0], expected[0])


def test_flashtorch_leaves_its_hooks_we_leave_none(model, images):
    """The plain gradient is plain in the same call, in the next one, and outside of `explain`."""
    model.eval()
    before = plain_gradient(model, images, 1)
    both = explain(model, images, 1, rules=BOTH)  # guided backprop runs first
    after = explain(model, images, 1, rules=("gradient",))
    for found in (
        both["gradient"][:, 0],
        after["gradient"][:, 0],
        plain_gradient(model, images, 1),
    ):
        assert torch.equal(found, before)
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._backward_hooks


def test_flashtorch_returns_the_first_image_we_all_of_them(model, images):
    together = explain(model, images, 1)["guided_backprop"]
    assert together.shape == (3, 1, 3, 12, 12)
    for i in range(3):
        alone = explain(model, images[i : i + 1], 1)["guided_backprop"]
        torch.testing.assert_close(together[i], alone[0])


# --- Captum


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torchvision.models.resnet18(num_classes=5), id="resnet18"),
        pytest.param(lambda: torchvision.models.squeezenet1_1(num_classes=5), id="squeezenet1_1"),
        pytest.param(lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=5), id="shufflenet"),
        pytest.param(lambda: torchvision.models.mnasnet0_5(num_classes=5), id="mnasnet0_5"),
        pytest.param(
            lambda: nn.Sequential(
                torchvision.models.vgg.make_layers([8, "M", 16, 16, "M"], batch_norm=True),
                nn.Flatten(),
                nn.Linear(16 * 16 * 16, 5),
            ),
            id="vgg-like",
        ),
    ],
)
def test_captum_agrees_where_every_relu_is_a_module_of_its_own(make):
    torch.manual_seed(0)
    model = roughen(make().double()).eval()
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    found = explain(model, images, 2, rules=("guided_backprop", "deconvnet"))
    for rule, method in (("guided_backprop", GuidedBackprop), ("deconvnet", Deconvolution)):
        theirs = method(model).attribute(images, target=2)
        assert relative_error(found[rule][:, 0], theirs) <= 1e-9


# What Captum returns. `least` is how far that is at least from guided backprop, relative to the
# largest value of the latter.
PLAIN, WRONG = "the plain gradient", "neither"


@pytest.mark.parametrize(
    ("name", "size", "theirs_is", "least"),
    [
        pytest.param("googlenet", 64, PLAIN, 0.5, id="googlenet: F.relu"),
        pytest.param("inception_v3", 75, PLAIN, 0.5, id="inception_v3: F.relu"),
        pytest.param("densenet121", 64, WRONG, 0.1, id="densenet121: one F.relu"),
        pytest.param("mobilenet_v2", 64, PLAIN, 0.5, id="mobilenet_v2: ReLU6"),
        pytest.param("efficientnet_b0", 64, PLAIN, 0.5, id="efficientnet_b0: SiLU"),
    ],
)
def test_captum_misses_rectifiers_that_are_not_relu_modules(name, size, theirs_is, least):
    torch.manual_seed(0)
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model = torchvision.models.get_model(name, weights=None, num_classes=5, **extra)
    model = roughen(model).double().eval()
    images = torch.randn(1, 3, size, size, dtype=torch.float64)
    expected = oracle(model, images, TARGET, BOTH)
    found = explain(model, images, TARGET, rules=BOTH)
    theirs = GuidedBackprop(model).attribute(images, target=2)[:, None]
    assert relative_error(found["guided_backprop"], expected["guided_backprop"]) <= 1e-9
    assert relative_error(theirs, expected["guided_backprop"]) > least
    is_plain = relative_error(theirs, expected["gradient"]) <= 1e-9
    assert is_plain == (theirs_is == PLAIN)


def test_captum_clamps_the_path_around_a_relu_we_do_not():
    """If the input of a ReLU is used twice, the gradient of the other path must not be clamped."""

    class Skipping(Residual):
        def __init__(self) -> None:
            super().__init__(nn.ReLU())

    torch.manual_seed(0)
    model = roughen(Skipping().double()).eval()
    images = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    expected = oracle(model, images, TARGET, ("guided_backprop",))["guided_backprop"]
    assert relative_error(explain(model, images, TARGET)["guided_backprop"], expected) <= 1e-9
    theirs = GuidedBackprop(model).attribute(images, target=2)[:, None]
    assert relative_error(theirs, expected) > 0.05


class Failing(Two):
    def forward(self, images: Tensor) -> Tensor:
        super().forward(images)
        raise FloatingPointError("as planned")


def test_captum_leaves_requires_grad_after_an_error_we_do_not():
    images = torch.randn(1, 3, 8, 8)
    with pytest.raises(FloatingPointError, match="as planned"):
        explain(Failing(), images)
    assert not images.requires_grad
    with pytest.raises(FloatingPointError, match="as planned"):
        GuidedBackprop(Failing()).attribute(images, target=0)
    assert images.requires_grad


def test_captum_s_hooks_are_not_seen_by_compiled_code_our_rules_are(model, images):
    model.eval()
    expected = explain(model, images, 1, rules=BOTH)
    compiled = torch.compile(model, backend="aot_eager")
    compiled(images.clone().requires_grad_()).sum().backward()  # as a training step would
    found = explain(compiled, images, 1)["guided_backprop"]
    torch.testing.assert_close(found, expected["guided_backprop"], rtol=0, atol=0)
    theirs = GuidedBackprop(compiled).attribute(images, target=1)[:, None]
    assert relative_error(theirs, expected["gradient"]) <= 1e-9  # Captum returns the plain gradient
    assert relative_error(theirs, expected["guided_backprop"]) > 0.1


# --- pytorch-grad-cam


def test_pytorch_grad_cam_swaps_the_relus_for_new_ones_we_touch_none(model, images):
    calls: list[int] = []
    model.act.register_forward_hook(lambda *_: calls.append(1))
    before = list(model.modules())
    explain(model, images, 0)
    assert all(a is b for a, b in zip(model.modules(), before, strict=True))
    assert model.body[1].inplace
    assert not model.act.inplace
    calls.clear()
    model(images)
    assert calls == [1]  # the user's hook is still there


def test_pytorch_grad_cam_leaves_the_model_in_eval_we_as_it_was(model, images):
    model.norm.eval()
    explain(model, images, 0)
    assert model.training
    assert model.act.training
    assert not model.norm.training


def test_pytorch_grad_cam_adds_up_maps_on_one_tensor_ours_stand_alone(model, images):
    images.requires_grad_()
    first, again = explain(model, images, 0), explain(model, images, 1)
    fresh = explain(model, images.detach().clone(), 1)
    assert torch.equal(again["guided_backprop"], fresh["guided_backprop"])
    assert not torch.equal(again["guided_backprop"], first["guided_backprop"])
    assert images.grad is None


# --- MONAI


def test_monai_finds_activations_by_name_we_by_what_they_compute(images):
    """A sigmoid named `relu` keeps its gradient, and a ReLU with another name follows the rule."""

    class Misnamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.swish = nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.ReLU()

        def forward(self, images: Tensor) -> Tensor:
            return (self.relu(self.conv(images)) * self.swish(self.conv(images))).mean(dim=(2, 3))

    torch.manual_seed(0)
    model = Misnamed().double()
    found = explain(model, images, TARGET.expand(3, 1))
    assert found.coverage.guided == {"Relu": 1}
    assert found.coverage.left_alone == {"Sigmoid": 1}
    expected = oracle(model, images, TARGET.expand(3, 1), ("guided_backprop",))["guided_backprop"]
    assert relative_error(found["guided_backprop"], expected) <= 1e-9


def test_monai_trains_a_frozen_batch_norm_again_we_leave_it_frozen(model, images):
    model.norm.eval()
    statistics = model.norm.running_mean.clone()
    explain(model, images)
    model(images)  # the next step of training
    assert torch.equal(model.norm.running_mean, statistics)


# --- Bolts' ConfusedLogitCallback


def test_bolts_fills_the_gradients_of_the_weights_we_leave_them(model, images):
    explain(model, images)
    assert all(p.grad is None for p in model.parameters())
    model(images).sum().backward()  # the first half of a step with accumulated gradients
    kept = [p.grad.clone() for p in model.parameters()]
    explain(model, images)
    assert all(torch.equal(p.grad, k) for p, k in zip(model.parameters(), kept, strict=True))


def test_bolts_logs_all_images_under_one_tag_and_step_we_each_under_its_own(tmp_path):
    probe = ProbeBatch.from_dataset(Shapes(16, augment=False), count=2, names=["left", "right"])
    fit(tmp_path, callback(probe=probe), max_epochs=2)
    found = pictures(tmp_path)
    for name in probe.names:
        by_step = found[f"saliency/{name}"]
        assert len(by_step) == 3  # once untrained, then after each of two epochs
        assert len(set(by_step.values())) == 3


# --- tf-explain


def test_tf_explain_takes_one_class_we_any_number(tmp_path):
    ours = callback(targets=[0, 3, 1])
    fit(tmp_path, ours, max_epochs=1)
    for snapshot in shown(ours):
        assert snapshot.targets.tolist() == [[0, 3, 1]]


def test_tf_explain_draws_every_epoch_we_at_an_interval(tmp_path):
    ours = callback(every_n_epochs=2, at_start=False)
    fit(tmp_path, ours, max_epochs=4)
    assert [snapshot.caption for snapshot in shown(ours)] == ["epoch 1", "epoch 3"]


def test_tf_explain_opens_a_log_of_its_own_we_use_the_trainer_s(tmp_path):
    fit(tmp_path, callback(), max_epochs=1)
    assert len(list(tmp_path.rglob("events.*"))) == 1
    assert any(tag.startswith("saliency/") for tag in pictures(tmp_path))


# --- FoXAI's WandBCallback


def test_foxai_knows_one_logger_we_all_of_the_trainer_s(tmp_path):
    loggers = [TensorBoardLogger(tmp_path / name, name="", version="") for name in ("one", "two")]
    fit(tmp_path, callback(), max_epochs=1, logger=loggers)
    first, second = pictures(tmp_path / "one"), pictures(tmp_path / "two")
    assert any(tag.startswith("saliency/") for tag in first)
    assert first == second


class Counting(DataLoader[Any]):
    """Count how often an iteration is started."""

    started = 0

    def __iter__(self) -> Any:
        self.started += 1
        return super().__iter__()


@pytest.mark.filterwarnings("ignore:.*shuffling enabled:UserWarning")
def test_foxai_iterates_the_loader_again_and_its_probes_move_ours_stay(tmp_path):
    """The trainer's loader is not iterated by us, so that shuffling does not move the probe."""

    def run(*callbacks: Any) -> Counting:
        loader = Counting(Shapes(16, augment=False), batch_size=8, shuffle=True)
        fit(tmp_path, *callbacks, max_epochs=2, val=loader, logger=False)
        return loader

    ours = SaliencyCallback(targets="label", tile_size=24)
    assert run(ours).started == run().started
    first = ours.probe.fingerprint
    run(again := SaliencyCallback(targets="label", tile_size=24))
    assert again.probe.fingerprint == first


def test_foxai_explains_an_image_and_class_at_a_time_we_share_the_forward_pass(model, images):
    count = mock.Mock()  # A list of the hook would be given back as it was.

    def hook(module: nn.Module, args: tuple[Tensor]) -> None:
        count(len(args[0]))

    model.register_forward_pre_hook(hook)
    explain(model, images, rules=BOTH)
    assert count.mock_calls == [mock.call(3)]  # for three images, four classes and two rules


class InPlace(Touchy):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def features(self, images: Tensor) -> Tensor:
        return self.act(self.norm1(self.conv1(images)))


def test_foxai_sets_inplace_false_for_good_we_leave_it(tmp_path):
    module = InPlace()
    ours = callback()
    fit(tmp_path, ours, module=module, max_epochs=1)
    assert len(shown(ours)) == 2
    assert module.act.inplace
