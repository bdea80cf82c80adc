"""A real TensorBoard with the tab: how it starts, what it shows, what cannot stop it."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
import records
import training
from paths import REPOSITORY
from tensorboard_server import serve

from lightning_saliency import SaliencyCallback
from lightning_saliency.record.run import open_run

RULES = ("guided_backprop", "gradient")
FITTED = quote("fitted/saliency", safe="")


@pytest.fixture(scope="module")
def logs(tmp_path_factory, one_thread) -> Path:
    """A log folder: a run with events and two rules, made-up ones without events, and damage."""
    folder = tmp_path_factory.mktemp("logs")
    probe = training.one_image()
    training.fit(folder / "fitted", SaliencyCallback(probe, rule=RULES, tile_size=24))
    records.record(folder / "deep/version_0")
    (records.record(folder / "damaged") / "saliency/run.json").write_text("{")
    elsewhere = records.record(tmp_path_factory.mktemp("elsewhere") / "run")
    (folder / "linked").symlink_to(elsewhere)
    return folder


@pytest.fixture(scope="module")
def server(logs, tmp_path_factory):
    """The usual TensorBoard, asked by several tests."""
    with serve(tmp_path_factory.mktemp("server"), "--logdir", str(logs)) as running:
        running.wait_for_runs(3)
        yield running


def wait_for_scalars(server, run: str) -> dict:
    """TensorBoard reads its events in the background."""
    for _ in range(100):
        found = server.get(f"run?id={run}").json["scalars"]
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("no scalars")


def test_the_tab_is_listed_among_the_others(server):
    listing = server.get("/data/plugins_listing").json
    assert listing["saliency"]["enabled"] is True
    assert listing["saliency"]["tab_name"] == "Saliency"
    assert listing["saliency"]["loading_mechanism"]["type"] == "IFRAME"
    assert listing["scalars"]["enabled"] is True


def test_runs_with_and_without_events_linked_and_damaged_ones(server):
    answer = server.get("runs").json
    runs = {run["id"]: run["run"] for run in answer["runs"]}
    assert runs == {
        "deep/version_0/saliency": "deep/version_0",
        "fitted/saliency": "fitted",
        "linked/saliency": "linked",
    }
    assert answer["unreadable"] == ["damaged/saliency"]


def test_a_real_run_is_shown_as_it_was_recorded(server, logs):
    run = open_run(logs / "fitted")
    index = server.get(f"run?id={FITTED}").json
    assert [m["step"] for m in index["moments"]] == run.steps()
    assert index["rules"] == list(RULES)
    assert index["class_names"] == (run.info.class_names and list(run.info.class_names))
    assert index["metrics"] == run.info.metrics
    for moment, step in zip(index["moments"], run.steps(), strict=True):
        observation = run.observation(step)
        assert moment["caption"] == observation.caption
        assert moment["measures"] == pytest.approx(dict(observation.measures))
        for rule in RULES:
            maps = observation.snapshot.maps[rule].float().numpy()
            answer = server.get(f"maps?id={FITTED}&step={step}&rule={rule}")
            served = np.frombuffer(answer.body, np.int8).reshape(maps.shape)
            assert np.abs(served / 127 - maps).max() <= 0.5 / 127 + 1e-6


def test_the_curves_of_a_run_come_with_it(server, logs):
    curves = wait_for_scalars(server, FITTED)
    expected = training.scalars(logs / "fitted")
    assert set(curves) == set(expected) - {"epoch"}
    for name, points in curves.items():
        assert [step for step, _ in points] == [step for step, _ in expected[name]]
        assert [v for _, v in points] == pytest.approx([v for _, v in expected[name]], rel=1e-5)


@pytest.mark.parametrize(
    "path",
    [
        *("../../../../../etc/passwd", "..%2f..%2f..%2fetc%2fpasswd", "static/index.js", "nothing"),
        *("/data/plugin/saliency/../../../../etc/passwd", "plugin.py", "..%2fplugin.py", "%00", ""),
        *("maps/../runs", "index.js%00.css", "index.js/../../plugin.py", "//etc/passwd"),
    ],
)
def test_no_path_leads_to_a_file(server, path):
    assert server.get(path).status in (400, 404)


def test_the_page_of_the_tab_is_that_of_tensorboard(server):
    page = server.get("/data/plugin_entry.html?name=saliency")
    assert page.status == 200
    assert b"./index.js" in page.body
    assert "script-src" in page.headers["content-security-policy"]


def test_a_path_prefix_and_the_other_way_of_loading(logs, tmp_path):
    arguments = ("--logdir", str(logs), "--path_prefix=/tb", "--load_fast=false")
    with serve(tmp_path, *arguments, prefix="/tb") as server:
        server.wait_for_runs(3)
        listing = server.get("/data/plugins_listing").json["saliency"]
        assert listing["loading_mechanism"]["module_path"].startswith("/tb/data/plugin/saliency/")
        step = server.get(f"run?id={FITTED}").json["moments"][0]["step"]
        assert server.get(f"maps?id={FITTED}&step={step}").status == 200
        assert set(wait_for_scalars(server, FITTED)) == set(training.scalars(logs / "fitted")) - {
            "epoch"
        }


def test_named_log_folders(logs, tmp_path):
    spec = f"mine:{logs / 'fitted'},{logs / 'deep'}"
    with serve(tmp_path, "--logdir_spec", spec) as server:
        runs = {run["id"]: run["run"] for run in server.wait_for_runs(2)}
        assert runs == {"mine/saliency": "mine", "version_0/saliency": "version_0"}
        assert wait_for_scalars(server, quote("mine/saliency", safe=""))


def test_a_linked_log_folder_and_a_run_that_begins_later(logs, tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "logs").symlink_to(tmp_path / "own")
    with serve(tmp_path, "--logdir", str(tmp_path / "logs")) as server:
        assert server.get("runs").json["runs"] == []
        assert server.get("/data/plugins_listing").json["saliency"]["enabled"] is False
        records.record(tmp_path / "own/version_0")
        assert server.wait_for_runs(1)[0]["id"] == "version_0/saliency"
        assert server.get("/data/plugins_listing").json["saliency"]["enabled"] is True


def test_a_tab_that_cannot_be_imported_stops_no_tensorboard(logs, tmp_path):
    """Whatever is broken in this package, its entry point only loses the tab."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import sys\nsys.modules['lightning_saliency.viewer.plugin'] = None\n"
    )
    environment = {"PYTHONPATH": f"{broken}:{REPOSITORY}"}
    script = (
        "from tensorboard.backend.application import TensorBoardWSGIApp\n"
        "from tensorboard.plugins.base_plugin import TBContext\n"
        "from lightning_saliency.viewer.entry import SaliencyLoader\n"
        "print('loaded', SaliencyLoader().load(TBContext(logdir='x')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "loaded None\n"
    assert "The tab 'Saliency' is missing" in done.stderr


HEAVY = ("torch", "pytorch_lightning", "lightning", "torchvision", "matplotlib", "PIL", "pandas")


def test_the_tab_imports_neither_torch_nor_lightning(logs):
    """The fastest of three processes, for a machine that has other things to do as well."""
    script = (
        "import sys, time\n"
        "import tensorboard.main, tensorboard.default, numpy\n"
        "tensorboard.default.get_plugins()\n"
        "begun, before = time.process_time(), set(sys.modules)\n"
        "from lightning_saliency.viewer.entry import SaliencyLoader\n"
        "entry = time.process_time() - begun\n"
        "from tensorboard.plugins.base_plugin import TBContext\n"
        f"tab = SaliencyLoader().load(TBContext(logdir={str(logs)!r}))\n"
        "assert tab.is_active() and tab.get_plugin_apps()\n"
        "print(entry, time.process_time() - begun, *sorted(set(sys.modules) - before))\n"
    )
    command = [sys.executable, "-c", script]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(3)
    ]
    assert not {name.split(".")[0] for name in runs[0][2:]} & set(HEAVY)
    assert min(float(entry) for entry, *_ in runs) < 0.05
    assert min(float(whole) for _, whole, *_ in runs) < 0.3


def test_no_flag_of_tensorboard_is_touched():
    from argparse import ArgumentParser, Namespace

    from tensorboard.plugins.base_plugin import TBLoader

    from lightning_saliency.viewer.entry import SaliencyLoader

    assert SaliencyLoader.fix_flags is TBLoader.fix_flags
    assert SaliencyLoader.define_flags is TBLoader.define_flags
    parser, flags = ArgumentParser(), Namespace(samples_per_plugin={})
    before = parser.format_help()
    SaliencyLoader().define_flags(parser)
    SaliencyLoader().fix_flags(flags)
    assert parser.format_help() == before
    assert vars(flags) == {"samples_per_plugin": {}}


def test_the_entry_point_is_declared():
    text = (REPOSITORY / "pyproject.toml").read_text()
    section = re.search(r"^\[project\.entry-points\.tensorboard_plugins\]\n(.*)$", text, re.M)
    assert section is not None
    assert section[1] == 'saliency = "lightning_saliency.viewer.entry:SaliencyLoader"'
