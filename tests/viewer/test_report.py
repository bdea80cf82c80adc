"""The page as a file, and in a notebook."""

from __future__ import annotations

import base64
import io
import json
import re
from html import unescape

import numpy as np
import pytest
import records
import torch
from browser import make_run
from pages import Page, decode
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from lightning_saliency.errors import RecordError
from lightning_saliency.viewer import show
from lightning_saliency.viewer.events import _read_small_events, read_curves
from lightning_saliency.viewer.report import build_report, open_records

pytestmark = pytest.mark.usefixtures("front")


def build(*folders, **options) -> tuple[str, Page]:
    report = build_report(open_records(folders), **options)
    return report.html, Page(report.html)


@pytest.fixture
def run(tmp_path):
    return records.record(tmp_path / "logs/version_0")


def test_the_page_holds_what_the_record_does(run):
    _, page = build(run)
    (index,) = page.index
    assert (index["id"], index["run"], index["levels"]) == ("version_0/saliency", "version_0", 127)
    assert index["cut"] == []
    assert [m["step"] for m in index["moments"]] == [0, 9]
    record = open_records([run])[0]
    for step in (0, 9):
        maps = decode(page.texts[f"m-0-{step}"], (6, 3, 16, 16))
        assert np.array_equal(maps, record.maps(step))
    assert index["photos_uri"].startswith("data:image/jpeg;base64,")


def test_the_script_is_in_the_page_and_nothing_is_asked_for(run):
    text, page = build(run)
    assert "getElementById(name, find)" in text
    policy = next(told["content"] for _, told in page.tags if "http-equiv" in told)
    assert policy.startswith("default-src 'none'; ")
    assert "http" not in policy
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "url(" not in text
    assert [told.get("type") for tag, told in page.tags if tag == "script"] == [
        *("application/json", "text/plain", "text/plain", "module"),
    ]


