"""Tables of recorded runs, exactly as a person sees them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from records import RULE, info, observation, photos, record

from lightning_saliency.cli.tables import compare_runs, describe_run
from lightning_saliency.errors import NotComparableError
from lightning_saliency.record import run as run_module
from lightning_saliency.record.run import Run, open_run
from lightning_saliency.record.writer import RunWriter


@pytest.fixture
def good(tmp_path: Path) -> Run:
    return open_run(record(tmp_path / "good"))


@pytest.fixture
def bad(tmp_path: Path) -> Run:
    return open_run(record(tmp_path / "bad", 9, on_mark=0.6, metrics={"val_acc": 0.99}))


def begin(folder: Path, steps: int, **known: None) -> Run:
    """A run that was not finished, with an observation per step."""
    writer = RunWriter(folder / "saliency")
    writer.begin(info(**known), photos(), after=-1)
    for step in range(steps):
        writer.add(observation(step=step, caption=f"epoch {step}"))
    return open_run(folder)


def test_what_a_run_has_recorded_as_a_person_sees_it(bad):
    assert (
        describe_run(bad)
        == f"""\
{bad.folder}: 2 observations of 6 images
  commit       0000000000000000000000000000000000000000
  seed         9
  started      2026-01-01T00:00:00+00:00
  measured     gradient, joint
  logged last  val_acc 0.99

when         step  p(label)  object.share  mark.share  from first  from last
untrained       0     0.900         0.714       0.108       0.000      0.000
epoch 1         9     0.900         0.366       0.443       0.351      0.351

p(label)      ██
object.share  ▆▃
mark.share    ▁▄
from first    ▁▃
from last     ▁▃"""
    )


def test_a_run_without_an_observation_is_described(tmp_path):
    text = describe_run(begin(tmp_path / "begun", 0, commit=None, seed=None))
    assert "/begun/saliency: 0 observations of 6 images\n  started " in text
    assert text.endswith("  It is unfinished or was interrupted.")


def test_one_observation_is_not_plural(tmp_path):
    assert ": 1 observation of 6 images\n" in describe_run(begin(tmp_path / "begun", 1))


def test_a_long_run_fits_on_a_page(tmp_path):
    lines = describe_run(begin(tmp_path / "long", 130)).splitlines()
    assert len(lines) < 60
    assert max(map(len, lines[1:])) < 100  # The first line holds the path of the run.
    assert "…" in lines
    assert any(line.startswith("epoch 129 ") for line in lines)


def test_describing_a_long_run_does_not_hold_its_maps(tmp_path, monkeypatch):
    """The table keeps some numbers of each observation and lets go of its maps at once."""
    alive: list[weakref.ref[object]] = []
    most = 0
    read_observation = run_module.read_observation

    def watch(path):
        nonlocal most
        gc.collect()
        most = max(most, sum(ref() is not None for ref in alive))
        found = read_observation(path)
        alive.append(weakref.ref(found.snapshot.maps[RULE]))
        return found

    monkeypatch.setattr(run_module, "read_observation", watch)
    describe_run(begin(tmp_path / "long", 8))
    assert len(alive) == 8
    assert most <= 1


def test_two_runs_next_to_each_other_as_a_person_sees_them(good, bad):
    assert (
        compare_runs(good, bad, ("good_0", "bad"))
        == """\
                good_0   bad
observed at     epoch 1  epoch 1
val_acc         0.93     0.99
object.share    0.775    0.366
mark.share      0.040    0.443
moved mass      0.513
maps: Spearman  0.542"""
    )


def test_a_metric_that_one_run_lacks_is_a_dash(good, tmp_path):
    other = open_run(record(tmp_path / "other", 1, metrics={"lr": 0.1}))
    lines = compare_runs(good, other, ("a", "b")).splitlines()
    assert lines[2:4] == ["val_acc         0.93     –", "lr              –        0.1"]


def test_runs_of_different_probes_are_not_compared(good, tmp_path):
    fingerprint = {"fingerprint": "e" * 64}
    other = open_run(record(tmp_path / "other", 1, told=fingerprint, changed=fingerprint))
    with pytest.raises(NotComparableError, match=r"good/sal.* and .*other/sal.*: their probes dif"):
        compare_runs(good, other, ("a", "b"))
