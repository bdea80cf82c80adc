"""A report on disk and a run in a notebook, in a real browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import socket
import subprocess
import time
from typing import Any

import numpy as np
import pytest
from browser import Viewer, make_run, write_verdict
from PIL import Image

from lightning_saliency.draw.colours import colorize
from lightning_saliency.record.run import open_run
from lightning_saliency.viewer.maps import quantise
from lightning_saliency.viewer.notebook import show
from lightning_saliency.viewer.report import build_report, open_records

HOSTILE = ("</script><script>pwned=1</script>", "<img src=x onerror=pwned=1>", "<!-- ]]>")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    write_verdict(make_run(folder / "a", names=HOSTILE, rules=("gradient", "guided_backprop")))
    make_run(folder / "b", names=HOSTILE, seed=1)
    return folder


@pytest.fixture(scope="module")
def page(runs, tmp_path_factory):
    """The report of two runs."""
    report = build_report(open_records([runs / "a", runs / "b"]))
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(report.html, encoding="utf-8")
    return path


@pytest.fixture
def opened(browser):
    """Opens viewers without a network; by the end nothing may have complained or been asked for."""
    viewers = []

    def open_one(**options):
        viewers.append(Viewer(browser, offline=True, **options))
        return viewers[-1]

    yield open_one
    for viewer in viewers:
        viewer.close()
    assert [complaint for viewer in viewers for complaint in viewer.complaints] == []
    asked = {url.split(":")[0] for viewer in viewers for url in viewer.requests}
    assert asked <= {"file", "data", "about"}


def test_a_report_opens_from_disk_and_asks_for_nothing(opened, page, runs):
    viewer = opened().open_file(page, run="a/saliency")
    maps = open_run(runs / "a").observation(19).snapshot.maps["gradient"]
    own = colorize(quantise(maps[0, 0].numpy()).astype(np.float32) / 127, 16, "signed")
    assert abs(viewer.pixels()[..., :3].astype(int) - own).max() <= 1
    files = [url for url in viewer.requests if not url.startswith("data:")]
    assert [url.split("#")[0] for url in files] == [page.as_uri()]
    for key in ("i", "t", "3", "ArrowLeft"):
        assert viewer.press(key).pixels().std() > 5


def test_the_link_of_a_report_restores_the_view(opened, page):
    viewer = opened().open_file(page, run="a/saliency", vs="b/saliency")
    viewer.press("t", "3", "ArrowLeft")
    viewer.page.wait_for_function("() => location.hash.includes('at=1')")
    state, address = viewer.get("state"), viewer.page.evaluate("location.href")
    other = opened()
    other.page.goto(address)
    assert other.wait().get("state") == state
    assert other.text(".moment b") == "epoch 0"


def test_names_in_a_report_are_text(opened, page):
    viewer = opened().open_file(page, run="a/saliency")
    names = viewer.frame.locator(".row").first.locator(".tile .name")
    assert names.all_text_contents() == list(HOSTILE)
    assert viewer.page.evaluate("globalThis.pwned") is None
    assert viewer.frame.locator("#app img").count() == 0


def test_two_rules_in_a_report(opened, page, runs):
    viewer = opened().open_file(page, run="a/saliency", rule="*")
    maps = open_run(runs / "a").observation(19).snapshot.maps["guided_backprop"]
    own = colorize(quantise(maps[0, 0].numpy()).astype(np.float32) / 127, 16, "signed")
    assert abs(viewer.pixels(1)[..., :3].astype(int) - own).max() <= 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nobody_is_shut_out_of_a_report(opened, page, theme):
    viewer = opened(color_scheme=theme).open_file(page, run="a/saliency", vs="b/saliency")
    assert viewer.frame.evaluate("document.getElementById('app').dataset.theme") == theme
    for key in ("a", "i", "t"):
        assert viewer.press(key).find_violations() == []
    viewer.frame.locator("button[aria-label='Light or dark']").click()
    assert viewer.frame.evaluate("document.getElementById('app').dataset.theme") != theme
    assert viewer.find_violations() == []


def test_a_report_in_a_narrow_window(opened, page):
    viewer = opened(viewport={"width": 820, "height": 900})
    viewer.open_file(page, run="a/saliency", vs="b/saliency", outline="grown")
    for key in ("a", "i", "t"):
        overflow = "document.documentElement.scrollWidth - innerWidth"
        assert viewer.press(key).frame.evaluate(overflow) <= 0
        assert viewer.frame.locator(".tile .outline").count() > 0
        assert viewer.find_violations() == []


REFUSED = """() => new Promise((done) => {
  document.addEventListener("securitypolicyviolation", (event) => done(event.effectiveDirective));
  fetch("https://example.com/").catch(() => {});
})"""


def test_a_report_can_send_nothing(browser, page):
    viewer = Viewer(browser).open_file(page)
    assert viewer.frame.evaluate(REFUSED) == "connect-src"
    assert not [url for url in viewer.requests if "example.com" in url]
    viewer.close()


def test_without_scripts_a_report_has_a_picture_and_the_verdict(browser, page):
    context = browser.new_context(java_script_enabled=False, offline=True)
    static = context.new_page()
    static.goto(page.as_uri())
    assert static.locator("#app img").first.is_visible()
    assert "moved_mass" in static.locator("#app table").first.inner_text()
    context.close()


def test_a_notebook_keeps_the_focus(opened, runs, tmp_path):
    notebook = f"<!doctype html><input id=cell autofocus>{show(runs / 'a')._repr_html_()}"
    (tmp_path / "notebook.html").write_text(notebook, encoding="utf-8")
    viewer = opened()
    viewer.page.goto((tmp_path / "notebook.html").as_uri())
    viewer.frame = viewer.page.wait_for_selector("iframe").content_frame()
    viewer.wait()
    assert viewer.pixels().std() > 5
    viewer.frame.evaluate("saliencyViewer.seek(0)")
    assert viewer.wait().text(".moment b") == "untrained"
    assert viewer.page.evaluate("document.activeElement.id") == "cell"
    assert viewer.frame.locator("button[aria-label^='Copy a link']").count() == 0
    # Sandboxed, it can neither reach the notebook nor keep anything.
    sealed = "try { parent.document; return false } catch { return origin === 'null' }"
    assert viewer.frame.evaluate(f"() => {{ {sealed} }}")
    viewer.frame.locator(".lead").first.click()
    assert viewer.wait().get("state.view") == "image"


@pytest.fixture
def firefox(tmp_path):
    """A Firefox that falsifies what is read back from a canvas, asked over its own protocol."""
    program = shutil.which("firefox") or shutil.which("firefox-esr")
    if program is None:
        pytest.skip("Firefox is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"privacy.resistFingerprinting": True, "marionette.port": port}
    lines = [f"user_pref({json.dumps(k)}, {json.dumps(v)});" for k, v in settings.items()]
    (tmp_path / "user.js").write_text("\n".join(lines))
    command = [program, "--headless", "--no-remote", "--marionette", "--profile", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield Marionette(port)
        finally:
            process.terminate()


class Marionette:
    """Asks a Firefox: messages are JSON with their length in front."""

    def __init__(self, port: int) -> None:
        self.connection = connect(port)
        self.read()  # a greeting
        self.ask("WebDriver:NewSession", capabilities={})

    def ask(self, command: str, **arguments: Any) -> Any:
        message = json.dumps([0, 1, command, arguments]).encode()
        self.connection.sendall(b"%d:%s" % (len(message), message))
        _, _, error, result = self.read()
        assert error is None, error
        return result

    def read(self) -> Any:
        head = b""
        while not head.endswith(b":"):
            head += self.connection.recv(1)
        body = b""
        while len(body) < int(head[:-1]):
            body += self.connection.recv(int(head[:-1]) - len(body))
        return json.loads(body)

    def run(self, script: str) -> Any:
        """Run JavaScript in the page, and return what it returns."""
        options = {"args": [], "sandbox": None, "newSandbox": False}
        return self.ask("WebDriver:ExecuteScript", script=script, **options)["value"]


def connect(port: int) -> socket.socket:
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=30)
        except OSError:
            time.sleep(0.1)
    raise AssertionError("Firefox does not answer")


def test_firefox_paints_a_report_too(firefox, page, runs):
    firefox.ask("WebDriver:Navigate", url=f"{page.as_uri()}#run=a/saliency&size=96")
    for _ in range(100):
        if firefox.run("return document.querySelectorAll('.tile .picture:not(.waiting)').length"):
            break
        time.sleep(0.1)
    found = firefox.ask("WebDriver:FindElement", using="css selector", value=".tile .picture")
    (key,) = found["value"].values()
    shot = firefox.ask("WebDriver:TakeScreenshot", id=key, full=False)["value"]
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"))
    maps = open_run(runs / "a").observation(19).snapshot.maps["gradient"]
    values = quantise(maps[0, 0].numpy()).astype(np.float32) / 127
    # The element may begin between two pixels, so the centres of the map's pixels are compared.
    centres = picture[3::6, 3::6].astype(int)
    assert abs(centres - colorize(values, 16, "signed")).max() <= 1
