"""A real browser that looks at the viewer, and runs made up for it to look at."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import records
import torch
from PIL import Image

from lightning_saliency.functional.measures import profiles
from lightning_saliency.record.facts import RunInfo
from lightning_saliency.record.observation import Measured
from lightning_saliency.record.writer import RunWriter

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers have little of it
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
)
SIZE = {"width": 1400, "height": 900}
PATIENCE = 20_000  # milliseconds: tests run on busy machines

# The colours of the pixels of a canvas, row by row.
_READ_CANVAS = """canvas => {
  const {width, height} = canvas;
  return [height, width, [...canvas.getContext("2d").getImageData(0, 0, width, height).data]];
}"""
_SETTLED = """() => {
  const viewer = globalThis.saliencyViewer;
  if (document.querySelector(".message")) return true;
  if (!viewer?.ready || document.querySelector(".picture.waiting")) return false;
  const rows = viewer.scene.rows.filter((row) => !row.element.hidden);
  return rows.every((row) => !row.inSight || row.tiles.length) &&
    (rows.length === 0 || rows.some((row) => row.inSight));
}"""


@contextmanager
def start_browser() -> Iterator[Any]:
    """Start the browser of this machine, or skip the test where there is none.

    The browser is a process of ours and is killed at the end: one that Playwright starts is asked
    to close and waited for, for ever if need be.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{_wait_for_port(process, Path(profile))}"
            with sync_api.sync_playwright() as playwright:
                yield playwright.chromium.connect_over_cdp(address)
                os.killpg(process.pid, signal.SIGKILL)  # before Playwright says goodbye to it
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_for_port(process: subprocess.Popen[bytes], profile: Path) -> int:
    """The port on which the browser is told what to do; it writes it into its profile."""
    for _ in range(1200):
        with suppress(FileNotFoundError, IndexError):
            return int((profile / "DevToolsActivePort").read_text().split()[0])
        if process.poll() is not None:
            raise AssertionError(f"{process.args[0]} ended at its start: {process.returncode}")
        time.sleep(0.05)
    raise AssertionError("the browser does not answer")


def _link(state: dict[str, Any]) -> str:
    return "".join(f"&p.saliency.{key}={quote(str(v), safe='')}" for key, v in state.items())


class Viewer:
    """The viewer in a page of a browser: in the frame of TensorBoard's tab, or on its own.

    Attributes:
        page: The page of the browser.
        frame: The frame that the viewer is in.
        complaints: Errors, and what a content security policy refused.
        requests: The addresses that were asked for.
    """

    def __init__(self, browser: Any, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": SIZE, **options})
        self.page = self.frame = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.on("request", lambda request: self.requests.append(request.url))

    def _listen(self, message: Any) -> None:
        # TensorBoard's own complaints are not ours. What a policy refuses comes without a place.
        place = message.location["url"]
        own = any(part in place for part in ("/data/plugin", "file:", "about:"))
        if message.type == "error" and (own or not place):
            self.complaints.append(message.text)

    def open_tab(self, base: str, **state: Any) -> Viewer:
        """Open the TensorBoard at ``base`` with the tab in front, by a link with ``state``."""
        return self.open_link(f"{base}/#saliency{_link(state)}")

    def open_link(self, address: str) -> Viewer:
        self.page.goto(address)
        handle = self.page.wait_for_selector("iframe[src*='name=saliency']", state="attached")
        self.frame = handle.content_frame()
        return self.wait()

    def open_frame(self, base: str, **state: Any) -> Viewer:
        """Open what the tab's frame has in it, without TensorBoard around it, which takes long.

        Its policy is the same. It finds the link and the theme in its own page.
        """
        self.page.goto(f"{base}/data/plugin_entry.html?name=saliency#saliency{_link(state)}")
        return self.wait()

    def open_file(self, path: Path, **state: Any) -> Viewer:
        """Open a page on disk by a link with ``state``."""
        self.page.goto(f"{path.as_uri()}#{'&'.join(f'{k}={quote(str(state[k]))}' for k in state)}")
        return self.wait()

    def wait(self, condition: str = _SETTLED) -> Viewer:
        """Wait until a condition in JavaScript holds; by default, until all maps are painted."""
        if condition != _SETTLED:
            # As a function, because a strict page evaluates no text.
            self.frame.wait_for_function(f"() => {condition}")
        self.frame.wait_for_function(_SETTLED)
        return self

    def press(self, *keys: str) -> Viewer:
        for key in keys:
            self.page.keyboard.press(key)
        return self.wait()

    def get(self, expression: str) -> Any:
        """A value of the viewer, such as ``"state.view"``."""
        return self.frame.evaluate(f"saliencyViewer.{expression}")

    def text(self, selector: str) -> str:
        return self.frame.locator(selector).first.inner_text()

    def texts(self, selector: str) -> list[str]:
        """The texts of what can be seen."""
        return [e.inner_text() for e in self.frame.locator(selector).all() if e.is_visible()]

    def pixels(self, tile: int = 0) -> np.ndarray:
        """The colours of a map at its own resolution, ``(h, w, 4)`` uint8."""
        canvas = self.frame.locator(".tile canvas").nth(tile)
        height, width, values = canvas.evaluate(_READ_CANVAS)
        return np.array(values, np.uint8).reshape(height, width, 4)

    def screenshot(self, selector: str) -> np.ndarray:
        """What an element looks like, ``(h, w, 3)`` uint8."""
        from io import BytesIO

        data = self.frame.locator(selector).first.screenshot()
        return np.asarray(Image.open(BytesIO(data)).convert("RGB"))

    def find_violations(self) -> list[str]:
        """Ask axe-core for what people with a disability could not use."""
        axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="no axe-core")
        found = axe.Axe().run(self.frame).response["violations"]
        return [f"{v['id']}: {[n['html'][:120] for n in v['nodes'][:3]]}" for v in found]

    def close(self) -> None:
        self.context.close()


