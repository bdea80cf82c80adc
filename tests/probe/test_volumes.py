"""Probes of volumes and clips: checked, drawn, stored and chosen like those of flat images."""

from __future__ import annotations

import io
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_saliency import ProbeBatch, SaliencyError
from lightning_saliency.errors import SaliencyWarning

VOLUMES = torch.rand(3, 2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([2, 0, 1])
MASKS = VOLUMES[:, 0] > 0.7


def probe(**known: Any) -> ProbeBatch:
    return ProbeBatch(**{"images": VOLUMES, "labels": LABELS, "masks": {"object": MASKS}} | known)


def test_volumes_are_drawn_by_what_is_strongest_along_their_first_axis():
    found = probe()
    assert (found.depth, found.depth_axis, found.drawn_size) == ("max", -3, (5, 6))
    assert torch.equal(found.displayed(), VOLUMES.amax(dim=2))


@pytest.mark.parametrize(
    ("depth", "axis", "shown"),
    [
        ("middle", None, VOLUMES[:, :, 2]),
        (1, -3, VOLUMES[:, :, 1]),
        (3, -2, VOLUMES[:, :, :, 3]),
        (None, -1, VOLUMES.amax(dim=-1)),
    ],
)
def test_depth_and_axis_choose_what_is_drawn(depth, axis, shown):
    found = probe(depth=depth, depth_axis=axis)
    assert torch.equal(found.displayed(), shown)
    assert found.drawn_size == shown.shape[2:]


def test_the_original_colours_of_what_is_drawn_come_back():
    mean, std = (0.4, 0.6), (0.2, 0.3)
    shape = (1, 2, 1, 1, 1)
    images = (VOLUMES - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    found = probe(images=images, mean=mean, std=std)
    torch.testing.assert_close(found.displayed(), VOLUMES.amax(dim=2))


@pytest.mark.parametrize("axis", [-3, -2, -1])
def test_a_flat_mask_holds_for_every_slice(axis):
    flat = MASKS.select(axis, 0)
    found = probe(masks={"object": flat}, depth_axis=axis).masks["object"]
    assert found.shape == MASKS.shape
    for number in range(MASKS.shape[axis]):
        assert torch.equal(found.select(axis, number), flat)


def test_a_flat_image_has_no_depth():
    found = ProbeBatch(VOLUMES[:, :, 0])
    assert (found.depth, found.depth_axis, found.projection) == (None, None, None)
    assert found.drawn_size == (5, 6)
    assert not {"depth", "depth_axis"} & set(found.state())


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"depth": 4}, r"slice, from 0 to 3, got 4"),
        ({"depth": -1}, r"slice, from 0 to 3, got -1"),
        ({"depth": "mean"}, r"must be 'max', 'middle' or the number of a slice"),
        ({"depth": True}, r"got True"),
        ({"depth": 5, "depth_axis": -2}, r"from 0 to 4, got 5"),
        ({"depth_axis": 2}, r"must be -3, -2 or -1, for D, H or W, got 2"),
        ({"depth_axis": "D"}, r"got 'D'"),
        ({"images": VOLUMES[:, :, 0], "masks": {}, "depth": "max"}, r"Leave them out"),
        ({"images": VOLUMES[:, :, 0], "masks": {}, "depth_axis": -1}, r"Leave them out"),
        ({"masks": {"object": MASKS[:, :, 0]}}, r"must have shape \(3, 4, 5, 6\), as the images"),
        ({"images": VOLUMES[..., None]}, r"images.unflatten\(1, \(2, 4\)\)"),
    ],
)
def test_what_does_not_fit_is_refused(known, message):
    with pytest.raises(ValueError, match=message):
        probe(**known)


def test_the_remedy_for_more_axes_of_space_is_right():
    images = VOLUMES[:, :, None].expand(3, 2, 7, 4, 5, 6)
    with pytest.raises(ValueError, match="Fold the first axes") as raised:
        ProbeBatch(images)
    fold, unfold = str(raised.value).split("with `")[1].split("`.")[0].split("`, and unfold")
    folded = eval(fold, {"images": images})
    forward = eval(unfold.split("`forward=")[1])
    assert torch.equal(forward(lambda given: given, ProbeBatch(folded).images), images)


