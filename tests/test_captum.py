"""Captum's methods as rules: equal to Captum's own call, in an explanation and in a fit."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from typing import Any

import captum.attr as attr
import pytest
import torch
import yaml
from captum.attr._utils.lrp_rules import EpsilonRule
from matrix import CLASSES, Touchy, probe
from torch import Tensor, nn
from torchvision.models import resnet18
from training import fit, loader, make_module, one_image, quiet_trainer, shown

from lightning_saliency import ProbeBatch, SaliencyCallback, SaliencyError, explain
from lightning_saliency.captum import rule
from lightning_saliency.cli import main
from lightning_saliency.functional.maps import shrink_strongest_channel
from lightning_saliency.record.run import open_run

pytestmark = [pytest.mark.usefixtures("one_thread")]


@pytest.fixture(autouse=True)
def _any_algorithm(monkeypatch):
    """A trainer with `deterministic=True` leaves torch so, and DeepLift has no such algorithm."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before)


IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([2, 0, 1])
BASELINE = torch.zeros(1, 3, 16, 16)
DISTRIBUTION = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
HALVES = (torch.arange(16) // 8).repeat(1, 3, 16, 1)


def network() -> nn.Sequential:
    """A network of modules, as those methods want it that hook them."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 5, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(320, 3),
    ).eval()
    model[5].rule = EpsilonRule()  # LRP has no rule of its own for this layer.
    return model


# Options of the constructor and of `attribute`, for each class that has a target.
WHOLE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "IntegratedGradients": ({"multiply_by_inputs": False}, {"n_steps": 5, "baselines": BASELINE}),
    "Saliency": ({}, {"abs": False}),
    "InputXGradient": ({}, {}),
    "GuidedBackprop": ({}, {}),
    "Deconvolution": ({}, {}),
    "DeepLift": ({}, {"baselines": BASELINE.expand(3, -1, -1, -1)}),
    "DeepLiftShap": ({}, {"baselines": DISTRIBUTION}),
    "GradientShap": ({}, {"baselines": DISTRIBUTION, "n_samples": 4, "stdevs": 0.1}),
    "LRP": ({}, {}),
    "Occlusion": ({}, {"sliding_window_shapes": (3, 8, 8), "strides": (3, 8, 8)}),
    "FeatureAblation": ({}, {"feature_mask": HALVES}),
    "FeaturePermutation": ({}, {"feature_mask": HALVES}),
    "ShapleyValueSampling": ({}, {"feature_mask": HALVES, "n_samples": 2}),
    "KernelShap": ({}, {"feature_mask": HALVES, "n_samples": 4}),
}
LAYERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "LayerGradCam": ({}, {"relu_attributions": True}),
    "LayerGradientXActivation": ({}, {}),
    "LayerIntegratedGradients": ({}, {"n_steps": 4}),
    "LayerConductance": ({}, {"n_steps": 4}),
    "LayerDeepLift": ({}, {}),
    "LayerGradientShap": ({}, {"baselines": DISTRIBUTION, "n_samples": 2}),
    "InternalInfluence": ({}, {"n_steps": 4}),
}


def direct(method: Any, model: nn.Module, constructor: Any, options: Any, *layer: Any) -> Tensor:
    """Captum's own call, with the random numbers that rules draw."""
    from lightning_saliency.attribution.methods import _SEED
    from lightning_saliency.isolation.rng import random_streams_kept

    given = IMAGES.clone().requires_grad_()
    with random_streams_kept(_SEED):
        found = method(model, *layer, **constructor).attribute(given, target=TARGETS, **options)
    return (found[0] if isinstance(found, tuple) else found).detach()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WHOLE)
def test_each_is_captum_s_own_call_bit_for_bit(name):
    (constructor, options), method = WHOLE[name], getattr(attr, name)
    ours = rule(method, name="mine", **constructor, **options)
    found = explain(network(), IMAGES, TARGETS, rules=("gradient", ours))["mine"][:, 0]
    assert torch.equal(found, direct(method, network(), constructor, options).float())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", LAYERS)
def test_each_of_a_layer_is_interpolated_as_captum_does(name):
    (constructor, options), method, model = LAYERS[name], getattr(attr, name), network()
    ours = rule(method, layer="3", **constructor, **options)
    found = explain(model, IMAGES, TARGETS, rules=(ours,))[ours][:, 0]
    expected = direct(method, model, constructor, options, model[3]).sum(dim=1, keepdim=True)
    assert torch.equal(found, attr.LayerAttribution.interpolate(expected, (16, 16)))


