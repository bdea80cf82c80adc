"""What the tab serves, and what it refuses."""

from __future__ import annotations

import gzip
import io
import json
import os
from urllib.parse import quote

import numpy as np
import pytest
import records
import torch
from PIL import Image
from tab import Tab

from lightning_saliency.viewer import plugin as tab_plugin
from lightning_saliency.viewer.record import Record

RUN = "run/saliency"
QUOTED = quote(RUN, safe="")


@pytest.fixture
def logs(tmp_path):
    """A log folder with one run."""
    records.record(tmp_path / "logs/run")
    return tmp_path / "logs"


@pytest.fixture
def tab(logs):
    return Tab(logs)


def test_the_tab_is_active_if_there_is_a_record(tab, tmp_path):
    assert tab.plugin.is_active() is True
    (tmp_path / "empty").mkdir()
    empty = Tab(tmp_path / "empty")
    assert empty.plugin.is_active() is False
    assert empty.get("runs").json == {"runs": [], "unreadable": [], "notice": ""}


def test_the_runs_and_the_damaged_ones(logs):
    records.record(logs / "other", told={"started": "2026-02-02T00:00:00+00:00"})
    records.record(logs / "broken")
    (logs / "broken/saliency/run.json").write_text("{")
    tab = Tab(logs)
    answer = tab.get("runs").json
    assert [(r["id"], r["run"], r["started"]) for r in answer["runs"]] == [
        ("other/saliency", "other", "2026-02-02T00:00:00+00:00"),
        ("run/saliency", "run", "2026-01-01T00:00:00+00:00"),
    ]
    assert answer["unreadable"] == ["broken/saliency"]
    assert tab.run(RUN)["stamp"] == answer["runs"][1]["stamp"]


@pytest.mark.parametrize("remote", ["gs://bucket/logs", "s3://bucket/logs", "hdfs://host/logs"])
def test_a_remote_log_folder_is_explained_in_a_sentence(remote):
    tab = Tab(remote)
    assert not tab.plugin.is_active()
    answer = tab.get("runs").json
    assert answer["runs"] == []
    assert answer["notice"].startswith(f"{remote} is not on a disk of this machine")
    assert answer["notice"].count(".") == 1


def test_local_folders_next_to_a_remote_one_are_shown(logs):
    tab = Tab("", f"far:gs://bucket/logs,near:{logs}")
    assert tab.runs() == ["near/run/saliency"]
    assert "gs://bucket/logs" in tab.get("runs").json["notice"]


def test_maps_are_those_of_the_record(tab, logs):
    maps = Record(logs / "run/saliency", "run").maps(9)
    assert np.array_equal(tab.maps(RUN, 9), maps.ravel())
    assert np.array_equal(tab.maps(RUN, 9, "&images=4,1"), maps[[4, 1]].ravel())
    assert np.array_equal(tab.maps(RUN, 9, "&k=2,0"), maps[:, [2, 0]].ravel())
    assert np.array_equal(tab.maps(RUN, 9, "&images=3&k=1"), maps[3, 1].ravel())
    assert np.array_equal(tab.maps(RUN, 9, "&images=&k="), maps.ravel())
    assert np.array_equal(tab.maps(RUN, 9, "&rule=guided_backprop"), maps.ravel())


def test_maps_are_compressed_for_whoever_accepts_it(tab):
    path = f"maps?id={QUOTED}&step=9"
    plain, zipped = tab.get(path), tab.get(path, headers={"Accept-Encoding": "gzip"})
    assert zipped.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert gzip.decompress(zipped.data) == plain.data
    assert plain.headers["Content-Type"] == "application/octet-stream"
    assert plain.headers["X-Content-Type-Options"] == "nosniff"


