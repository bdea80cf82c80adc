"""The tab in a real browser, served by a real TensorBoard."""

from __future__ import annotations

import re
import shutil
from contextlib import ExitStack
from types import SimpleNamespace
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
import torch
import training
from browser import Viewer, add_observation, make_run, write_verdict
from captum.attr import IntegratedGradients, LayerGradCam
from tensorboard_server import serve

from lightning_saliency import SaliencyCallback
from lightning_saliency.captum import rule as captum_rule
from lightning_saliency.draw.colours import colorize
from lightning_saliency.record.run import open_run
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.viewer.maps import quantise
from lightning_saliency.viewer.report import build_report, open_records

HOSTILE = ("<img src=x onerror=parent.pwned=1>", "</script><script>pwned=1</script>", "c" * 90)
BOTH = ("guided_backprop", "gradient")
REFRESH = "saliencyViewer.refresh()"  # what the tab does every few seconds by itself


@pytest.fixture(scope="module")
def logs(tmp_path_factory, one_thread, browser):
    """A log folder with a run of each kind."""
    folder = tmp_path_factory.mktemp("logs")
    write_verdict(make_run(folder / "a", observations=5))
    make_run(folder / "b", observations=4, seed=1)
    make_run(folder / "spare")  # which tests may write again, as they like it
    make_run(folder / "many", images=64, classes=10, side=12)
    make_run(folder / "wide", images=2, classes=1000, side=8)
    make_run(folder / "changing", classes=8, shown=3, observations=4)
    make_run(folder / "hostile", names=HOSTILE, images=4, fingerprint="e" * 64)
    probe = training.one_image()
    training.fit(folder / "fitted", SaliencyCallback(probe, rule=BOTH, tile_size=24))
    return folder


@pytest.fixture(scope="module")
def server(logs, tmp_path_factory):
    with serve(tmp_path_factory.mktemp("server"), "--logdir", str(logs)) as running:
        running.wait_for_runs(8)
        yield running


@pytest.fixture
def serving():
    """Starts servers, and stops them once the viewers that ask them are closed."""
    with ExitStack() as stack:
        yield lambda *told, **named: stack.enter_context(serve(*told, **named))


@pytest.fixture
def opened(browser, serving):
    """Opens viewers and closes them; by then nothing may have complained."""
    viewers = []

    def open_one(**options):
        viewers.append(Viewer(browser, **options))
        return viewers[-1]

    yield open_one
    for viewer in viewers:
        viewer.close()
    assert [complaint for viewer in viewers for complaint in viewer.complaints] == []


@pytest.fixture
def tab(opened, server):
    """Opens what the tab shows, with a state."""

    def open_tab(run="a", *, options=None, **state):
        return opened(**options or {}).open_frame(server.base, run=f"{run}/saliency", **state)

    return open_tab


def recorded(logs, run, step, image, slot, rule="gradient"):
    """A map as the browser gets it, in units of its own peak."""
    maps = open_run(logs / run).observation(step).snapshot.maps[rule]
    return quantise(maps[image, slot].numpy()).astype(np.float32) / 127


# Views and pictures


def test_every_view_paints(tab):
    viewer = tab()
    for view in ("image", "time", "all"):
        viewer.press(view[0])
        for key, style in {"1": "signed", "2": "magnitude", "3": "overlay"}.items():
            viewer.press(key)
            assert (viewer.get("state.view"), viewer.get("state.style")) == (view, style)
            assert viewer.pixels().reshape(-1, 4).std(axis=0).max() > 5
            assert viewer.text(".moment b") == "epoch 3"


def test_a_tile_has_the_colours_of_the_packages_own_picture(tab, logs):
    viewer = tab()
    for key, style in {"1": "signed", "2": "magnitude"}.items():
        viewer.press(key)
        for tile, (image, slot) in {0: (0, 0), 5: (1, 2)}.items():
            own = colorize(recorded(logs, "a", 39, image, slot), 16, style)
            pixels = viewer.pixels(tile).astype(int)
            assert abs(pixels[..., :3] - own).max() <= 1
            assert (pixels[..., 3] == 255).all()


def test_an_overlay_looks_like_the_packages_own_picture(tab, logs):
    viewer = tab(style="overlay", size=96)
    photo = open_run(logs / "a").photos()[0].numpy()
    own = colorize(recorded(logs, "a", 39, 0, 0), 96, "overlay", np.kron(photo, np.ones((6, 6, 1))))
    inside = (slice(6, -6), slice(6, -6))  # the corners are round
    shown = viewer.screenshot(".tile .picture")
    assert shown.shape == (96, 96, 3)
    assert abs(shown[inside].astype(int) - own[inside]).max() <= 2  # two roundings: alpha, blend