def test_smoothgrad_draws_the_same_noise_each_time():
    tunnel: Any = {"nt_samples": 4, "stdevs": 0.2}
    ours = rule(attr.NoiseTunnel, around=attr.Saliency, abs=False, name="smoothgrad", **tunnel)
    model = network()
    first = explain(model, IMAGES, TARGETS, rules=(ours,))[ours]
    torch.rand(3)
    assert torch.equal(explain(model, IMAGES, TARGETS, rules=(ours,))[ours], first)
    around = lambda model: attr.NoiseTunnel(attr.Saliency(model))  # noqa: E731
    assert torch.equal(first[:, 0], direct(around, model, {}, {**tunnel, "abs": False}))
    cam = rule(attr.NoiseTunnel, around=attr.LayerGradCam, layer="3", name="smooth_cam", **tunnel)
    assert explain(model, IMAGES, TARGETS, rules=(cam,))[cam].shape == (3, 1, 1, 16, 16)


def test_further_inputs_are_repeated_by_captum():
    scale = torch.tensor([1.0, 2.0, -3.0])

    def forward(model: nn.Module, images: Tensor, scale: Tensor) -> Tensor:
        return model(images) * scale[:, None]

    ours = rule(attr.IntegratedGradients, n_steps=6)
    options: Any = {"forward": forward, "extras": {"scale": scale}}
    found = explain(network(), IMAGES, TARGETS, rules=(ours,), **options)[ours][:, 0]
    plain = direct(attr.IntegratedGradients, network(), {}, {"n_steps": 6})
    torch.testing.assert_close(found, plain * scale[:, None, None, None])


# A real network in a real fit, and what is on disk


class ResNet(Touchy):
    """A network of torchvision in the module of the other tests."""

    def __init__(self) -> None:
        super().__init__()
        self.net = resnet18(num_classes=CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.net(images)


def rules() -> tuple[Any, ...]:
    cam = rule(attr.LayerGradCam, layer="net.layer2", name="grad_cam")
    return ("guided_backprop", rule(attr.IntegratedGradients, n_steps=4), cam)


@pytest.mark.filterwarnings("ignore")
def test_what_a_fit_records_is_captum_s_own_call(tmp_path):
    torch.manual_seed(0)
    module = ResNet()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    batch = ProbeBatch(images, [1, 3])
    watcher = SaliencyCallback(batch, targets="all", rule=rules(), tile_size=32, at_start=False)
    fit(tmp_path, watcher, module=module, max_epochs=1, limit_train_batches=2)
    module.eval()
    for command in (["show"], ["report", "-o", str(tmp_path / "report.html")]):
        assert main([command[0], str(tmp_path), *command[1:]]) == 0
    assert "integrated_gradients" in (tmp_path / "report.html").read_text()
    record = open_run(tmp_path)
    snapshot = record.observation(record.steps()[-1]).snapshot
    assert snapshot.rules == ("guided_backprop", "integrated_gradients", "grad_cam")
    assert record.info.settings["rule"] == list(snapshot.rules)
    for column in range(CLASSES):
        target = torch.full((2,), column)
        gradients = attr.IntegratedGradients(module).attribute(images, target=target, n_steps=4)
        cam = attr.LayerGradCam(module, module.net.layer2).attribute(images, target=target)
        cam = attr.LayerAttribution.interpolate(cam, (32, 32))
        for name, expected in {"integrated_gradients": gradients, "grad_cam": cam}.items():
            small = shrink_strongest_channel(expected.detach(), 32)
            peaks = small.abs().amax(dim=(1, 2))
            torch.testing.assert_close(snapshot.peaks[name][:, column], peaks, rtol=0, atol=0)
            maps = (small / peaks[:, None, None]).half()
            # The file holds 8 bits.
            difference = snapshot.maps[name][:, column].float() - maps.float()
            assert float(difference.abs().max()) <= 0.5 / 127 + 1e-3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_a_callback_with_it_can_be_copied_to_other_processes(copied):
    first = rule(attr.Occlusion, sliding_window_shapes=[3, 4, 4], strides=(3, 4, 4))
    watcher = copied(SaliencyCallback(one_image(), rule=("gradient", first)))
    (again,) = watcher.options.methods.values()
    model = network()
    plain = explain(model, IMAGES, TARGETS, rules=(first,))[first]
    assert torch.equal(explain(model, IMAGES, TARGETS, rules=(again,))[again], plain)


def test_from_a_file_of_lightning_s_command_line(tmp_path):
    from pytorch_lightning.cli import LightningCLI

    one_image().save(tmp_path / "probe.safetensors")
    load = {
        "class_path": "lightning_saliency.ProbeBatch.load",
        "init_args": {"path": str(tmp_path / "probe.safetensors")},
    }
    made = "lightning_saliency.captum.rule"
    chosen = [
        "gradient",
        {
            "class_path": made,
            "init_args": {"method": "captum.attr.IntegratedGradients"},
            "dict_kwargs": {"n_steps": 3},
        },
        {
            "class_path": made,
            "init_args": {"method": "captum.attr.LayerGradCam", "layer": "conv", "name": "cam"},
        },
    ]
    ours = {"probe": load, "targets": "label", "tile_size": 24, "rule": chosen}
    quiet = ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary")
    settings = {
        "trainer": {
            **dict.fromkeys(quiet, False),
            **{"max_epochs": 1, "accelerator": "cpu", "default_root_dir": str(tmp_path)},
            "callbacks": [{"class_path": "lightning_saliency.SaliencyCallback", "init_args": ours}],
        }
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    kind = type(make_module(sys.modules["pytorch_lightning"]))
    built = LightningCLI(kind, run=False, save_config_callback=None, args=[f"--config={path}"])
    (watcher,) = built.trainer.callbacks
    built.trainer.fit(built.model, loader(8), loader(8))
    expected = ("gradient", "integrated_gradients", "cam")
    assert {snapshot.rules for snapshot in shown(watcher)} == {expected}
    assert watcher.options.methods["integrated_gradients"].options == {"n_steps": 3}
    # What is printed, or saved next to the logs, makes the same callback.
    written = yaml.safe_load(built.parser.dump(built.config))
    assert written["trainer"]["callbacks"][0]["init_args"]["rule"][0] == "gradient"
    assert "Unable" not in str(written)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        pytest.param([3], {}, TypeError, "such as captum.attr.Integ.*got 3", id="no-class"),
        pytest.param([attr.Saliency], {"abd": 1}, ValueError, "did you mean 'abs'", id="typo"),
        pytest.param(
            [attr.Occlusion], {}, ValueError, "needs `sliding_window_shapes`", id="missing"
        ),
        pytest.param([attr.LayerGradCam], {}, ValueError, 'layer="layer4"', id="no-layer"),
        pytest.param(
            [attr.Saliency], {"layer": "3"}, ValueError, "takes no `layer`", id="needless-layer"
        ),
        pytest.param([attr.NoiseTunnel], {}, ValueError, "around=captum.attr", id="no-around"),
        pytest.param(
            [attr.Saliency],
            {"around": attr.Saliency},
            ValueError,
            "only NoiseTunnel",
            id="needless-around",
        ),
        pytest.param(
            [attr.NeuronGradient], {}, ValueError, "does not explain a class", id="neuron"
        ),
        pytest.param([attr.LayerActivation], {"layer": "3"}, ValueError, "no `target`", id="act"),
    ],
)
def test_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        rule(*arguments, **options)