def test_a_place_without_scripts_sees_a_picture_and_the_verdict(run):
    verdict = {
        **{"outcome": "fail", "good_runs": 3},
        "findings": [
            {
                **{"requirement": "moved_mass <= auto", "measure": "moved_mass", "value": 0.5},
                **{"low": None, "high": 0.2, "source": "3 good runs", "mark": "fail"},
            },
            {"measure": "mark.share", "mark": "pass", "value": None, "low": 0.1, "high": 0.3},
            {"measure": "object.share", "mark": "warn", "value": 0.001, "low": 0.1},
        ],
        "growth": {"region": None, "row": 0, "column": 2, "before": 0.1, "now": 0.4},
        "images": [{"name": "image 3", "index": 3, "moved": 0.7}],
    }
    (run / "saliency/verdict.json").write_text(json.dumps(verdict))
    text, page = build(run)
    picture = next(told for tag, told in page.tags if tag == "img")
    assert picture["alt"] == "The images of version_0 and their maps at epoch 1"
    data = picture["src"].removeprefix("data:image/jpeg;base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format == "JPEG"
    assert min(image.size) > 250
    assert text.index("<table>") < text.index("<img")
    before_script = unescape(text[: text.index("saliency-index")])
    for words in (
        *("Attention fails", "moved_mass", "0.500", "at most 0.200", "3 good runs"),
        *("not finite", "0.100 to 0.300", "at least 0.100", "image 3 (0.70)"),
        "What grew: row 1, column 3 of the grid, from 10.0% to 40.0% of the gradient.",
    ):
        assert words in before_script
    assert page.index[0]["verdict"]["outcome"] == "fail"
    verdict["growth"] = verdict["growth"] | {"scattered": True}
    (run / "saliency/verdict.json").write_text(json.dumps(verdict))
    text, _ = build(run)
    assert "What grew: no one place, the whole profile shifted; most: row 1, column 3" in text


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    for name in ("a/logs/version_0", "a/logs/version_1", "b/version_0"):
        records.record(tmp_path / name)
    names = lambda *folders: [r.run for r in open_records([tmp_path / f for f in folders])]  # noqa: E731
    assert names("a/logs/version_0") == ["version_0"]
    assert names("a/logs/version_0/saliency") == ["version_0"]
    assert names("a/logs/version_0", "a/logs/version_1") == ["version_0", "version_1"]
    assert names("a/logs/version_1", "a/logs/version_1") == ["version_1"]
    assert names("a", "b") == ["a/logs/version_0", "a/logs/version_1", "b/version_0"]


def test_two_callbacks_of_one_run_are_two_runs_of_the_page(run):
    records.record(run.parent / "other")
    (run.parent / "other/saliency").rename(run / "mine")
    _, page = build(run)
    assert [each["id"] for each in page.index] == ["version_0/mine", "version_0/saliency"]
    assert "m-1-9" in page.texts


def test_what_is_cut_is_said_in_the_page(tmp_path):
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(6, 3, 200, 200, generator=generator).half()
    run = records.record(tmp_path / "run", changed={"maps": maps})
    budget = 300_000
    text, page = build(run, budget=budget)
    assert len(text.encode()) <= budget
    (index,) = page.index
    assert index["levels"] == 15
    assert index["cut"] == [
        "Maps have 31 levels of strength instead of 255.",
        "Maps have 64 × 64 pixels instead of 200 × 200.",
    ]
    assert index["moments"][0]["map"] == [16, 16]
    assert index["map"] == [64, 64]
    for sentence in index["cut"]:
        assert f"<p>{sentence}</p>" in text


NAME = (
    'x" onload="alert(0)<img src=x onerror=alert(1)></script x></script/>'
    "<!--\u2028\u2029\"'&\x00\udc80"
)


def test_numbers_of_observations_that_were_cut_are_left(tmp_path):
    run = make_run(tmp_path / "run", observations=9, side=40)
    size = len(build(run)[0])
    text, page = build(run, budget=size - 150_000)
    (index,) = page.index
    assert len(index["moments"]) < 9
    everything = [*index["moments"], *index["thinned"]]
    assert sorted(each["step"] for each in everything) == [0, *range(9, 80, 10)]
    assert sorted(each["measures"]["moved_mass"] for each in everything) == pytest.approx(
        [0.1 * number for number in range(9)]
    )
    steps = [each["step"] for each in index["thinned"]]
    assert steps == sorted(steps)
    assert len(text.encode()) <= size - 150_000


def test_names_never_become_markup(tmp_path):
    told = {
        **{"images": (NAME,) * 6, "class_names": (NAME, "b", "c"), "commit": NAME},
        "settings": {"rule": NAME},
    }
    changed = {
        "caption": NAME,
        "maps": {NAME: records.observation().snapshot.maps["guided_backprop"]},
        "peaks": {NAME: records.observation().snapshot.peaks["guided_backprop"]},
        "measures": {NAME: 0.5},
    }
    changed["maps"]["gradient"] = changed["maps"][NAME]
    changed["peaks"]["gradient"] = changed["peaks"][NAME]
    folder = tmp_path / "<b>&amp;<script>alert(2)<"
    run = records.record(folder, told=told, changed=changed)
    verdict = {
        **{"outcome": NAME, "why": NAME, "images": [{"name": NAME, "index": 0, "moved": 1.0}]},
        "findings": [{"measure": NAME, "mark": NAME, "value": 0.5, "source": NAME, "low": 0.1}],
        "growth": {"region": NAME, "row": 0, "column": 0, "before": 0.1, "now": 0.2},
    }
    (run / "saliency/verdict.json").write_text(json.dumps(verdict))
    SummaryWriter(str(run)).add_scalar(NAME.replace("\udc80", "").replace("\x00", ""), 1.0, 1)
    text, page = build(run)
    assert not [told for _, told in page.tags if any(name.startswith("on") for name in told)]
    assert [tag for tag, _ in page.tags].count("img") == 1
    assert [tag for tag, _ in page.tags].count("script") == 5
    assert not [tag for tag, _ in page.tags if tag == "b"]
    assert page.texts["saliency-index"].isascii()
    assert not set("<>&") & set(page.texts["saliency-index"])
    (index,) = page.index
    assert index["images"][0] == NAME
    assert index["verdict"]["outcome"] == NAME
    assert index["run"] == folder.name
    text.encode()


def test_the_maps_of_a_second_rule_have_its_name(tmp_path):
    maps = records.observation().snapshot.maps["guided_backprop"]
    both = {"gradient": maps, 'x">&': -maps}
    peaks = dict.fromkeys(both, records.observation().snapshot.peaks["guided_backprop"])
    _, page = build(records.record(tmp_path / "run", changed={"maps": both, "peaks": peaks}))
    assert {id_ for id_ in page.texts if id_.startswith("m-")} == {"m-0-0", "m-0-9", 'm-0-9-x">&'}
    shape = (6, 3, 16, 16)
    assert np.array_equal(
        decode(page.texts["m-0-9"], shape), -decode(page.texts['m-0-9-x">&'], shape)
    )


def test_damage_costs_what_it_holds(run):
    (run / "saliency/observation-0000000000.safetensors").write_bytes(b"")
    (run / "saliency/photos.safetensors").write_bytes(b"")
    (run / "saliency/verdict.json").write_text("{")
    _, page = build(run)
    (index,) = page.index
    assert index["unreadable"] == 3
    assert [m["step"] for m in index["moments"]] == [9]
    assert index["photos_uri"].startswith("data:image/jpeg")


def test_folders_without_a_run_are_refused(tmp_path, run):
    with pytest.raises(RecordError, match="is not a folder; pass the log folder of a run"):
        open_records([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordError, match=r"no recorded run in .*empty\. A run with"):
        open_records([run, tmp_path / "empty"])
    files = list((run / "saliency").glob("observation-*"))
    for file in files:
        file.write_bytes(b"")
    with pytest.raises(RecordError, match=r"that can be read; 2 damaged file\(s\)\. Copy"):
        open_records([run])
    for file in files:
        file.unlink()
    with pytest.raises(RecordError, match="holds no observations yet"):
        open_records([run])
    (run / "saliency/run.json").write_text("{}")
    with pytest.raises(RecordError, match=r"run\.json is damaged"):
        open_records([run])


def test_curves_are_read_from_events_without_pictures(run):
    with SummaryWriter(str(run)) as writer:
        for step in range(1000):
            writer.add_scalar("val_acc", step / 1000, step)
            writer.add_scalar("new", 0.5, step, new_style=True)
        writer.add_scalar("epoch", 1, 1)
        writer.add_scalar("saliency/moved", 1, 1)
        writer.add_scalar("loss", float("nan"), 1)
        writer.add_scalar("loss", 0.25, 2)
        writer.add_image("saliency/image", np.random.default_rng(0).random((3, 200, 200)), 1)
        writer.add_scalar("after", 0.125, 3)
    curves = read_curves(run, "saliency")
    assert set(curves) == {"val_acc", "new", "loss", "after"}
    assert curves["loss"] == [(2, 0.25)]
    assert curves["after"] == [(3, 0.125)]
    assert len(curves["val_acc"]) == 300
    assert curves["val_acc"][0] == (0, 0.0)
    assert curves["val_acc"][-1] == (999, 0.999)
    assert next(iter(curves)) == "val_acc"
    (path,) = run.glob("*tfevents*")
    assert path.stat().st_size > 100_000  # most of which is the picture, which is passed over
    assert max(map(len, _read_small_events(path))) < 200
    assert build(run)[1].index[0]["scalars"] == {
        name: [list(p) for p in each] for name, each in curves.items()
    }


def test_damaged_event_files_cost_what_they_hold(run):
    with SummaryWriter(str(run)) as writer:
        writer.add_scalar("loss", 0.25, 2)
    (good,) = run.glob("*tfevents*")
    data = good.read_bytes()
    (run / "events.out.tfevents.1.cut").write_bytes(data[:-3])
    (run / "events.out.tfevents.2.huge").write_bytes((2**63).to_bytes(8, "little") + data[8:])
    (run / "events.out.tfevents.3.noise").write_bytes(
        bytes([9, 0, 0, 0, 0, 0, 0, 0]) + b"\xff" * 99
    )
    (run / "events.out.tfevents.4.folder").mkdir()
    assert read_curves(run, "saliency")["loss"] == [(2, 0.25), (2, 0.25)]


def test_a_notebook_shows_a_frame_that_can_do_nothing_but_run_its_script(run):
    view = show(run, height=500)
    assert repr(view) == "<saliency of version_0; a notebook shows it>"
    page = Page(view._repr_html_())
    ((tag, told),) = page.tags
    assert tag == "iframe"
    assert told["sandbox"] == "allow-scripts"
    assert told["height"] == "500"
    assert told["srcdoc"] == view.report.html
    assert "autofocus" not in view.report.html
    with pytest.raises(ValueError, match="pass at least one log folder"):
        show()


def test_the_attribute_of_the_package_is_there():
    import lightning_saliency.viewer as viewer

    assert viewer.show is show
    with pytest.raises(AttributeError, match="has no attribute 'shown'"):
        viewer.shown  # noqa: B018
