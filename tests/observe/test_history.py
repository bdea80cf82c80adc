"""The history of a run: what a checkpoint keeps of it, and which snapshots it thins out."""

from __future__ import annotations

import io
from itertools import pairwise

import pytest
import torch
from records import observation

from lightning_saliency.observe.history import Frames, History, spread
from lightning_saliency.record.observation import Observation, Snapshot

RULES = ("guided_backprop", "gradient")


def seen(step: int = 0) -> Observation:
    """An observation with maps of two rules, of which one map is not finite."""
    first = observation(step, step=step).snapshot
    shown = first.maps["guided_backprop"]
    maps = {"guided_backprop": shown, "gradient": -shown}
    peaks = {rule: first.peaks["guided_backprop"].clone() for rule in RULES}
    maps["gradient"][0, 1], peaks["gradient"][0, 1] = torch.nan, torch.nan
    return observation(step, step=step, maps=maps, peaks=peaks, predicted=torch.zeros(6).long())


def through_a_file(state: object) -> dict:
    """What a checkpoint reads back that admits tensors and primitives only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def check_equal(found: Snapshot, expected: Snapshot) -> None:
    assert (found.step, found.caption, found.rules) == (
        expected.step,
        expected.caption,
        expected.rules,
    )
    for rule in expected.rules:
        torch.testing.assert_close(  # in 8 bits
            found.maps[rule], expected.maps[rule], rtol=0, atol=0.5 / 127 + 1e-3, equal_nan=True
        )
        torch.testing.assert_close(found.peaks[rule], expected.peaks[rule], equal_nan=True)
    assert torch.equal(found.targets, expected.targets)
    assert torch.equal(found.predicted, expected.predicted)


def test_a_history_of_two_rules_survives_a_checkpoint():
    history = History()
    for step in range(3):
        history.next_step(step)
        history.add(seen(step), {"saliency/mark.share": 0.1 * step})
    history.changed = True
    found = History.from_state(through_a_file(history.state()))
    assert (found.last_step, found.changed) == (2, True)
    assert found.last_scalars == {"saliency/mark.share": 0.2}
    assert torch.equal(found.first_profile, history.first_profile)
    assert torch.equal(found.last_profile, history.last_profile)
    assert not torch.equal(found.first_profile, found.last_profile)
    for one, other in zip(found.frames.spread(), history.frames.spread(), strict=True):
        check_equal(one, other)


def test_a_state_of_version_0_1_gets_the_rule_that_it_does_not_name():
    history = History()
    history.add(seen(), {})
    state = history.state()
    for snapshot in (*state["history"]["kept"], state["history"]["last"]):
        for name in ("maps", "peaks"):
            snapshot[name] = snapshot[name]["gradient"]  # a plain tensor, of the one rule
    (found,) = History.from_state(through_a_file(state), "deconvnet").frames.spread()
    assert found.rules == ("deconvnet",)
    expected = seen().snapshot.maps["gradient"]
    torch.testing.assert_close(
        found.maps["deconvnet"], expected, rtol=0, atol=0.005, equal_nan=True
    )
    assert found.maps["deconvnet"][0, 1].isnan().all()


def test_an_empty_history_survives_too():
    found = History.from_state(through_a_file(History().state()))
    assert (found.last_step, found.changed, found.first_profile) == (-1, False, None)
    assert found.frames.spread() == []


def test_no_two_observations_share_a_step():
    history = History(changed=True)
    assert [history.next_step(step) for step in (0, 0, 5, 3)] == [0, 1, 5, 6]
    assert not history.changed


def test_a_reset_history_remembers_only_which_steps_are_taken():
    history = History(4, changed=True)
    history.add(seen(), {"a": 1.0})
    found = history.reset()
    assert (found.last_step, found.changed, found.last_scalars) == (4, True, {})
    assert found.first_profile is None
    assert found.frames.spread() == []


@pytest.mark.parametrize("count", [1, 4, 8, 9, 10, 57, 200])
def test_frames_are_thinned_evenly_and_keep_both_ends(count: int):
    frames, snapshot = Frames(4), seen().snapshot
    for step in range(count):
        frames.add(Snapshot.from_state(snapshot.state() | {"step": step}))
    steps = [kept.step for kept in frames.spread()]
    assert len(steps) == min(count, 4)
    assert (steps[0], steps[-1]) == (0, count - 1)
    gaps = [after - before for before, after in pairwise(steps)]
    assert not gaps or max(gaps) <= 3 * min(gaps)
    assert len(frames.state()["kept"]) <= 8


def test_large_frames_are_fewer():
    snapshot = seen().snapshot
    size = sum(maps.numel() for maps in snapshot.maps.values())
    for fit, kept in {0.5: [0], 1: [0], 2: [0, 16], 5: [0, 4, 8, 12, 16]}.items():
        frames = Frames(most_bytes=int(fit * size))
        for step in range(19):
            frames.add(Snapshot.from_state(snapshot.state() | {"step": step}))
        assert [one["step"] for one in frames.state()["kept"]] == kept
        assert [one.step for one in frames.spread()] == [*kept, 18]


def test_spread_by_hand():
    assert spread(range(10), 4) == [0, 3, 6, 9]
    assert spread("abc", 4) == ["a", "b", "c"]