def test_the_maps_of_each_rule(logs):
    maps = records.observation().snapshot.maps["guided_backprop"]
    both = {"gradient": maps, "deconvnet": -maps}
    changed = {"maps": both, "peaks": dict.fromkeys(both, torch.ones(6, 3))}
    records.record(logs / "two", changed=changed)
    tab = Tab(logs)
    one, other = (tab.maps("two/saliency", 9, f"&rule={rule}") for rule in both)
    assert np.array_equal(one, -other)
    assert np.array_equal(one, tab.maps("two/saliency", 9))


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", 404),
        ("id=nobody&step=9", 404),
        ("step=9", 404),
        (f"id={QUOTED}", 400),
        *(
            (f"id={QUOTED}&step={step}", 400)
            for step in ("", "x", "-1", "1.0", "9 ", "٩", "9" * 99)
        ),
        *((f"id={QUOTED}&step={step}", 404) for step in ("1", "8", "10", "9999999999999999")),
        *((f"id={QUOTED}&step=9&images={i}", 400) for i in ("x", "-1", "0,,1", "0,0", "1;2", ",")),
        *((f"id={QUOTED}&step=9&images={i}", 404) for i in ("6", "0,6", "9" * 16)),
        *((f"id={QUOTED}&step=9&k={k}", 400) for k in ("x", "1,1", "0x1")),
        (f"id={QUOTED}&step=9&k=3", 404),
        *((f"id={QUOTED}&step=9&rule={rule}", 404) for rule in ("gradient", "../maps", "measured")),
    ],
)
def test_what_is_not_listed_is_not_served(tab, query, code):
    answer = tab.get(f"maps?{query}")
    assert answer.status_code == code, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert b"<" not in answer.data


TRAVERSALS = [
    *("../../../../etc/passwd", "run/saliency/../../run/saliency", "/etc", "run/saliency/", "run"),
    *("run%2fsaliency", "run/saliency\0", "./run/saliency", "run\\saliency", "~", "file:///etc"),
]


@pytest.mark.parametrize("route", ["run", "maps", "photos"])
@pytest.mark.parametrize("id_", TRAVERSALS)
def test_no_id_leads_out_of_the_list(tab, route, id_):
    answer = tab.get(f"{route}?id={quote(id_, safe='')}&step=0")
    assert (answer.status_code, answer.text) == (404, "no such run")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("route", ["runs", "run", "maps", "photos"])
def test_nothing_can_be_changed(tab, logs, route, method):
    before = {p: p.read_bytes() for p in logs.rglob("*") if p.is_file()}
    assert tab.get(f"{route}?id={QUOTED}&step=9", method=method).status_code == 405
    assert {p: p.read_bytes() for p in logs.rglob("*") if p.is_file()} == before


def test_reading_writes_nothing(tab, logs):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in logs.rglob("*") if p.is_file()}
    folder = (logs / "run/saliency").stat().st_mtime_ns
    tab.run(RUN), tab.maps(RUN, 9), tab.get(f"photos?id={QUOTED}")
    told = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in logs.rglob("*") if p.is_file()}
    assert told == before
    assert (logs / "run/saliency").stat().st_mtime_ns == folder


def test_photos_are_one_picture(tab):
    answer = tab.get(f"photos?id={QUOTED}")
    assert answer.headers["Content-Type"] == "image/png"
    sheet = np.asarray(Image.open(io.BytesIO(answer.data)))
    assert np.array_equal(sheet, np.concatenate(list(records.photos().numpy()), axis=1))


def test_many_photos_stand_in_rows_of_at_most_4096_pixels():
    from lightning_saliency.viewer.sprite import draw_sprite

    photos = np.random.default_rng(0).integers(0, 256, (7, 3, 1300, 3), dtype=np.uint8)
    sheet = np.asarray(Image.open(io.BytesIO(draw_sprite(photos))))
    assert sheet.shape == (9, 3900, 3)
    assert np.array_equal(sheet[3:6, 1300:2600], photos[4])
    assert np.array_equal(sheet[6:, :1300], photos[6])
    assert not sheet[6:, 1300:].any()
    wide = np.zeros((2, 1, 5000, 3), np.uint8)
    assert Image.open(io.BytesIO(draw_sprite(wide))).size == (5000, 2)


@pytest.mark.parametrize("path", ["maps?id={}&step=9", "photos?id={}"])
def test_a_browser_asks_again_and_gets_it_again_only_if_it_changed(tab, logs, path):
    path = path.format(QUOTED)
    first = tab.get(path)
    tag = {"If-None-Match": first.headers["ETag"]}
    assert "no-cache" in first.headers["Cache-Control"]
    assert tab.get(path, headers=tag).status_code == 304
    assert tab.get(path, headers=tag).data == b""
    for file in (logs / "run/saliency").iterdir():
        os.utime(file, ns=(1, 1))
    again = tab.get(path, headers=tag)
    assert again.status_code == 200
    assert again.data == first.data