def test_on_a_common_scale_a_map_is_as_strong_as_its_peak(tab, logs):
    viewer = tab(scale="run", at=1)
    peaks = [
        open_run(logs / "a").observation(s).snapshot.peaks["gradient"]
        for s in range(-1, 40, 10)
        if s > 0
    ]
    peaks = torch.cat([open_run(logs / "a").observation(0).snapshot.peaks["gradient"], *peaks])
    ordered = peaks.flatten().sort().values
    scale = float(ordered[int(0.95 * (len(ordered) - 1))])
    gain = float(open_run(logs / "a").observation(9).snapshot.peaks["gradient"][0, 0]) / scale
    own = colorize(recorded(logs, "a", 9, 0, 0) * np.float32(gain), 16, "signed")
    # The server rounds peaks to four digits, so that a value may fall on the next colour.
    assert np.mean(abs(viewer.pixels()[..., :3].astype(int) - own).max(axis=-1) <= 1) > 0.97
    assert viewer.press("f").get("state.scale") == "map"
    assert abs(viewer.pixels()[..., :3] - own.astype(int)).max() > 10


def test_photos_are_those_of_the_record(tab, logs):
    viewer = tab(size=96)
    photos = open_run(logs / "a").photos().numpy()
    for row in (0, 3):
        shown = viewer.screenshot(f".row:nth-of-type({row + 1}) .lead .photo")
        assert (shown[3::6, 3::6] == photos[row])[1:-1].all()


def test_dark_paper_gets_dark_maps_and_follows_tensorboard(opened, server):
    viewer = opened().open_tab(server.base, run="a/saliency")
    light = viewer.pixels()[0, 0].astype(int)
    viewer.page.evaluate("document.body.classList.add('dark-mode')")
    viewer.wait("document.body.dataset.theme === 'dark'")
    assert viewer.pixels()[..., :3].mean() < 100 < light[:3].mean()
    viewer.page.evaluate("document.body.classList.remove('dark-mode')")
    viewer.wait("document.body.dataset.theme === 'light'")
    assert (viewer.pixels()[0, 0] == light).all()


def test_nothing_is_too_wide_for_a_narrow_window(tab):
    viewer = tab(vs="b/saliency", options={"viewport": {"width": 820, "height": 900}})
    overflow = "document.documentElement.scrollWidth - innerWidth"
    for view in ("a", "i", "t"):
        assert viewer.press(view).frame.evaluate(overflow) <= 0
        boxes = [e.bounding_box() for e in viewer.frame.locator(".toolbar button:visible").all()]
        assert all(box["x"] + box["width"] <= 820 for box in boxes)


# Time


def test_dialogs_and_menus_fit_into_a_narrow_window(tab):
    viewer = tab(options={"viewport": {"width": 820, "height": 900}})

    def check(selector):
        box = viewer.frame.locator(selector).bounding_box()
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= 820
        assert box["y"] + box["height"] <= 900
        assert viewer.find_violations() == []

    viewer.frame.locator(".verdict").click()
    check("dialog")
    viewer.press("Escape", "?")
    check("dialog")
    viewer.press("Escape")
    viewer.frame.locator("button[aria-label='Choose curves']").click()
    check(".lane-menu")


def test_in_a_narrow_window_fewer_classes_are_shown_so_that_they_can_be_named(tab):
    viewer = tab("wide", options={"viewport": {"width": 820, "height": 900}})
    tiles = viewer.frame.locator(".row").first.locator(".tile")
    assert tiles.count() == 7
    assert tiles.first.bounding_box()["width"] >= 80
    assert "true class" in tiles.first.get_attribute("aria-label")


def test_the_step_does_not_reach_into_the_axis(tab, logs):
    make_run(logs / "spare", observations=4, per_epoch=1_000_000)
    viewer = tab("spare", options={"viewport": {"width": 820, "height": 900}})
    words = viewer.frame.locator(".moment span").bounding_box()
    assert viewer.text(".moment span").replace("\u00a0", " ") == "step 2,999,999 · 4 of 4"
    axis = viewer.frame.locator(".axis").bounding_box()
    assert words["x"] + words["width"] <= axis["x"]


def test_words_below_photos_and_maps_stand_on_a_line(tab):
    viewer = tab()
    tops = [
        viewer.frame.locator(f".row .{kind} .words").first.bounding_box()["y"]
        for kind in ("lead", "tile")
    ]
    assert tops[0] == pytest.approx(tops[1], abs=0.5)


def test_the_slider_goes_one_observation_per_key(tab):
    viewer = tab()
    viewer.frame.locator(".axis .slider").focus()
    assert viewer.press("ArrowLeft").text(".moment b") == "epoch 2"
    assert viewer.press("ArrowLeft", "ArrowRight").text(".moment b") == "epoch 2"
    assert viewer.press("Home").text(".moment b") == "untrained"
    assert (
        viewer.frame.locator(".axis .slider").get_attribute("aria-valuetext") == "untrained, step 0"
    )


def test_keys_work_without_a_click(tab):
    viewer = tab()
    assert viewer.press("ArrowLeft").get("t") == 3
    assert viewer.press("Shift+ArrowLeft").get("t") == 0
    assert viewer.press("End").get("t") == 4
    for key, value in {"1": "signed", "2": "magnitude", "3": "overlay"}.items():
        assert viewer.press(key).get("state.style") == value
    for key, value in {"i": "image", "t": "time", "a": "all"}.items():
        assert viewer.press(key).get("state.view") == value
    assert viewer.press("]").get("state.image") == 1
    assert viewer.press("[", "[").get("state.image") == 0
    assert viewer.press("Escape").get("state.view") == "all"
    assert "←" in viewer.press("?").text("dialog")
    assert viewer.press("Escape").get("dialogs.open") is False