def test_names_and_layers():
    assert rule(attr.InputXGradient).name == "input_x_gradient"
    assert rule(attr.LRP).name == "lrp"
    assert rule(attr.LayerGradCam, layer="x").name == "layer_grad_cam"
    with pytest.raises(ValueError, match="must not have the name of a built-in rule"):
        explain(network(), IMAGES, rules=(rule(attr.GuidedBackprop),))
    lost = rule(attr.LayerGradCam, layer="layer3")
    with pytest.raises(SaliencyError, match=r"ResNet has no layer 'layer3'.*'net.layer3'\?.*top"):
        explain(ResNet(), torch.rand(1, 3, 32, 32), 0, rules=(lost,))
    flat = rule(attr.LayerGradCam, layer="6")
    with pytest.raises(SaliencyError, match=r"'layer_grad_cam' .* '6', which is no map"):
        explain(network(), IMAGES, 0, rules=(flat,))


@pytest.mark.filterwarnings("ignore")
def test_a_mistake_is_found_before_training(tmp_path):
    lost = rule(attr.LayerGradCam, layer="conv7")
    trainer = quiet_trainer(tmp_path, SaliencyCallback(probe(), rule=lost))
    with pytest.raises(SaliencyError, match=r"no layer 'conv7'\. Did you mean 'conv"):
        trainer.fit(Touchy(), loader())
    assert trainer.global_step == 0


def test_without_captum_the_remedy_is_said():
    script = (
        "import sys\nsys.modules['captum'] = None\n"
        "from lightning_saliency import explain\n"
        "import lightning_saliency.captum"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert 'pip install "lightning-saliency[captum]"' in done.stderr.splitlines()[-1]
