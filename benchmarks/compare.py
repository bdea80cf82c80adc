"""`explain` next to other ways to the same maps: the time that they take, and their error.

    python benchmarks/compare.py --quick

The floor is one forward pass and one input gradient per class, by hand and without any rule. Slow
ways explain some of the images and classes, and their time is scaled to all of them: they work
image by image or class by class, so each costs the same.

The error is the largest difference of a pixel from the reference, relative to the largest value of
the reference. The reference is the rule in double precision, by a mechanism of its own, which
replaces activations while the model runs (``tests/support/oracle.py``). The ways run in double
precision for it, too. In single precision, rounding turns some units on or off whose input is
almost zero, which changes the maps of all ways alike, the plain gradient's as well.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torchvision
from timing import Effort, bare_passes, interleaved, ratio, table
from torch import Tensor, nn

from lightning_saliency import explain

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "examples")]
from networks import roughen  # noqa: E402
from oracle import oracle, relative_error  # noqa: E402

IMAGES, CLASSES = 8, 10
SIDES = (64, 224)
GRADIENT, GUIDED = "gradient", "guided_backprop"
PART = 2  # images and classes of the slow ways, and classes of the errors

Explainer = Callable[[Tensor, Tensor], Tensor]
"""Maps ``(n, K, C, H, W)`` of images ``(n, C, H, W)`` and classes ``(n, K)``."""


def build_demo_network(side: int) -> nn.Module:
    from fit_digits import DigitNet

    network = DigitNet()
    network.head = nn.Linear(32 * (side // 4) ** 2, CLASSES)
    return network


NETWORKS: dict[str, Callable[[int], nn.Module]] = {
    title: lambda _, name=name: torchvision.models.get_model(name, num_classes=CLASSES)
    for title, name in {
        "ResNet-18": "resnet18",
        "ResNet-50": "resnet50",
        "MobileNetV2": "mobilenet_v2",
        "EfficientNet-B0": "efficientnet_b0",
        "DenseNet-121": "densenet121",
    }.items()
} | {"demo": build_demo_network}


# --- the ways


def use_explain(rule: str) -> Callable[[nn.Module], Explainer]:
    def build(model: nn.Module) -> Explainer:
        def call(images: Tensor, targets: Tensor) -> Tensor:
            return explain(model, images, targets, rules=(rule,))[rule]

        return call

    return build


def use_captum(method: str) -> Callable[[nn.Module], Explainer]:
    """A call per class, for all images."""

    def build(model: nn.Module) -> Explainer:
        import captum.attr

        method_of_model = getattr(captum.attr, method)(model)
        options = {"abs": False} if method == "Saliency" else {}

        def call(images: Tensor, targets: Tensor) -> Tensor:
            columns = targets.unbind(dim=1)
            maps = [
                method_of_model.attribute(images.clone(), target=classes, **options)
                for classes in columns
            ]
            return torch.stack(maps, dim=1).detach()

        return call

    return build


def use_captum_expanded(model: nn.Module) -> Explainer:
    """One call, for which each image is repeated once per class."""
    from captum.attr import GuidedBackprop

    method = GuidedBackprop(model)

    def call(images: Tensor, targets: Tensor) -> Tensor:
        repeated = images.repeat_interleave(targets.shape[1], dim=0)
        maps = method.attribute(repeated, target=targets.flatten())
        return maps.detach().view(*targets.shape, *images.shape[1:])

    return call


def use_foxai(model: nn.Module) -> Explainer:
    """Captum for one image and one class at a time, as FoXAI's callback calls it.

    The package cannot be installed on Python 3.11 or newer; these are the calls that it makes.
    """
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    captum = use_captum("GuidedBackprop")(model)

    def call(images: Tensor, targets: Tensor) -> Tensor:
        return one_by_one(images, targets, lambda image, target: captum(image, target)[0, 0])

    return call


def use_grad_cam(model: nn.Module) -> Explainer:
    """One image and one class at a time; each image is copied, because its gradients add up."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    guided = GuidedBackpropReLUModel(model)

    def explain_one(image: Tensor, target: Tensor) -> Tensor:
        found = guided(image.clone(), int(target))
        return torch.from_numpy(found).permute(2, 0, 1)

    return lambda images, targets: one_by_one(images, targets, explain_one)