def make_run(
    folder: Path,
    *,
    images: int = 6,
    classes: int = 3,
    shown: int | Sequence[int] | None = None,
    observations: int = 3,
    side: int = 16,
    rules: Sequence[str] = ("gradient",),
    seed: int = 0,
    names: Sequence[str] | None = None,
    per_epoch: int = 10,
    keep: int | None = None,
    unlabelled: bool = False,
    **told: Any,
) -> Path:
    """Record a run of any size, and return its log folder.

    The true class of image i is i modulo the number of classes. Its probability rises, except in
    image 1, which is taken for another class. Each map has a spot that moves to the right.

    Args:
        folder: The log folder of the run.
        images: How many images.
        classes: How many classes the network has.
        shown: How many classes of each image are explained, the true one and others that change
            from one observation to the next; or the classes themselves, the same for each image;
            all of them by default, in order.
        observations: How many observations, of which the first is of the untrained network.
        side: Pixels per side of the maps.
        rules: The rules of the maps.
        seed: Of the noise.
        names: Of the classes.
        per_epoch: Steps of an epoch.
        keep: How many observations are kept.
        unlabelled: Whether the record leaves out the true classes.
        told: Facts about the run.
    """
    labels = [i % classes for i in range(images)]
    facts = {
        "images": tuple(f"image {i}" for i in range(images)),
        "labels": tuple((label,) for label in labels),
        "class_names": tuple(names or (f"class {k}" for k in range(classes))),
        "areas": {},
        "seed": seed,
        **told,
    }
    info: RunInfo = records.info(**facts)
    random = torch.Generator().manual_seed(seed)
    photos = torch.randint(256, (images, side, side, 3), generator=random, dtype=torch.uint8)
    writer = RunWriter(folder / "saliency", keep)
    writer.begin(replace(info, labels=None) if unlabelled else info, photos, after=-1)
    for number in range(observations):
        add_observation(writer, info, number, observations, side, rules, random, shown, per_epoch)
    writer.end({"val_acc": 0.9}, finished=told.get("finished", True))
    return folder


def add_observation(
    writer: RunWriter,
    info: RunInfo,
    number: int,
    of: int = 3,
    side: int = 16,
    rules: Sequence[str] = ("gradient",),
    random: torch.Generator | None = None,
    shown: int | Sequence[int] | None = None,
    per_epoch: int = 10,
) -> None:
    """Add an observation to a run of :func:`make_run`: number 0 is untrained, 1 is epoch 0."""
    random = random or torch.Generator().manual_seed(number)
    labels = torch.tensor([label for (label,) in info.labels or ()])
    count, classes = len(labels), len(info.class_names or ())
    logits = torch.rand(count, classes, generator=random)
    wrong = (labels + 1) % classes
    strong = torch.where(torch.arange(count) == 1, wrong, labels)
    logits[torch.arange(count), strong] += 6 * number / max(1, of - 1)
    probabilities = logits.softmax(dim=1)
    targets = torch.arange(classes).expand(count, classes)
    if isinstance(shown, Sequence):
        targets = torch.tensor(shown).expand(count, len(shown))
    elif shown is not None:
        rest = torch.rand(count, classes, generator=random)
        rest[torch.arange(count), labels] = 2
        targets = rest.argsort(dim=1, descending=True)[:, :shown]
    maps = 0.3 * torch.randn(count, targets.shape[1], side, side, generator=random)
    column = round(number / max(1, of - 1) * (side - 4))
    maps[..., side // 2 : side // 2 + 4, column : column + 4] += 3
    peaks = maps.abs().amax(dim=(-2, -1))
    label_maps = maps[:, 0] ** 2
    measured = Measured(
        classes=labels,
        probabilities=probabilities[torch.arange(count), labels],
        maps=(label_maps / label_maps.amax(dim=(1, 2), keepdim=True)).half(),
        views=profiles(label_maps)[:, None],
    )
    normed = (maps / peaks[..., None, None]).half()
    observation = records.observation(
        fingerprint=info.fingerprint,
        step=max(0, number * per_epoch - 1),
        epoch=number - 1,
        caption="untrained" if number == 0 else f"epoch {number - 1}",
        targets=targets.contiguous(),
        probabilities=probabilities.gather(1, targets),
        predicted=logits.argmax(dim=1),
        maps={rule: normed if i == 0 else normed.abs() for i, rule in enumerate(rules)},
        peaks=dict.fromkeys(rules, peaks * (1 + number)),
        measured=measured,
        measures={"moved_mass": 0.1 * number},
    )
    writer.add(observation)


def write_verdict(folder: Path, **changed: Any) -> None:
    """Put a verdict that fails into the folder of a run."""
    finding = {
        "requirement": "moved_mass <= auto",
        "measure": "moved_mass",
        "value": 0.2,
        "low": None,
        "high": 0.05,
        "source": "3 good runs",
        "mark": "fail",
    }
    verdict = {
        "outcome": "fail",
        "why": "",
        "findings": [finding],
        "growth": {"region": None, "row": 0, "column": 7, "before": 0.01, "now": 0.4},
        "images": [{"name": f"image {i}", "index": i, "moved": 0.5} for i in (2, 0)],
        "classes": [{"name": f"class {k}", "index": k, "moved": 0.4, "bound": 0.3} for k in (1, 2)],
        "good_runs": 3,
    }
    (folder / "saliency/verdict.json").write_text(json.dumps(verdict | changed))