# --- stored


def restored(found: ProbeBatch, how: str, folder: Any) -> ProbeBatch:
    if how == "file":
        found.save(folder / "probe.safetensors")
        return ProbeBatch.load(folder / "probe.safetensors")
    buffer = io.BytesIO()
    torch.save(found.state() if how == "state" else found.compact_state(), buffer)
    buffer.seek(0)
    return ProbeBatch.from_state(torch.load(buffer, weights_only=True))


@pytest.mark.parametrize("images", [VOLUMES, (VOLUMES * 255).round() / 255], ids=["any", "levels"])
@pytest.mark.parametrize("how", ["file", "state", "compact"])
@pytest.mark.parametrize(("depth", "axis"), [("max", -3), ("middle", -1), (2, -2)])
def test_a_stored_probe_is_the_same(how, images, depth, axis, tmp_path):
    found = probe(images=images, depth=depth, depth_axis=axis)
    again = restored(found, how, tmp_path)
    assert (again.depth, again.depth_axis) == (depth, axis)
    assert again.fingerprint == found.fingerprint
    assert torch.equal(again.images, found.images)
    assert torch.equal(again.masks["object"], found.masks["object"])
    assert torch.equal(again.displayed(), found.displayed())


def test_few_levels_of_a_volume_are_stored_in_bytes():
    state = probe(images=(VOLUMES * 9).round().repeat(1, 1, 9, 9, 9) / 9, masks={}).compact_state()
    assert state["compact"]["images"]["places"].dtype == torch.uint8


def test_the_fingerprint_knows_the_axis_and_not_the_slice():
    """Profiles depend on the axis that mass is added up along, but not on what is drawn."""
    assert probe().fingerprint == probe(depth=1).fingerprint
    prints = {probe(depth_axis=axis).fingerprint for axis in (-3, -2, -1)}
    assert len(prints) == 3


# --- chosen from data


def test_volumes_are_found_in_data():
    data = TensorDataset(VOLUMES, LABELS)
    batch = {"label": LABELS, "image": VOLUMES, "mask": MASKS[:, None].float()}
    for found in (
        ProbeBatch.from_dataset(data, depth="middle"),
        ProbeBatch.from_dataloader(DataLoader(data, 2), 3, depth="middle"),
        ProbeBatch.from_batch(batch, depth="middle"),
        ProbeBatch.from_batch((VOLUMES, MASKS.long(), LABELS), depth="middle"),
    ):
        assert found.depth == "middle"
        shown = [int((image == VOLUMES).flatten(1).all(1).nonzero()[0]) for image in found.images]
        assert sorted(shown) == [0, 1, 2]
        assert found.labels.tolist() == LABELS[shown].tolist()


def test_hooks_may_make_flat_images_of_volumes():
    found = ProbeBatch.from_batch((VOLUMES, LABELS))
    flat = found.transferred(lambda batch: [batch[0][:, :, 0], batch[1]])
    assert (flat.images.ndim, flat.depth) == (4, None)
    cut = found.transferred(lambda batch: [batch[0][:, :, 2:], batch[1]])
    assert cut.depth == "max"


def frames_first() -> Tensor:
    return torch.rand(2, 5, 3, 8, 8)


def test_clips_whose_frames_come_first_are_named():
    with pytest.warns(SaliencyWarning, match=r"look like clips.*images.transpose\(1, 2\)"):
        ProbeBatch(frames_first())
    with pytest.raises(SaliencyError, match=r"clips.*model\(images.transpose\(1, 2\)\)"):
        ProbeBatch.from_batch((frames_first(), torch.tensor([0, 1])))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ProbeBatch(frames_first().transpose(1, 2))
        ProbeBatch(torch.rand(2, 4, 16, 8, 8))  # four sequences of a scanner


def test_a_notebook_shows_volumes_flat():
    assert probe()._repr_html_().count("<img") == 3
