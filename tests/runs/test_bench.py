"""`make bench`: its pieces run on tiny networks, and a section replaces nothing but itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from networks import Small
from paths import REPOSITORY
from PIL import Image
from torch import Tensor, nn

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]


def build_tiny(**_: Any) -> nn.Module:
    """A network of three classes with one ReLU."""
    layers = (nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(4, 3))


# --- sections

TEXT = """# Results
By hand.
<!-- bench: first -->
old
<!-- end of bench: first -->
In between.
<!-- bench: second -->

<!-- end of bench: second -->
"""


def test_a_section_replaces_only_itself(benchmark):
    replaced = benchmark("bench").replace_section(TEXT, "first", "\n| a |\n\\1")
    assert replaced == TEXT.replace("old", "\n| a |\n\\1\n")
    again = benchmark("bench").replace_section(replaced, "first", "| b |")
    assert again == TEXT.replace("old", "\n| b |\n")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="none"),
        pytest.param(2 * TEXT, id="twice"),
        pytest.param(TEXT.replace("<!-- end of bench: first -->\n", ""), id="no-end"),
    ],
)
def test_a_section_without_its_markers_is_refused(text, benchmark):
    with pytest.raises(ValueError, match=r"'<!-- bench: first -->' and .* must be there once"):
        benchmark("bench").replace_section(text, "first", "new")


def test_every_section_has_its_place_in_the_results(benchmark, tmp_path, monkeypatch, capsys):
    bench = benchmark("bench")
    results = tmp_path / "RESULTS.md"
    results.write_text((REPOSITORY / "benchmarks" / "RESULTS.md").read_text())
    said = {name: (lambda _, name=name: f"of {name}") for name in bench.SECTIONS}
    monkeypatch.setattr(bench, "SECTIONS", said)
    monkeypatch.setattr(bench.torch, "set_num_threads", lambda _: None)
    monkeypatch.setattr("sys.argv", ["bench.py", "--quick", "--results", str(results)])
    monkeypatch.setattr(bench, "SLOWEST", "")
    bench.main()
    text = results.read_text()
    for name in said:
        section = text.split(f"<!-- bench: {name} -->")[1].split(f"<!-- end of bench: {name}")[0]
        assert section.startswith(f"\n\nof {name}\n\n")
        assert "quick" in section
        assert "load average" in section


# --- timing


def test_ratios_are_those_of_neighbours(benchmark):
    timing = benchmark("timing")
    seconds = {"floor": [1.0, 10.0, 2.0], "way": [2.0, 11.0, 6.0]}
    assert timing.ratio(seconds, "way", "floor") == 2.0


def test_each_round_calls_each_variant_once(benchmark):
    timing, called = benchmark("timing"), []
    variants = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    seconds = timing.interleaved(variants, 2)
    assert "".join(called) == "ababab"
    assert [len(each) for each in seconds.values()] == [2, 2]


def test_a_stopwatch_adds_up_and_lets_go(benchmark):
    timing = benchmark("timing")
    ticks = itertools.count()
    owner = SimpleNamespace(work=lambda x: 2 * x)
    work, stopwatch = owner.work, timing.Stopwatch(lambda: float(next(ticks)))
    with stopwatch.watching({"part": [(owner, "work")]}):
        assert [owner.work(1), owner.work(x=2)] == [2, 4]
    assert stopwatch.seconds == {"part": 2.0}
    assert owner.work is work


# --- the comparison


@pytest.fixture
def compare(benchmark, monkeypatch) -> ModuleType:
    """The comparison of a tiny network, with one way that fails."""
    module = benchmark("compare")
    monkeypatch.setattr(module, "IMAGES", 2)
    monkeypatch.setattr(module, "CLASSES", 3)
    monkeypatch.setattr(module, "NETWORKS", {"Tiny": lambda _: Small(nn.ReLU())})
    ours = {name: module.Way(way.build, way.rule, 2, 3) for name, way in module.WAYS.items()}
    ours = {name: ours[name] for name in module.OURS.values()}
    ways = {"plain": module.Way(lambda model: plain(module, model), images=1, classes=1)}
    ways["broken"] = module.Way(broken)
    monkeypatch.setattr(module, "WAYS", ours | ways)
    return module


def plain(compare: ModuleType, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """The plain gradient, where guided backprop is asked for."""
    return compare.use_explain("gradient")(model)


def broken(_: nn.Module) -> Any:
    raise LookupError("no such\nlayer")


def test_the_comparison_finds_errors_and_failures(compare):
    case = compare.measure(*compare.make_case("Tiny", 12), rounds=2)
    ours = compare.OURS.values()
    assert max(case.errors[name] for name in ours) <= 1e-12
    assert case.errors["plain"] > 0.01
    assert case.failures == {"broken": "LookupError: no such\nlayer"}
    assert case.ratios.keys() == case.errors.keys() == {*ours, "plain"}
    assert min(case.ratios.values()) > 0


def test_a_part_is_scaled_to_all_images_and_classes(compare, monkeypatch):
    calls = []

    def interleaved(variants, rounds, warm_up):
        calls.append(list(variants))
        return dict.fromkeys(variants, [1.0] * rounds)

    monkeypatch.setattr(compare, "interleaved", interleaved)
    case = compare.measure(*compare.make_case("Tiny", 12), rounds=2)
    assert calls == [["floor", *compare.OURS.values(), "plain"]]
    assert case.ratios["plain"] == 6
    assert [case.ratios[name] for name in compare.OURS.values()] == [1, 1]


def test_the_comparison_says_what_failed_and_which_aims_were_met(compare, benchmark, capsys):
    report = compare.report(benchmark("timing").Effort(quick=True), 12)
    assert "| 2 × 3 at 12² | Tiny |" in report
    assert "| broken | fails |" in report
    assert "- broken, Tiny: `LookupError: no such layer`" in report
    case = compare.Case(1.0, dict(zip(compare.OURS.values(), (1.04, 1.2), strict=True)))
    aims = compare.show_aims(12, {"Tiny": case})
    assert "| ≤ 1.05× | 1.12× | 1.20×, `explain`, guided backprop: Tiny |" in aims
    assert "| met in 1 of 2 |" in aims


WAYS = ("use_captum_expanded", "use_foxai", "use_grad_cam", "use_flashtorch")


@pytest.mark.parametrize("name", ["use_captum", *WAYS])
def test_other_packages_find_the_map_of_a_relu(name, benchmark):
    """FlashTorch multiplies by the activation in place of its sign, so that its map is another."""
    compare = benchmark("compare")
    build = getattr(compare, name)
    build = build("GuidedBackprop") if name == "use_captum" else build
    torch.manual_seed(0)
    model, images = build_tiny().double().eval(), torch.rand(2, 3, 12, 12).double()
    targets = model(images).argsort(dim=1, descending=True)
    columns = targets[:, :1] if name == "use_flashtorch" else targets
    expected = compare.oracle(model, images, columns, ["guided_backprop"])["guided_backprop"]
    try:
        way = compare.Way(build)
        found = compare.explain_exactly(way, model, images, columns)
    except ImportError as error:
        pytest.skip(str(error))
    error = compare.relative_error(found, expected)
    assert (error > 0.1) if name == "use_flashtorch" else (error <= 1e-6)


# --- an observation, its growth, and epochs


def test_the_parts_of_an_observation_add_up(benchmark, monkeypatch):
    cost = benchmark("cost")
    monkeypatch.undo()  # from here on a trainer is wanted
    monkeypatch.setattr(cost.torchvision.models, "resnet18", build_tiny)
    with cost.observed(2, 3, 12) as case:
        case.observe()
        case.observe()
    parts = case.parts[-1]
    assert parts.keys() == case.busy[-1].keys() == {*cost.PARTS, cost.REST, "whole", cost.BESIDE}
    afterwards = sum(parts[name] for name in (*cost.AFTERWARDS, cost.REST))
    assert parts["whole"] == pytest.approx(parts[cost.PASSES] + afterwards)
    reducing = sum(parts[name] for name in cost.REDUCERS)
    assert parts[cost.BESIDE] == pytest.approx(afterwards + reducing)
    assert min(parts.values()) > 0


def test_exponents_are_slopes_of_logarithms(benchmark):
    growth = benchmark("growth")
    assert growth.fit_line([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx((2.0, 3.0))


def test_the_growth_is_drawn_and_tabulated(benchmark, monkeypatch, tmp_path):
    growth, path = benchmark("growth"), tmp_path / "images" / "growth.png"
    lines = {growth.WHOLE: [1.0, 2.0], growth.BESIDE: [0.25, 1.0]}
    found = [
        growth.Growth("pixels", [16, 64], lines),
        growth.Growth("processes", [1, 2], {growth.WHOLE: [2.0, 1.0]}),
    ]
    monkeypatch.setattr(growth, "measure", lambda effort: found)
    report = growth.report(benchmark("timing").Effort(), path)
    assert "| pixels | 4² → 8² | 1.00 → 2.00 s | 0.50 | 0.25 → 1.00 s | 1.00 |" in report
    assert "| processes | 1 → 2 | 2.00 → 1.00 s | -1.00 |  |  |" in report
    with Image.open(path) as picture:
        assert picture.size == (1760, 544)


def test_the_hooks_of_each_epoch_are_timed(benchmark, monkeypatch, tmp_path):
    epoch = benchmark("epoch")
    monkeypatch.undo()
    monkeypatch.setattr(epoch, "BATCH", 4)
    monkeypatch.setattr(epoch, "CLASSES", 3)
    pause = 0.05

    class Slow(epoch.SaliencyCallback):
        def on_train_epoch_end(self, *arguments: Any) -> None:
            super().on_train_epoch_end(*arguments)
            time.sleep(pause)

    batches, hooks = epoch.fit(build_tiny(), tmp_path, 3, 2, Slow())
    assert (len(batches), len(hooks)) == (6, 3)
    assert min(hooks) >= pause
    batches, hooks = epoch.fit(build_tiny(), tmp_path, 1, 2, None)
    assert (len(batches), hooks) == (2, [0.0])


def test_checkpoints_are_tabulated(benchmark, monkeypatch):
    checkpoints = benchmark("checkpoints")
    monkeypatch.setattr(checkpoints, "RUNS", {"2 × 3 × 96²": (2, 3)})
    report = checkpoints.report(benchmark("timing").Effort(quick=True))
    head, _, sizes, *_ = report.splitlines()
    assert "recorded" in head
    # The maps of two images and three classes in 24 frames and the last, one byte per pixel.
    stored = float(sizes.split("|")[3].removesuffix(" MB "))
    assert stored == pytest.approx(25 * 2 * 3 * 96**2 / 1e6, rel=0.05)
