"""What is kept of attributions while they are computed: the same bits, in bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from allocations import bytes_above_passes, peak_bytes, stated_bound
from torch import Tensor, nn

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.attribution import passes
from lightning_saliency.attribution.logits import call_plainly
from lightning_saliency.attribution.passes import Chunk, PassOptions, Request, compute
from lightning_saliency.errors import SaliencyWarning
from lightning_saliency.functional.maps import masses, shrink, strongest_channel
from lightning_saliency.functional.measures import profiles, share
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.reducers import MeasuredMaps, ShownMaps

CLASSES = 10


def network(channels: int = 3, *extra: nn.Module) -> nn.Module:
    """A network whose passes need little memory besides that of the images."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2),
        *extra,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, CLASSES),
    )


def probe(count: int, side: int, channels: int = 3) -> ProbeBatch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(count, channels, side, side, generator=generator)
    left = torch.arange(side).expand(count, side, side) < side // 3
    return ProbeBatch(
        images,
        torch.arange(count) % CLASSES,
        masks={"left": left},
        class_names=[str(n) for n in range(CLASSES)],
    )


def observer(
    images: ProbeBatch,
    *,
    size: int = 16,
    rules: tuple[Any, ...] = ("guided_backprop",),
    targets: Tensor | None = None,
    chunk_size: int | None = None,
) -> Observer:
    options = PassOptions(call_plainly, chunk_size)
    return Observer(images, targets, rules, size, options, Meter.for_probe(images, size))


# --- memory


@pytest.mark.parametrize("rules", [("guided_backprop",), ("gradient", "guided_backprop")], ids=str)
@pytest.mark.parametrize("chunk_size", [4, 32])
def test_an_observation_needs_no_more_memory_than_stated(chunk_size: int, rules):
    watch, model = observer(probe(32, 128), rules=rules, chunk_size=chunk_size), network()
    bound = stated_bound(watch)
    everything = len(rules) * CLASSES * watch.probe.images.numel() * 4
    assert bound < everything / 5  # or this would show nothing
    assert bytes_above_passes(watch, model) <= 1.2 * bound


def test_memory_grows_with_the_maps_and_not_with_the_images():
    few, many, large = (
        bytes_above_passes(observer(images, chunk_size=4), network())
        for images in (probe(8, 128), probe(40, 128), probe(8, 256))
    )
    maps = 32 * (2 * 16**2 * (CLASSES + 1) + 1024)
    assert many - few <= 1.2 * maps
    # One attribution of a chunk and its reduction do grow with the images, but those of all classes
    # together would grow ten times as much.
    grown = (256**2 - 128**2) * (4 * 4 * 3 + 2 * 16 * 5)
    assert large - few <= 1.2 * grown < CLASSES * 8 * 3 * 4 * (256**2 - 128**2) / 3


def test_the_counter_sees_what_explain_holds():
    images = probe(8, 64)
    held = peak_bytes(lambda: explain(network(), images.images, chunk_size=2))
    assert 1 < held / (CLASSES * images.images.numel() * 4) < 1.5


# --- the same numbers


