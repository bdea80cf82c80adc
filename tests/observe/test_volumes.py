"""What is shown and measured of volumes, compared with flat images and with numbers by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_saliency import ProbeBatch, explain
from lightning_saliency.attribution.logits import call_plainly
from lightning_saliency.attribution.passes import PassOptions
from lightning_saliency.check.verdict import Growth
from lightning_saliency.functional.maps import contributions, sensitivities
from lightning_saliency.functional.projection import Projection
from lightning_saliency.health import health
from lightning_saliency.observe.meter import Meter
from lightning_saliency.observe.observer import Observer
from lightning_saliency.observe.occlusion import find_place, hidden

pytestmark = pytest.mark.filterwarnings("ignore::lightning_saliency.errors.SaliencyWarning")

COUNT, CLASSES = 5, 3
GENERATOR = torch.Generator().manual_seed(0)
VOLUMES = torch.randn(COUNT, 2, 6, 9, 12, generator=GENERATOR)
LABELS = torch.arange(COUNT) % CLASSES
MASKS = torch.rand(COUNT, 6, 9, 12, generator=GENERATOR) > 0.6


def network(dimensions: int = 3) -> nn.Module:
    torch.manual_seed(0)
    conv = nn.Conv3d(2, 4, 3, padding=1) if dimensions == 3 else nn.Conv2d(2, 4, 3, padding=1)
    pool = nn.AdaptiveMaxPool3d(2) if dimensions == 3 else nn.AdaptiveMaxPool2d((2, 4))
    return nn.Sequential(conv, nn.ReLU(), pool, nn.Flatten(), nn.Linear(32, CLASSES))


def probe(**known: Any) -> ProbeBatch:
    return ProbeBatch(**{"images": VOLUMES, "labels": LABELS, "masks": {"object": MASKS}} | known)


def observe(images: ProbeBatch, model: nn.Module, *, size: int = 12, **options: Any) -> Any:
    passes = PassOptions(call_plainly, options.pop("chunk_size", None))
    watch = Observer(
        images, None, ("guided_backprop",), size, passes, Meter.for_probe(images, size, **options)
    )
    return watch.observe(model, "now", 0)


def same(first: Any, second: Any) -> bool:
    """Whether two observations hold the same bits, but for their fingerprints."""
    tensors = []
    for each in (first, second):
        shown, measured = each.snapshot, each.measured
        maps, peaks = shown.maps["guided_backprop"], shown.peaks["guided_backprop"]
        kept = [measured.maps, measured.views, measured.shares["object"]]
        tensors.append([maps, peaks, shown.probabilities, *kept])
    pairs = all(torch.equal(a, b) for a, b in zip(*tensors, strict=True))
    return pairs and first.measures == second.measures


class Flat(nn.Module):
    """Takes volumes of a single slice along ``axis``."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.net, self.axis = network(2), axis

    def forward(self, volumes: Tensor) -> Tensor:
        return self.net(volumes.squeeze(self.axis))


@pytest.mark.parametrize("reduce", ["joint", "square"])
@pytest.mark.parametrize("depth", ["max", "middle", 0])
@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_a_volume_of_one_slice_is_observed_to_the_bit_as_an_image(axis, depth, reduce):
    flat = VOLUMES[:, :, 0]
    images = probe(images=flat, masks={"object": MASKS[:, 0]})
    volume = probe(
        images=flat.unsqueeze(axis),
        masks={"object": MASKS[:, 0].unsqueeze(axis)},
        depth=depth,
        depth_axis=axis,
    )
    expected = observe(images, network(2), reduce=reduce)
    assert same(observe(volume, Flat(axis), reduce=reduce), expected)