def test_keys_leave_the_focused_control_alone(tab):
    viewer = tab("many")
    viewer.frame.locator(".search input").fill("class 1")
    assert viewer.press("a", "k").get("state.find") == "class 1ak"
    viewer.frame.locator("[name=View]").first.focus()
    assert viewer.press("ArrowRight").get("state.view") == "image"


def test_dragging_in_a_lane_moves_the_slider(tab):
    viewer = tab()
    lane = viewer.frame.locator(".lane svg").first.bounding_box()
    viewer.page.mouse.move(lane["x"] + 8, lane["y"] + 10)
    viewer.page.mouse.down()
    viewer.wait("saliencyViewer.t === 0")
    viewer.page.mouse.move(lane["x"] + viewer.get("axis.width") / 2, lane["y"] + 10)
    viewer.wait("saliencyViewer.t === 2")
    viewer.page.mouse.up()
    cursor = viewer.frame.locator(".cursor").bounding_box()
    assert abs(cursor["x"] - lane["x"] - viewer.get("axis.width") / 2) < 2


def test_playing_shows_every_observation_and_ends(tab):
    viewer = tab()
    viewer.frame.evaluate("""() => {
      globalThis.visited = [];
      const go = saliencyViewer.go.bind(saliencyViewer);
      saliencyViewer.go = (t) => { go(t); visited.push(saliencyViewer.t); };
    }""")
    viewer.press("k")
    assert viewer.frame.locator("button[aria-label=Pause]").count() == 1
    viewer.wait("!saliencyViewer.player.playing")
    assert viewer.frame.evaluate("visited") == [0, 1, 2, 3, 4]
    viewer.press("k", "k")
    assert viewer.get("player.playing") is False


def test_playing_stops_when_another_tab_is_in_front(opened, server):
    viewer = opened().open_tab(server.base, run="a/saliency")
    slow = "() => new Promise((done) => setTimeout(done, 1500))"
    viewer.frame.evaluate(f"() => {{ saliencyViewer.scene.fetchAt = {slow}; }}")
    viewer.press("k")
    viewer.page.locator("text=Scalars").first.click()
    viewer.frame.wait_for_function("!saliencyViewer.player.playing", polling=100)
    assert viewer.get("visible") is False
    assert viewer.get("t") < viewer.get("timeline.end")


def test_an_observation_between_two_columns_is_shown_at_its_place(tab):
    viewer = tab(view="time", size=220)
    columns = viewer.get("scene.columns")
    assert columns[0] == 0
    assert columns[-1] == 4
    assert len(columns) < 5
    between = next(t for t in range(5) if t not in columns)
    viewer.frame.evaluate(f"saliencyViewer.seek({between})")
    viewer.wait()
    assert viewer.text(".head.moving") == viewer.text(".moment b")
    cursor = viewer.frame.locator(".cursor").bounding_box()["x"]
    box = viewer.frame.locator(".tile.moving").first.bounding_box()
    assert abs(box["x"] + box["width"] / 2 - cursor) < 2


PLACES = """async (runs) => {
  const {Timeline} = await import("/data/plugin/saliency/timeline.js");
  const moments = (steps) => steps.map(([step, epoch, caption]) => ({step, epoch, caption}));
  const timeline = new Timeline(runs.map((steps) => ({moments: moments(steps)})));
  return [timeline.epochs, timeline.latest];
}"""


def test_moments_within_epochs_keep_their_order(tab):
    viewer = tab()
    inside = [[0, -1, "untrained"], [100, 0, "step 100"], [200, 0, "step 200"]]
    (epochs, latest) = viewer.frame.evaluate(PLACES, [inside])
    assert epochs[0] == 0
    assert 0 < epochs[1] < epochs[2] < 1
    # In an epoch that has not ended, two runs are aligned by step.
    longer = [*inside, [300, 0, "step 300"]]
    (epochs, latest) = viewer.frame.evaluate(PLACES, [inside, longer])
    assert latest == [[0, 1, 2, 2], [0, 1, 2, 3]]
    # Halfway through an epoch is halfway, and epochs of different lengths are aligned by epoch.
    ended = [*inside[:1], [49, 0, "step 49"], [99, 0, "epoch 0"], [149, 1, "step 149"]]
    (epochs, latest) = viewer.frame.evaluate(
        PLACES, [ended, [[0, -1, "untrained"], [9, 0, "epoch 0"]]]
    )
    assert epochs[:3] == [0, pytest.approx(0.5, abs=0.01), 1]
    assert latest[1] == [0, 0, 1, 1]


# Links


def test_a_link_restores_the_view(opened, server):
    viewer = opened().open_tab(server.base, run="a/saliency", vs="b/saliency")
    viewer.press("t", "2", "f", "ArrowLeft")
    viewer.page.wait_for_function("location.hash.includes('p.saliency.at=3')")
    state, address = viewer.get("state"), viewer.page.evaluate("location.href")
    other = opened().open_link(address)
    assert other.get("state") == state
    assert (other.get("t"), other.text(".moment b")) == (3, "epoch 2")
    assert (state["view"], state["style"], state["scale"]) == ("time", "magnitude", "run")


