"""The documentation site: it builds without a warning, and its pages need no other host."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import start_browser
from documents import PAGES
from imports import FLOORS
from paths import DOCS, REPOSITORY

pytest.importorskip("mkdocs", reason="mkdocs is not installed")

QUIET = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
COMMANDS = ("reference", "check", "approve", "diff", "show", "report")


def build(target: Path, config: Path = REPOSITORY / "mkdocs.yml") -> subprocess.CompletedProcess:
    """Build the site as `make docs` does."""
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    command += ["--config-file", str(config), "--site-dir", str(target)]
    return subprocess.run(command, cwd=REPOSITORY, env=QUIET, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    target = tmp_path_factory.mktemp("site")
    done = build(target)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return target


def test_each_document_has_a_page(site: Path):
    for path in PAGES:
        assert (site / path.relative_to(DOCS)).with_suffix(".html").is_file(), path
    for name in ("index", "results", "contributing", "changelog"):
        assert (site / f"{name}.html").is_file()


def test_no_page_shows_what_only_sphinx_understands(site: Path):
    for page in site.rglob("*.html"):
        assert not re.search(r":(class|func|meth|mod|data):", page.read_text()), page


def test_the_callback_has_the_docstring_of_its_base(site: Path):
    text = (site / "reference/callback.html").read_text()
    assert "Explain a fixed probe batch at epoch ends" in text
    assert "every_n_train_steps" in text


def test_the_reference_has_the_public_names(site: Path):
    import lightning_saliency

    found = set()
    for page in (site / "reference").glob("*.html"):
        found |= set(re.findall(r'id="lightning_saliency\.([\w.]+)"', page.read_text()))
    doors = {"rules.declare", "photos.read_photo", "photos.to_tensor", "testing.assert_attention"}
    doors |= {"testing.reference_from_models", "health.health", "viewer.show"}
    assert {*lightning_saliency.__all__, *doors} <= found


def test_the_help_of_each_command_is_that_of_the_command(site: Path):
    text = (site / "reference/commands.html").read_text()
    for command in COMMANDS:
        assert f"usage: lightning-saliency {command} [-h]" in text


def test_the_drawing_shows_each_room_on_its_layer():
    drawing = ElementTree.parse(DOCS / "images/layers.svg")
    texts = {e.get("y"): e.text for e in drawing.iter() if e.get("class") == "number"}
    names = {e.get("y"): e.text for e in drawing.iter() if e.get("class") == "name"}
    shown = {int(texts[y]): set(name.split(" · ")) for y, name in names.items()}
    assert shown == {number: set(floor) for number, floor in enumerate(FLOORS, start=1)}


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a build says of four links that lead nowhere, each on a page of its own."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copytree(DOCS, folder / "docs")
    for page, link in {
        "rules.md": "nowhere.md",
        "viewer.md": "rules.md#no-such-section",
        "comparison.md": "../tests/no_such_test.py",
        "guides/honest.md": "../images/no_such_picture.png",
    }.items():
        with (folder / "docs" / page).open("a") as file:
            file.write(f"\n[a link]({link})\n")
    text = (REPOSITORY / "mkdocs.yml").read_text()
    plugins = re.compile(r"^plugins:\n.*?(?=^markdown_extensions)", flags=re.M | re.S)
    text = plugins.sub("plugins: []\n", text)  # The reference takes most of the time.
    text = text.replace("docs/theme/hooks.py", str(DOCS / "theme/hooks.py"))
    (folder / "mkdocs.yml").write_text(text)
    done = build(folder / "site", folder / "mkdocs.yml")
    assert done.returncode != 0
    return done.stderr


@pytest.mark.parametrize(
    "link", ["nowhere.md", "no-such-section", "no_such_test.py", "no_such_picture.png"]
)
def test_a_link_that_leads_nowhere_fails_the_build(link: str, broken: str):
    warnings = [line for line in broken.splitlines() if line.startswith("WARNING")]
    assert len([line for line in warnings if link in line]) == 1
    assert len(warnings) == 4


# --- in a browser


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    handler = functools.partial(_Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_no_page_asks_another_host_for_anything(site: Path, address: str):
    with start_browser() as browser:
        page = browser.new_context(viewport={"width": 820, "height": 900}).new_page()
        page.set_default_timeout(120_000)  # Machines that test are busy.
        requests: list[str] = []
        failures: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.on("response", lambda r: failures.append(r.url) if r.status >= 400 else None)
        wide = []
        for path in sorted(site.rglob("*.html")):
            page.goto(f"{address}/{path.relative_to(site)}", wait_until="load")
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                wide.append(path.name)
        page.goto(f"{address}/index.html#__search")
        page.fill("input[name=query]", "deconvnet")
        page.wait_for_selector(".md-search-result__item")  # The index is its own as well.
    assert len(requests) > 100
    assert [url for url in requests if not url.startswith((address, "data:"))] == []
    assert [url for url in failures if "favicon.ico" not in url] == []
    assert wide == []  # No page scrolls sideways; tables and code do so by themselves.