def use_flashtorch(model: nn.Module) -> Explainer:
    """One image at a time; whatever class is asked for, it explains the predicted one.

    It leaves its hooks behind, which would break the next call, so they are removed here.
    """
    from flashtorch.saliency import Backprop

    def explain_one(image: Tensor, target: Tensor) -> Tensor:
        leaf = image.clone().requires_grad_()
        found = Backprop(model).calculate_gradients(leaf, int(target), guided=True)
        for module in model.modules():
            module._backward_hooks.clear()
            module._forward_hooks.clear()
        return found

    return lambda images, targets: one_by_one(images, targets, explain_one)


def one_by_one(
    images: Tensor, targets: Tensor, explain_one: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    rows = [
        torch.stack([explain_one(images[[row]], target[None, None]) for target in classes])
        for row, classes in enumerate(targets)
    ]
    return torch.stack(rows).detach()


@dataclass(frozen=True)
class Way:
    """A way to explain.

    Attributes:
        build: Builds an explainer of a model, which it may change.
        rule: The rule by which it explains.
        images: The number of images that are explained; the rest is scaled.
        classes: The number of classes that are explained, starting with the predicted one.
    """

    build: Callable[[nn.Module], Explainer]
    rule: str = GUIDED
    images: int = IMAGES
    classes: int = CLASSES

    @property
    def scale(self) -> float:
        return IMAGES * CLASSES / (self.images * self.classes)


FLOOR = "floor"
OURS = {GRADIENT: "`explain`, gradient", GUIDED: "`explain`, guided backprop"}
WAYS = {
    OURS[GRADIENT]: Way(use_explain(GRADIENT), GRADIENT),
    OURS[GUIDED]: Way(use_explain(GUIDED)),
    "Captum `Saliency`, per class": Way(use_captum("Saliency"), GRADIENT, classes=PART),
    "Captum `GuidedBackprop`, per class": Way(use_captum("GuidedBackprop"), classes=PART),
    "Captum `GuidedBackprop`, expanded batch": Way(use_captum_expanded, classes=PART),
    "FoXAI's way": Way(use_foxai, images=PART, classes=PART),
    "pytorch-grad-cam": Way(use_grad_cam, images=PART, classes=PART),
    "FlashTorch": Way(use_flashtorch, images=PART, classes=1),
}


# --- measuring


@dataclass
class Case:
    """What was found of one network and size.

    Attributes:
        seconds: The median of the floor.
        ratios: For each way, its time: our own in floors, the others in ours by the same rule.
        errors: For each way, the relative error of its maps.
        failures: For each way that did not run, why.
    """

    seconds: float = 0.0
    ratios: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def make_case(network: str, side: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A seeded model, images, and for each image all classes, the predicted one first."""
    torch.manual_seed(0)
    model = roughen(NETWORKS[network](side)).eval()
    images = torch.randn(IMAGES, 1 if network == "demo" else 3, side, side)
    with torch.no_grad():
        targets = model(images).argsort(dim=1, descending=True)
    return model, images, targets


def measure(model: nn.Module, images: Tensor, targets: Tensor, rounds: int) -> Case:
    """Try each way once for its error, then time those that run."""
    case = Case()
    some, one = slice(PART), slice(1)  # One image for the errors: double precision is slow.
    double = copy.deepcopy(model).double()
    expected = oracle(double, images[one].double(), targets[one, some], (GRADIENT, GUIDED))
    calls: dict[str, Callable[[], object]] = {
        FLOOR: lambda: bare_passes(model, images, CLASSES),
    }
    for name, way in WAYS.items():
        chosen = images[: way.images], targets[: way.images, : way.classes]
        try:
            explainer = way.build(copy.deepcopy(model))
            explainer(*(part[some] for part in chosen))  # It may fail, and warms up.
            found = explain_exactly(way, double, chosen[0][one], chosen[1][one, some])
        except Exception as error:  # Other packages may fail in any way, and the table says how.
            case.failures[name] = f"{type(error).__name__}: {error}"
            continue
        rows, columns = found.shape[:2]
        case.errors[name] = relative_error(found, expected[way.rule][:rows, :columns])
        calls[name] = lambda explainer=explainer, chosen=chosen: explainer(*chosen)
    bare_passes(model, images, CLASSES)
    seconds = interleaved(calls, rounds, warm_up=False)
    case.seconds = statistics.median(seconds[FLOOR])
    for name, way in WAYS.items():
        if name in calls:
            floor = FLOOR if name in OURS.values() else OURS[way.rule]
            case.ratios[name] = way.scale * ratio(seconds, name, floor)
    return case


def explain_exactly(way: Way, double: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """Maps in double precision, or in single precision from a way that takes nothing else."""
    try:
        return way.build(copy.deepcopy(double))(images.double(), targets)
    except RuntimeError:
        return way.build(copy.deepcopy(double).float())(images, targets).double()


# --- reporting


def report(effort: Effort, side: int, networks: list[str] | None = None) -> str:
    """The table of all networks at one size, and how they compare with the aims."""
    warnings.filterwarnings("ignore")
    rounds = 1 if effort.quick else effort.rounds * (3 if side < 100 else 1)
    names = networks or list(NETWORKS)
    cases = {name: measure(*make_case(name, side), rounds) for name in names}
    texts = (show(side, cases), show_failures(cases), show_aims(side, cases))
    return "\n".join(text for text in texts if text)


def show(side: int, cases: dict[str, Case]) -> str:
    floor = ["floor, seconds", *(f"{case.seconds:.2f}" for case in cases.values())]
    rows = [[name, *(cell(case, name) for case in cases.values())] for name in WAYS]
    head = [f"{IMAGES} × {CLASSES} at {side}²", *cases]
    return table(head, [floor, *rows])


def cell(case: Case, name: str) -> str:
    if name in case.failures:
        return "fails" if "ModuleNotFound" not in case.failures[name] else "not installed"
    return f"{case.ratios[name]:.2f}× ({case.errors[name]:.0e})"


def show_failures(cases: dict[str, Case]) -> str:
    reasons: dict[tuple[str, str], list[str]] = {}
    for network, case in cases.items():
        for name, reason in case.failures.items():
            reasons.setdefault((name, reason), []).append(network)
    lines = [
        f"- {name}, {', '.join(where)}: `{' '.join(reason.split())[:200]}`\n"
        for (name, reason), where in reasons.items()
    ]
    return "".join(lines)


SLOW = [name for name, way in WAYS.items() if way.images < IMAGES]
PER_CLASS = [name for name in WAYS if "per class" in name]
LIGHT, RESNETS = ("MobileNetV2", "EfficientNet-B0"), ("ResNet-18", "ResNet-50")


def show_aims(side: int, cases: dict[str, Case]) -> str:
    """One line per aim: what was found in the worst case."""
    ours, light = list(OURS.values()), " and ".join(LIGHT)
    aims = [
        ("`explain`, of the floor, all networks", ours, tuple(cases), "≤", 1.05),
        (f"`explain`, of the floor, {light}", ours, LIGHT, "≤", 1.00),
        ("Captum per class, of `explain`, ResNets", PER_CLASS, RESNETS, "≥", 2.0),
        ("one image at a time, of `explain`", SLOW, tuple(cases), "≥", 8.0 if side < 100 else 2.5),
    ]
    rows = []
    for title, names, networks, sign, bound in aims:
        values = list(pick(cases, names, networks))
        if values:
            worst = (max if sign == "≤" else min)(values)
            good = sum(v <= bound if sign == "≤" else v >= bound for v, _ in values)
            median = statistics.median(value for value, _ in values)
            verdict = "met" if good == len(values) else f"met in {good} of {len(values)}"
            line = (f"{sign} {bound:.2f}×", f"{median:.2f}×", f"{worst[0]:.2f}×, {worst[1]}")
            rows.append([title, *line, verdict])
    return table(["aim", "", "median", "worst", ""], rows)


def pick(
    cases: dict[str, Case], names: Sequence[str], networks: Sequence[str]
) -> Iterator[tuple[float, str]]:
    """The ratios of some ways and networks, and whose they are."""
    for network in networks:
        for name in names:
            if network in cases and name in cases[network].ratios:
                yield cases[network].ratios[name], f"{name}: {network}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="at 224²; three times as many at 64²")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS)
    parser.add_argument("--quick", action="store_true", help="one round at 64²")
    arguments = parser.parse_args()
    for side in SIDES[: 1 if arguments.quick else None]:
        print(report(Effort(arguments.rounds, arguments.quick), side, arguments.networks))


if __name__ == "__main__":
    main()