def test_a_step_that_is_not_listed_is_not_looked_for(tab, monkeypatch):
    monkeypatch.setattr(Record, "moment", None)
    answer = tab.get(f"maps?id={QUOTED}&step=8")
    assert (answer.status_code, answer.text) == (404, "no observation at step 8")


def test_what_was_asked_for_is_not_read_again(tab, monkeypatch):
    first = tab.maps(RUN, 9, "&images=2")
    monkeypatch.setattr(Record, "maps", None)
    assert np.array_equal(tab.maps(RUN, 9, "&images=2"), first)


def test_maps_that_were_replaced_are_read_again(tab, logs):
    """A resumed run writes other maps at a step that was shown before."""
    before = tab.maps(RUN, 9)
    records.record(logs / "run", 3)
    assert not np.array_equal(tab.maps(RUN, 9), before)


def test_a_damaged_file_says_so_without_its_place(tab, logs):
    (logs / "run/saliency/observation-0000000009.safetensors").write_bytes(b"")
    (logs / "run/saliency/photos.safetensors").write_bytes(b"")
    assert tab.run(RUN)["unreadable"] == 1
    for path in (f"maps?id={QUOTED}&step=9", f"photos?id={QUOTED}"):
        answer = tab.get(path)
        assert (answer.status_code, answer.text) == (404, "the file is damaged")


def test_a_run_that_is_gone(tab, logs):
    assert tab.runs() == [RUN]
    (logs / "run").rename(logs.parent / "run")
    for route in ("run", "maps", "photos"):
        answer = tab.get(f"{route}?id={QUOTED}&step=9")
        assert answer.status_code == 404
        assert str(logs) not in answer.text


HOSTILE = "<img src=x onerror=alert(1)>\u2028</script>\x1b[31m\udc80"


def test_names_are_json_in_ascii(logs):
    told = {"images": (HOSTILE,) * 6, "class_names": (HOSTILE, "b", "c")}
    records.record(logs / HOSTILE[:8], told=told)
    answer = Tab(logs).get(f"run?id={quote(f'{HOSTILE[:8]}/saliency', safe='')}")
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.data.isascii()
    assert answer.json["images"][0] == HOSTILE


def test_an_error_in_the_curves_does_not_cost_the_maps(tab):
    class Broken:
        def read_scalars(self, *arguments, **options):
            raise RuntimeError("the data server is gone")

    tab.plugin._scalars = Broken()
    assert tab.run(RUN)["scalars"] == {}


def test_the_files_of_the_front_end_have_one_route_each(logs, tmp_path, monkeypatch):
    static = tmp_path / "static"
    static.mkdir()
    for name in ("index.js", "app.css", "icon.svg", "notes.md", ".hidden.js"):
        (static / name).write_text(f"/* {name} */")
    monkeypatch.setattr(tab_plugin, "STATIC", static)
    tab = Tab(logs)
    assert {r for r in tab.apps if "." in r} == {
        "/index.js",
        "/app.css",
        "/icon.svg",
        "/.hidden.js",
    }
    script = tab.get("index.js")
    assert script.text == "/* index.js */"
    assert script.headers["Content-Type"] == "text/javascript; charset=utf-8"
    tag = {"If-None-Match": script.headers["ETag"]}
    assert tab.get("index.js", headers=tag).status_code == 304


def test_the_json_has_no_number_that_a_browser_refuses(logs):
    maps = torch.full((6, 3, 16, 16), torch.nan).half()
    bad = {"maps": maps, "peaks": torch.full((6, 3), torch.inf)}
    records.record(logs / "nan", changed=bad)
    text = Tab(logs).get(f"run?id={quote('nan/saliency', safe='')}").text

    def refuse(word: str) -> None:
        raise AssertionError(word)

    json.loads(text, parse_constant=refuse)


def test_the_cache_is_bounded_and_keeps_what_was_asked_for_last():
    from lightning_saliency.viewer.cache import ByteCache

    cache, made = ByteCache(10), []

    def make(key: str, size: int) -> bytes:
        return cache.get(key, lambda: made.append(key) or bytes(size))

    for key, size in [("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4), ("big", 11)]:
        assert len(make(key, size)) == size
    assert made == ["a", "b", "c", "b", "big"]
    make("b", 4), make("a", 4)
    assert made == ["a", "b", "c", "b", "big"]