@pytest.mark.parametrize("axis", [-3, -2, -1])
@pytest.mark.parametrize("depth", ["max", "middle", 1])
def test_maps_and_measurements_are_those_of_the_whole_attribution(depth, axis):
    model, projection = network(), Projection(depth, axis)
    found = observe(probe(depth=depth, depth_axis=axis), model)
    explained = explain(model, VOLUMES, rules=("guided_backprop", "gradient"))
    assert explained["gradient"].shape == (COUNT, CLASSES, *VOLUMES.shape[1:])
    # The maps that are shown.
    guided = explained["guided_backprop"]
    strongest = projection.strongest(guided).double()  # (N, K, C, h, w)
    by_channel = strongest.gather(2, strongest.abs().argmax(2, keepdim=True))[:, :, 0]
    peaks = by_channel.abs().amax((-2, -1))
    torch.testing.assert_close(found.snapshot.peaks["guided_backprop"].double(), peaks)
    torch.testing.assert_close(
        found.snapshot.maps["guided_backprop"].double() * peaks[..., None, None],
        by_channel,
        rtol=1e-3,
        atol=1e-3 * float(peaks.max()),
    )
    # What is measured, voxel by voxel, whatever slice is shown.
    gradient = explained["gradient"][torch.arange(COUNT), LABELS].double()
    mean = VOLUMES.double().mean(dim=(2, 3, 4), keepdim=True)
    masses = torch.stack(
        [gradient.abs().sum(1).sqrt(), (gradient * (VOLUMES.double() - mean)).sum(1).abs()], 1
    )
    inside = (masses * MASKS[:, None]).sum((2, 3, 4)) / masses.sum((2, 3, 4))
    torch.testing.assert_close(found.measured.shares["object"], inside.mean(1), rtol=1e-5, atol=0)
    flat = masses.sum(dim=axis)
    parts = flat / flat.sum((2, 3), keepdim=True)
    rows, columns = (torch.arange(side) * 8 // side for side in flat.shape[2:])
    grid = torch.zeros(COUNT, 2, 8, 8, dtype=torch.float64)
    for y, row in enumerate(rows.tolist()):
        for x, column in enumerate(columns.tolist()):
            grid[:, :, row, column] += parts[:, :, y, x]
    torch.testing.assert_close(found.measured.views, grid, rtol=1e-5, atol=1e-7)


def test_maps_of_volumes_reduce_their_channels_alone():
    explained = explain(network(), VOLUMES, 1, rules=("gradient",))
    for reduce, expected in {
        "abs_max": explained["gradient"].abs().amax(2),
        "max": explained["gradient"].amax(2),
        "abs_sum": explained["gradient"].abs().sum(2),
        "square": explained["gradient"].square().sum(2),
    }.items():
        assert torch.equal(explained.maps("gradient", reduce), expected)


def test_slices_under_each_other_are_measured_as_a_volume():
    """The functions for images are called with volumes whose slices stand under each other."""
    tall = VOLUMES.flatten(2, 3)
    gradient = torch.randn(VOLUMES.shape, generator=torch.Generator().manual_seed(3))
    mean = VOLUMES.mean(dim=(2, 3, 4), keepdim=True)
    found = contributions(gradient.flatten(2, 3), tall).view(COUNT, *VOLUMES.shape[2:])
    torch.testing.assert_close(found, (gradient * (VOLUMES - mean)).sum(1).abs())
    found = sensitivities(gradient.flatten(2, 3)).view(COUNT, *VOLUMES.shape[2:])
    torch.testing.assert_close(found, gradient.abs().sum(1).sqrt())


@pytest.mark.parametrize("chunk_size", [1, 2, 4])
@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_chunks_of_volumes_give_the_same_bits(axis, chunk_size):
    model = nn.Sequential(nn.Flatten(), nn.Linear(VOLUMES[0].numel(), CLASSES))
    torch.nn.init.normal_(model[1].weight)
    images = probe(depth_axis=axis)
    found = observe(images, model, chunk_size=chunk_size)
    together = observe(images, model)
    assert torch.equal(found.measured.views, together.measured.views)
    assert torch.equal(found.measured.shares["object"], together.measured.shares["object"])


# --- what gained most is hidden


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_a_cell_goes_through_the_whole_volume(axis):
    images = probe(depth_axis=axis)
    place = find_place(Growth(None, 0, 7, before=0.0, now=1.0), images)
    assert place.shape == MASKS.shape
    height, width = images.drawn_size
    for number in range(VOLUMES.shape[axis]):
        flat = place[0].select(axis, number)
        assert flat.shape == (height, width)
        assert flat.nonzero().tolist() == [
            [y, x]
            for y in range(height)
            for x in range(width)
            if (y * 8 // height, x * 8 // width) == (0, 7)
        ]


def test_what_is_hidden_takes_the_mean_of_the_volume():
    found = hidden(VOLUMES, MASKS)
    for n in range(COUNT):
        for c in range(2):
            expected = VOLUMES[n, c].masked_fill(MASKS[n], float(VOLUMES[n, c].mean()))
            torch.testing.assert_close(found[n, c], expected)


def test_health_is_that_of_whole_maps():
    found = health(network(), probe(masks={}), rule="gradient")
    assert found.other_image is not None
    assert abs(found.other_image) < 0.5
    assert -1 <= found.all_layers < found.last_layer <= 1