def test_a_link_with_nonsense_in_it_opens(tab):
    viewer = tab("nowhere", view="<b>", at="soon", image=-3, size="NaN", style="toString", cls="x")
    assert viewer.get("state.view") == "all"
    assert viewer.get("state.style") == "signed"
    assert viewer.press("i", "t").get("state.view") == "time"


def test_where_the_clipboard_is_closed_a_link_is_shown(tab):
    viewer = tab()
    viewer.frame.evaluate(
        "() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')); }"
    )
    viewer.frame.locator("button[aria-label^='Copy a link']").click()
    viewer.wait("saliencyViewer.dialogs.open")
    assert "p.saliency.run=a" in viewer.frame.locator("textarea").input_value()


# Comparisons


def test_two_runs_are_aligned_by_epoch(tab, logs):
    viewer = tab(vs="b/saliency")
    assert viewer.get("timeline.length") == 5
    assert viewer.texts(".badge")[:4] == ["A", "B", "A", "B"]
    # The second run ends an epoch earlier: its last maps stay, faded.
    assert viewer.frame.locator(".row").first.locator(".stale").count() == 3
    assert viewer.press("ArrowLeft").frame.locator(".stale").count() == 0
    own = colorize(recorded(logs, "b", 29, 0, 0), 16, "signed")
    assert abs(viewer.pixels(1)[..., :3].astype(int) - own).max() <= 1


def test_both_runs_share_a_scale(tab):
    viewer = tab(vs="b/saliency", scale="run")
    shared = viewer.get("gain(saliencyViewer.sides[0], 1)")
    assert viewer.get("gain(saliencyViewer.sides[1], 1)") == shared
    assert shared == 1 / max(viewer.get(f"runs[{r}].highPeak('gradient')") for r in (0, 1))


def test_runs_with_other_images_are_said_to_have_them(tab):
    assert "different probe images" in tab(vs="hostile/saliency").text(".notes")


def test_two_rules_side_by_side(tab, logs):
    viewer = tab("fitted", rule="*")
    assert viewer.get("sides.map((side) => side.rule)") == list(BOTH)
    step = open_run(logs / "fitted").steps()[-1]
    side = open_run(logs / "fitted").observation(step).snapshot.maps["gradient"].shape[-1]
    own = colorize(recorded(logs, "fitted", step, 0, 0, "gradient"), side, "signed")
    slots = viewer.get("runs[0].slots")
    tile = viewer.get("scene.rows[0].tiles.length") if slots > 3 else 1
    assert abs(viewer.pixels(tile)[..., :3].astype(int) - own).max() <= 1
    viewer.frame.locator("text=Gradient").first.click()
    assert viewer.wait().get("state.rule") == "gradient"
    assert viewer.frame.locator(".tile .badge").count() == 0


def test_methods_of_other_libraries_stand_next_to_the_built_in_rules(opened, serving, tmp_path):
    integrated = captum_rule(IntegratedGradients, n_steps=2)
    cam = captum_rule(LayerGradCam, layer="conv2", name="grad_cam")
    names = ["guided_backprop", "integrated_gradients", "grad_cam"]
    watcher = SaliencyCallback(
        training.one_image(), rule=(names[0], integrated, cam), tile_size=24, targets=[1, 2]
    )
    logs = tmp_path / "logs"
    training.fit(logs / "fitted", watcher, max_epochs=1)
    (tmp_path / "server").mkdir()
    server = serving(tmp_path / "server", "--logdir", str(logs))
    (run,) = server.wait_for_runs(1)
    report = tmp_path / "report.html"
    report.write_text(build_report(open_records([logs])).html, "utf-8")
    for viewer in (
        opened().open_frame(server.base, run=run["id"], rule="*"),
        opened().open_file(report, rule="*"),
    ):
        assert viewer.get("sides.map((side) => side.rule)") == names
        step = open_run(logs / "fitted").steps()[-1]
        tiles = viewer.get("scene.rows[0].tiles.map((t) => [t.side.rule, t.slot])")
        for tile, (name, slot) in enumerate(tiles):
            maps = recorded(logs, "fitted", step, 0, slot, name)
            own = colorize(maps, maps.shape[-1], "signed")
            assert abs(viewer.pixels(tile)[..., :3].astype(int) - own).max() <= 1
        assert len(tiles) == 6
        assert "Integrated gradients" in viewer.text(".toolbar")
        assert "Grad cam" in viewer.text(".toolbar")


def test_many_rules_have_letters_and_colours(opened, tmp_path):
    rules = tuple(f"rule_{number}" for number in range(10))
    make_run(tmp_path / "run", rules=rules, observations=1, images=1, classes=2)
    report = tmp_path / "report.html"
    report.write_text(build_report(open_records([tmp_path / "run"])).html, "utf-8")
    viewer = opened().open_file(report, rule="*")
    assert viewer.get("sides.map((side) => side.letter).join('')") == "ABCDEFGHIJ"
    coloured = "[...document.querySelectorAll('.tile .badge')].map((b) => b.className)"
    assert set(viewer.frame.evaluate(coloured)) == {f"badge side-{number}" for number in range(4)}