@pytest.fixture
def two_threads() -> Iterator[None]:
    found = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(found)


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("reduce", ["joint", "square", "contribution"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("chunk_size", [1, 2, 5])
def test_each_image_is_measured_to_the_bit_as_all_together(chunk_size, channels, reduce):
    count, side, size = 5, 210, 32  # large enough for torch to divide a sum among threads
    images = probe(count, side, channels)
    attribution = torch.randn(images.images.shape, generator=torch.Generator().manual_seed(2))
    taken = MeasuredMaps(
        images.images,
        images.masks,
        images.labels[:, None],
        rule="gradient",
        reduce=reduce,
        size=size,
    )
    for start in range(0, count, chunk_size):
        rows = slice(start, min(start + chunk_size, count))
        classes, logits = images.labels[rows, None], torch.zeros(count, CLASSES)[rows]
        taken.begin(Chunk(rows, count, classes, logits))
        taken.take("gradient", 0, attribution[rows])
    maps = masses(attribution, images.images, reduce)
    flat, views = maps.flatten(0, 1), maps.shape[:2]
    assert torch.equal(taken.kept["views"], profiles(flat).view(*views, 8, 8))
    inside = images.masks["left"].repeat_interleave(views[1], dim=0)
    assert torch.equal(taken.kept["share.left"], share(flat, inside).view(views))
    small = shrink(maps, size)
    parts = small / small.sum(dim=(2, 3), keepdim=True)
    joined = parts.mean(dim=1)
    expected = (joined / joined.amax(dim=(1, 2), keepdim=True)).half()
    assert torch.equal(taken.kept["maps"], expected)


@pytest.mark.parametrize("chunk_size", [2, 5])
def test_shown_maps_are_to_the_bit_those_of_all_attributions(chunk_size):
    images, model = probe(5, 96).images, network()
    explained = explain(model, images, rules=("guided_backprop",), chunk_size=chunk_size)
    shown = ShownMaps(16)
    request = Request(("guided_backprop",))
    options = PassOptions(call_plainly, chunk_size)
    (found,) = compute(options, model, images, [request], None, [(shown,)])
    assert found.attributions == {}
    small = shrink(strongest_channel(explained["guided_backprop"]), 16)
    peaks = small.abs().amax(dim=(-2, -1))
    assert torch.equal(shown.peaks["guided_backprop"], peaks)
    assert torch.equal(shown.maps["guided_backprop"], (small / peaks[..., None, None]).half())


def test_when_memory_runs_out_between_two_classes_the_chunk_begins_again(monkeypatch):
    images, model = probe(4, 32), network()
    expected = observer(images, chunk_size=2).observe(model, "", 0)
    backward, calls = passes._input_gradient, []

    def short_of_memory(*args: Any) -> Tensor:
        calls.append(args)
        if len(calls) == 4:
            raise torch.OutOfMemoryError("as planned")
        return backward(*args)

    monkeypatch.setattr(passes, "_input_gradient", short_of_memory)
    with pytest.warns(SaliencyWarning, match=r"explaining 2 image.s. at a time"):
        found = observer(images).observe(model, "", 0)
    for rule, maps in expected.snapshot.maps.items():
        assert torch.equal(found.snapshot.maps[rule], maps)
    assert found.shows_same_as(expected)
    assert torch.equal(found.measured.classes, expected.measured.classes)


# --- passes

LABEL_AND_NEXT = torch.tensor([[0, 1], [2, 1], [2, 3], [4, 3]])  # of the labels 0, 1, 2 and 3
PREDICTED = torch.full((4, 1), -1)


@pytest.mark.parametrize(
    ("rules", "targets", "expected"),
    [
        pytest.param(("gradient",), None, CLASSES, id="all classes"),
        pytest.param(("gradient",), LABEL_AND_NEXT, 2, id="the label in either column"),
        pytest.param(("guided_backprop", "gradient"), LABEL_AND_NEXT, 4, id="two rules"),
        pytest.param(("guided_backprop",), LABEL_AND_NEXT, 3, id="another rule"),
        pytest.param(("gradient",), LABEL_AND_NEXT + 1, 3, id="a label that is not shown"),
        pytest.param(("gradient",), PREDICTED, 2, id="the predicted class"),
    ],
)
def test_the_label_s_gradient_is_not_computed_twice(rules, targets, expected, monkeypatch):
    images, model, backward, calls = probe(4, 32), network(), passes._input_gradient, []

    def counted(*args: Any) -> Tensor:
        calls.append(args)
        return backward(*args)

    monkeypatch.setattr(passes, "_input_gradient", counted)
    watch = observer(images, rules=rules, targets=targets)
    found = watch.observe(model, "", 0).measured
    assert len(calls) == expected
    label = explain(model, images.images, images.labels, rules=("gradient",))
    alone = watch.meter.measure(label)
    assert torch.equal(found.classes, images.labels)
    for name in ("probabilities", "maps", "views"):
        assert torch.equal(getattr(found, name), getattr(alone, name)), name
    assert torch.equal(found.shares["left"], alone.shares["left"])


def test_without_labels_the_predicted_class_is_picked_from_those_that_are_shown():
    images, model = ProbeBatch(probe(4, 32).images), network()
    top = torch.full((4, 3), -1)
    found = observer(images, rules=("gradient",), targets=top).observe(model, "", 0)
    alone = observer(images, targets=top).observe(model, "", 0)
    assert torch.equal(found.measured.classes, found.snapshot.predicted)
    assert torch.equal(found.measured.views, alone.measured.views)


def test_a_class_that_is_not_explained_is_not_measured_by_another_one_s_map():
    images = probe(4, 32)
    other = explain(network(), images.images, images.labels + 1, rules=("gradient",))
    with pytest.raises(ValueError, match="class to measure is not among the classes that are expl"):
        Meter.for_probe(images, 16).measure(other)


@pytest.mark.filterwarnings("ignore:a batch norm without running statistics")
def test_a_model_that_mixes_images_has_the_label_s_pass_to_itself():
    """There, the attribution of an image depends on the classes of the other images."""
    images = probe(4, 32)
    model = network(3, nn.BatchNorm2d(4, track_running_stats=False))
    watch = observer(images, rules=("gradient",), targets=LABEL_AND_NEXT)
    label = explain(model, images.images, images.labels, rules=("gradient",))
    found = watch.observe(model, "", 0).measured
    assert torch.equal(found.views, watch.meter.measure(label).views)


class Refusing:
    """A reducer that fails at once."""

    def begin(self, chunk: Chunk) -> None: ...

    def take(self, rule: str, column: int, attribution: Tensor) -> None:
        raise ValueError("no")


@pytest.mark.parametrize(("alone", "expected"), [(True, 1), (False, CLASSES)])
def test_passes_that_others_take_part_in_go_on_after_a_failure(alone, expected, monkeypatch):
    images, model, backward, calls = probe(4, 32), network(), passes._input_gradient, []

    def counted(*args: Any) -> Tensor:
        calls.append(args)
        return backward(*args)

    monkeypatch.setattr(passes, "_input_gradient", counted)
    options, request = PassOptions(call_plainly, alone=alone), Request(("gradient",))
    with pytest.raises(ValueError, match=r"^no$"):
        compute(options, model, images.images, [request], None, [(Refusing(),)])
    assert len(calls) == expected


def test_values_that_are_not_finite_are_reported_of_what_is_reduced():
    model = network()
    with torch.no_grad():
        model[-1].weight[3, 5] = torch.nan
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        observer(probe(4, 32), chunk_size=2).observe(model, "", 0)
    said = [str(w.message) for w in caught if issubclass(w.category, SaliencyWarning)]
    assert any("guided_backprop and gradient contains NaN" in message for message in said)