# Many images and classes


def test_of_many_images_those_in_sight_are_painted_and_filters_find_others(tab):
    viewer = tab("many")
    assert viewer.frame.locator(".row").count() == 64
    assert viewer.frame.locator(".tile").count() < 300
    viewer.frame.locator("select[aria-label='Which images']").select_option("wrong")
    assert viewer.wait().texts(".row .saying") == ["✗ class 2"]
    assert viewer.text(".hint") == "1 of 64 images"
    viewer.frame.locator("select[aria-label='Which images']").select_option("all")
    viewer.frame.locator(".search input").fill("IMAGE 63")
    assert viewer.wait().texts(".row .saying") == ["class 3"]
    viewer.frame.locator(".search input").fill("zebra")
    assert "zebra" in viewer.wait().text(".nothing")


def test_what_changed_most_comes_first(tab, logs):
    viewer = tab("many")
    viewer.frame.locator("select[aria-label='Which images']").select_option("changed")
    run = open_run(logs / "many")
    shares = []
    for step in (19, 0):
        maps = quantise(run.observation(step).snapshot.maps["gradient"].numpy()).astype(float) ** 2
        own = maps[np.arange(64), np.arange(64) % 10]
        shares.append(own / own.sum(axis=(1, 2), keepdims=True))
    moved = abs(shares[0] - shares[1]).sum(axis=(1, 2)) / 2
    expected = [f"image {i}: open" for i in np.argsort(-moved, kind="stable")]
    viewer.wait(f"document.querySelector('.row .lead').title === '{expected[0]}'")
    leads = viewer.frame.locator(".row .lead").evaluate_all("all => all.map((lead) => lead.title)")
    assert leads == expected
    viewer.frame.locator("select[aria-label='Which images']").select_option("all")
    viewer.wait("document.querySelector('.row .lead').title === 'image 0: open'")


def test_of_a_thousand_classes_only_those_shown_are_fetched(tab):
    viewer = tab("wide")
    assert viewer.frame.locator(".row").first.locator(".tile").count() == 12
    asked = [parse_qs(urlparse(url).query) for url in viewer.requests if "/maps?" in url]
    assert asked
    assert all(len(query["k"][0].split(",")) <= 12 for query in asked)
    assert "true class" in viewer.frame.locator(".tile").first.get_attribute("aria-label")


def test_a_class_is_found_by_a_part_of_its_name(tab):
    viewer = tab("wide")
    box = viewer.frame.locator("input[role=combobox]")
    box.fill("ss 70")
    assert viewer.texts("[role=option]")[:2] == ["class 70", "class 700"]
    viewer.press("ArrowDown", "Enter")
    assert viewer.get("state.cls") == "700"
    assert (
        "class 700" in viewer.frame.locator(".row").first.locator(".tile .name").all_inner_texts()
    )
    assert box.input_value() == "class 700"
    viewer.press("Escape")
    box.evaluate("box => box.blur()")
    viewer.press("t")
    assert ", class 700" in viewer.frame.locator(".tile").first.get_attribute("aria-label")


def test_classes_that_change_keep_their_names(tab, logs):
    viewer = tab("changing")
    run = open_run(logs / "changing")
    for key, step in (("End", 29), ("Home", 0)):
        targets = run.observation(step).snapshot.targets[0].tolist()
        names = viewer.press(key).frame.locator(".row").first.locator(".tile .name")
        assert names.all_inner_texts() == [f"class {target}" for target in targets]
    # Over time a class that was not explained at a moment leaves its place empty.
    viewer = tab("changing", view="time", cls=5)
    explained = [5 in run.observation(s).snapshot.targets[0].tolist() for s in run.steps()]
    assert viewer.get("scene.columns") == [0, 1, 2, 3]
    columns = viewer.frame.locator(".film-row").first.locator(".tile:not(.moving)")
    absent = columns.evaluate_all("all => all.map((tile) => tile.classList.contains('absent'))")
    assert absent == [not each for each in explained]


# The verdict


def test_the_verdict_leads_to_the_maps(tab):
    viewer = tab()
    assert viewer.text(".verdict") == "✗ Attention fails"
    assert "at most 0.050" in viewer.frame.locator(".lane:has-text('moved_mass')").get_attribute(
        "title"
    )
    viewer.frame.locator(".verdict").click()
    assert "row 1, column 8" in viewer.text("dialog")
    assert viewer.texts(".moved .name") == ["image 2", "image 0"]
    viewer.frame.locator(".moved").first.click()
    assert viewer.wait().get("state") | {"view": "image", "image": 2} == viewer.get("state")
    viewer.frame.locator(".verdict").click()
    viewer.frame.locator("dialog .plain", has_text="class 1").click()
    assert viewer.wait().get("state") | {"view": "time", "cls": "1"} == viewer.get("state")
    viewer.frame.locator(".verdict").click()
    viewer.frame.locator("text=See it in all images").click()
    assert viewer.wait().get("state.view") == "all"


def find_outline(viewer, selector):
    """Where the outline on a picture is, in parts of the picture: left, top, right, bottom."""
    picture = viewer.frame.locator(selector).first
    box, inner = picture.bounding_box(), picture.locator(".outline").bounding_box()
    left, top = inner["x"] - box["x"], inner["y"] - box["y"]
    edges = (left, top, left + inner["width"], top + inner["height"])
    return [edge / box["width"] for edge in edges]


@pytest.mark.parametrize("dark", [False, True])
def test_the_cell_that_grew_is_outlined_on_every_map(tab, dark):
    viewer = tab()
    if dark:
        viewer.page.evaluate("document.body.classList.add('dark-mode')")
        viewer.wait("document.body.dataset.theme === 'dark'")
    assert viewer.frame.locator(".stage .outline").count() == 0
    viewer.frame.locator(".verdict").click()
    cell = pytest.approx([7 / 8, 0, 1, 1 / 8], abs=0.01)
    assert find_outline(viewer, ".moved .photo") == cell
    viewer.frame.locator("text=See it in all images").click()
    for key in ("a", "i", "t"):
        viewer.press(key)
        assert find_outline(viewer, ".tile .picture") == cell
        every = viewer.frame.locator(".tile").count()
        assert viewer.frame.locator(".tile .outline").count() == every
        assert "row 1, column 8" in viewer.text(".outline-note")
        assert viewer.find_violations() == []
    viewer.press("i")
    assert find_outline(viewer, ".aside .photo") == cell
    assert viewer.get("state.outline") == "grown"
    # A map is painted as before; a ring of black and white is on its cell.
    shown = viewer.screenshot(".tile .picture")
    side = len(shown)
    ring = shown[: side // 8, -side // 8 :]
    assert ring.min() < 60
    assert ring.max() > 240
    viewer.frame.locator("text=Hide the outline").click()
    assert viewer.wait().frame.locator(".stage .outline").count() == 0
    assert viewer.frame.evaluate("document.activeElement.tagName") == "MAIN"


def test_of_a_map_that_is_no_square_the_cell_is_within_it(tab):
    viewer = tab()
    style = """async () => {
      const {makeOutline} = await import("/data/plugin/saliency/outline.js");
      const {left, top, width, height} = makeOutline({row: 7, column: 0}, [10, 20]).style;
      return [left, top, width, height];
    }"""
    assert viewer.frame.evaluate(style) == ["0%", "68.75%", "12.5%", "6.25%"]


def test_a_region_that_grew_has_no_outline(tab, logs):
    growth = {"region": "tag", "row": 0, "column": 7, "before": 0, "now": 1}
    write_verdict(make_run(logs / "spare"), growth=growth)
    viewer = tab("spare", outline="grown")
    assert viewer.frame.locator(".outline").count() == 0
    viewer.frame.locator(".verdict").click()
    viewer.frame.locator("text=See it in all images").click()
    assert viewer.wait().get("state.outline") == ""
    assert viewer.frame.locator(".outline").count() == 0


def test_a_profile_that_shifted_everywhere_is_told_from_a_place_that_grew(tab, logs):
    growth = {"region": None, "row": 0, "column": 7, "before": 0.01, "now": 0.02}
    write_verdict(make_run(logs / "spare"), growth=growth | {"scattered": True})
    viewer = tab("spare")
    viewer.frame.locator(".verdict").click()
    shown = viewer.text(".growth")
    assert shown.startswith("No one place grew: the whole profile shifted, as after a change of")
    assert "row 1, column 8" in shown


# The curves


def lanes(viewer):
    return viewer.texts(".lane-name")


def test_the_reader_chooses_which_curves_are_drawn(opened, server):
    viewer = opened().open_tab(server.base, run="a/saliency")
    usual = lanes(viewer)
    assert usual == ["moved_mass"]
    viewer.press("i")
    assert lanes(viewer) == ["p(true class)", "moved_mass"]
    button = viewer.frame.locator("button[aria-label='Choose curves']")
    button.focus()
    viewer.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    assert viewer.texts(".lane-menu li") == ["p(true class)", "moved_mass"]
    assert viewer.find_violations() == []
    viewer.press("Space")  # the first box has the focus
    assert lanes(viewer) == ["moved_mass"]
    assert viewer.get("state.view") == "image"
    viewer.press("Tab", "Space")
    assert lanes(viewer) == []
    viewer.press("Space", "Escape")
    assert lanes(viewer) == ["moved_mass"]
    assert (viewer.get("state.view"), viewer.get("state.lanes")) == ("image", '["moved_mass"]')
    assert viewer.frame.locator(".lane-menu").is_hidden()
    assert viewer.frame.evaluate("document.activeElement.ariaLabel") == "Choose curves"
    viewer.page.wait_for_function("location.hash.includes('p.saliency.lanes=')")
    other = opened().open_link(viewer.page.evaluate("location.href"))
    assert lanes(other) == ["moved_mass"]
    other.frame.locator("button[aria-label='Choose curves']").click()
    other.frame.locator("text=Show the usual ones").click()
    assert other.press("Escape").get("state.view") == "image"
    other.frame.locator("button[aria-label='Choose curves']").click()
    assert lanes(other.wait()) == ["p(true class)", "moved_mass"]
    other.frame.locator(".stage").click(position={"x": 5, "y": 5})
    assert other.frame.locator(".lane-menu").is_hidden()


def test_curves_are_whole_where_maps_were_thinned_out(tab, logs):
    run = make_run(logs / "spare", observations=9, keep=3)
    viewer = tab("spare")
    assert viewer.get("timeline.length") == 3
    assert viewer.frame.locator(".ticks line").count() == 3
    points = viewer.get("dock.lanes[0].series[0]")
    assert [value for _, value in points] == pytest.approx([0.1 * n for n in range(9)])
    steps = open_run(run).steps()
    places = np.interp([0, *range(9, 80, 10)], steps, range(3))
    assert [place for place, _ in points] == pytest.approx(list(places), abs=0.05)
    for key, value in (("Home", "0.000"), ("ArrowRight", None), ("End", "0.800")):
        shown = viewer.press(key).text(".lane .values")
        at = viewer.get("runs[0].moments[saliencyViewer.t].measures.moved_mass")
        assert shown == (value or f"{at:.3f}")


def test_of_many_curves_there_is_room_for_some(tab):
    viewer = tab("fitted", options={"viewport": {"width": 1000, "height": 320}})
    assert len(lanes(viewer)) == 1
    viewer.frame.locator("button[aria-label='Choose curves']").click()
    for name in viewer.texts(".lane-menu li"):
        box = viewer.frame.locator(".lane-menu li", has_text=name).first.locator("input")
        if box.is_enabled() and not box.is_checked():
            box.check()
    assert len(lanes(viewer.wait())) == 3
    assert "room for 3" in viewer.text(".lane-menu p")
    menu = viewer.frame.locator(".lane-menu").bounding_box()
    assert menu["y"] >= 0
    assert viewer.find_violations() == []


def test_curves_that_a_run_does_not_have_are_passed_over(tab):
    for link in ('["val_acc"]', "[", "5", "null", '{"a": 1}'):
        assert lanes(tab(lanes=link)) == ["moved_mass"]


# A run that changes under the open tab


@pytest.fixture
def growing(logs, server):
    """A run that is not finished, and ways to change it."""
    folder = make_run(logs / "growing", observations=2, finished=False)
    info = open_run(folder).info
    writer = RunWriter(folder / "saliency")
    server.wait_for_runs(9)

    def add(number, **options):
        add_observation(writer, info, number, **options)

    yield SimpleNamespace(add=add, folder=folder / "saliency")
    shutil.rmtree(folder)
    server.wait_for_runs(8)


def test_a_run_that_grows_is_followed_unless_one_looks_back(tab, growing):
    viewer = tab("growing")
    assert viewer.text(".moment b") == "epoch 0"
    growing.add(2)
    viewer.frame.evaluate(REFRESH)
    assert viewer.wait("saliencyViewer.timeline.length === 3").text(".moment b") == "epoch 1"
    assert viewer.text(".news") == "live"
    viewer.press("Home")
    growing.add(3)
    viewer.frame.evaluate(REFRESH)
    assert viewer.wait("saliencyViewer.timeline.length === 4").text(".moment b") == "untrained"
    assert viewer.text(".news") == "live, 1 new one"
    viewer.frame.locator(".news").click()
    assert viewer.wait().text(".moment b") == "epoch 2"
    assert viewer.text(".news") == "live"


def test_a_run_is_looked_for_again_by_itself(tab, growing):
    viewer = tab("growing")
    growing.add(2)
    viewer.wait("saliencyViewer.timeline.length === 3")


def test_a_run_that_is_pruned_or_damaged_or_goes_on_from_before(tab, growing, logs):
    for number in (2, 3, 4):
        growing.add(number, of=8)
    viewer = tab("growing")
    (growing.folder / "observation-0000000009.safetensors").unlink()
    (growing.folder / "observation-0000000019.safetensors").write_bytes(b"not a tensor")
    viewer.frame.evaluate(REFRESH)
    viewer.wait("saliencyViewer.timeline.length === 3")
    assert viewer.texts(".notes p") == ["1 file of growing could not be read."]
    before = viewer.pixels()
    (growing.folder / "observation-0000000039.safetensors").unlink()
    growing.add(4, random=torch.Generator().manual_seed(99))
    viewer.frame.evaluate(REFRESH)
    own = recorded(logs, "growing", 39, 0, 0)
    viewer.frame.wait_for_timeout(500)
    assert abs(viewer.wait().pixels() - before.astype(int)).max() > 10
    assert abs(viewer.pixels()[..., :3].astype(int) - colorize(own, 16, "signed")).max() <= 1


def test_maps_that_are_not_finite_are_hatched(tab, growing):
    path = growing.folder / "observation-0000000009.safetensors"
    from safetensors.torch import load, save

    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    about = re.search(rb'"__metadata__":(\{.*?\}"\})', data[: 8 + size])
    tensors = load(data)
    tensors["maps"][0, 1], tensors["peaks"][0, 1] = -128, torch.nan
    import json

    path.write_bytes(save(tensors, json.loads(about[1])))
    viewer = tab("growing")
    tiles = viewer.frame.locator(".row").first.locator(".tile .picture")
    broken = tiles.evaluate_all("all => all.map((each) => each.classList.contains('broken'))")
    assert broken == [False, True, False]
    assert (viewer.pixels(1)[..., 3] == 0).all()
    assert "not finite" in viewer.frame.locator(".tile").nth(1).get_attribute("aria-label")


def test_a_run_that_keeps_some_and_goes_on_from_before_is_followed(tab, logs):
    folder = make_run(logs / "spare", observations=4, keep=3, finished=False)
    viewer = tab("spare")
    steps = "runs[0].moments.map((moment) => moment.step)"
    assert viewer.get(steps) == open_run(folder).steps()
    assert viewer.get("timeline.length") == 3
    before = open_run(folder).steps()[-2]
    writer = RunWriter(folder / "saliency", 3)
    writer.begin(open_run(folder).info, open_run(folder).photos(), after=before)
    assert len(open_run(folder).steps()) == 2  # The last observation is set aside.
    viewer.frame.evaluate(REFRESH)
    viewer.wait("saliencyViewer.timeline.length === 2")
    for number in (3, 4):
        random = torch.Generator().manual_seed(number)
        add_observation(writer, open_run(folder).info, number, random=random)
        viewer.frame.evaluate(REFRESH)
        viewer.wait(f"saliencyViewer.runs[0].moments.at(-1).step === {10 * number - 1}")
        assert viewer.get(steps) == open_run(folder).steps()
    assert len(viewer.get(steps)) == 3
    own = colorize(recorded(logs, "spare", 39, 0, 0), 16, "signed")
    assert abs(viewer.pixels()[..., :3].astype(int) - own).max() <= 1
    assert viewer.frame.locator(".notes p").count() == 0


# Safety, and people


REFUSED = """() => new Promise((done) => {
  document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
  const script = document.createElement("script");
  script.textContent = "globalThis.pwned = 1";
  document.body.append(script);
})"""


def test_scripts_that_are_put_into_the_tab_are_refused_and_noticed(tab):
    """What the other tests rely on when they find no complaint."""
    viewer = tab()
    assert viewer.frame.evaluate(REFUSED) == "script-src-elem"
    assert viewer.frame.evaluate("globalThis.pwned") is None
    viewer.frame.wait_for_timeout(100)
    assert "Content Security Policy" in viewer.complaints.pop()


def test_names_are_text_and_never_markup(tab):
    viewer = tab("hostile")
    for view in ("t", "i", "a"):
        viewer.press(view)
        assert viewer.frame.locator("img, script:not([src])").count() <= 1  # TensorBoard's own
    names = viewer.frame.locator(".row").first.locator(".tile .name")
    assert names.all_text_contents() == list(HOSTILE)
    assert viewer.page.evaluate("globalThis.pwned") is None
    assert viewer.frame.evaluate("globalThis.pwned") is None


def test_everything_comes_from_the_own_routes(tab, server):
    viewer = tab(vs="b/saliency", view="time")
    assert all(url.startswith((server.base, "data:")) for url in viewer.requests)


@pytest.mark.parametrize("dark", [False, True])
def test_nobody_is_shut_out(tab, dark):
    viewer = tab(vs="b/saliency")
    if dark:
        viewer.page.evaluate("document.body.classList.add('dark-mode')")
        viewer.wait("document.body.dataset.theme === 'dark'")
    for key in ("a", "i", "t", "?"):
        assert viewer.press(key).find_violations() == []
    viewer.press("Escape", "a")
    viewer.frame.locator(".verdict").click()
    assert viewer.find_violations() == []


def test_lists_of_many_shut_nobody_out(tab):
    viewer = tab("wide")
    viewer.frame.locator("input[role=combobox]").focus()
    assert viewer.find_violations() == []
    assert tab("many", show="wrong").find_violations() == []
    assert tab("fitted", rule="*").find_violations() == []


# Other TensorBoards


def test_without_records_the_tab_teaches(opened, serving, tmp_path):
    (tmp_path / "logs").mkdir()
    server = serving(tmp_path, "--logdir", str(tmp_path / "logs"))
    viewer = opened().open_frame(server.base)
    assert "SaliencyCallback()" in viewer.text(".message code")
    assert viewer.find_violations() == []
    viewer.page.evaluate("document.body.classList.add('dark-mode')")
    viewer.wait("document.body.dataset.theme === 'dark'")
    assert viewer.find_violations() == []
    make_run(tmp_path / "logs/run")
    server.wait_for_runs(1)
    viewer.frame.evaluate(REFRESH)
    viewer.frame.wait_for_function("saliencyViewer.ready")
    assert viewer.wait().text(".moment b") == "epoch 1"


def test_a_path_prefix_a_spec_and_the_slow_loader(opened, serving, logs, tmp_path):
    (tmp_path / "link").symlink_to(logs / "a")
    arguments = ("--logdir_spec", f"mine:{tmp_path / 'link'},other:{logs / 'b'}")
    options = ("--path_prefix", "/some/where", "--load_fast=false")
    server = serving(tmp_path, *arguments, *options, prefix="/some/where")
    server.wait_for_runs(2)
    viewer = opened().open_tab(server.base, run="mine/saliency", vs="other/saliency")
    assert viewer.get("runs.map((run) => run.name)") == ["mine", "other"]
    assert viewer.pixels().std() > 5
