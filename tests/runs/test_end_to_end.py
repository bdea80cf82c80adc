"""The main use: train on real digits, then ask a real TensorBoard over HTTP for everything."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matrix import differences
from PIL import Image
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.data import DataLoader, Subset
from training import run_state

from lightning_saliency import ProbeBatch, SaliencyCallback

pytestmark = pytest.mark.usefixtures("one_thread")

BATCHES = 5  # of 32 images, per epoch


def train(
    fit_digits: Any, data: Any, folder: Path, *, observed: bool, epochs: int = 4
) -> dict[str, Any]:
    """Train the demo on some of its digits, and observe every second epoch."""
    pl.seed_everything(1)
    some = torch.randperm(5000, generator=torch.Generator().manual_seed(0)).tolist()
    train_data, val_data = Subset(data, some[:160]), Subset(data, some[160:260])
    probe = ProbeBatch.from_dataset(
        data, count=3, mean=[fit_digits.MEAN], std=[fit_digits.STD], names=["nought", "one", "two"]
    )
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=TensorBoardLogger(folder, name="digits", version="run"),
        callbacks=[SaliencyCallback(probe, every_n_epochs=2)] if observed else [],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    module = fit_digits.DigitNet()
    trainer.fit(
        module,
        DataLoader(train_data, batch_size=32, shuffle=True),
        DataLoader(val_data, batch_size=50),
    )
    return {"module": module, "left": run_state(trainer, module)}


@contextmanager
def tensorboard(logdir: Path, *flags: str) -> Iterator[str]:
    """Run a real server on loopback, and end it through its own handle."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(logdir)]
    command += ["--host", "127.0.0.1", "--port", str(port), *flags]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}/data/plugin/"
    finally:
        server.terminate()
        server.wait(20)


def ask(url: str, *, until: Callable[[Any], object] = bool, **query: object) -> Any:
    """Ask the server for JSON until it has read the events."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            answer = json.load(urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}"))
            if until(answer):
                return answer
        except urllib.error.URLError:
            pass
        time.sleep(0.3)
    raise TimeoutError(url)


def picture(base: str, card: dict[str, Any]) -> tuple[str, Image.Image]:
    answer = urllib.request.urlopen(f"{base}images/individualImage?{card['query']}")
    return answer.headers["Content-Type"], Image.open(io.BytesIO(answer.read()))


def all_tags(answer: Any) -> bool:
    """Whether the server has read three images and the film strip of each."""
    return len(answer.get("digits/run", ())) == 6


@pytest.fixture(scope="module")
def trained(fit_digits, digits, one_thread, tmp_path_factory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("logs")
    return train(fit_digits, digits, folder, observed=True), folder


def test_tensorboard_serves_every_observation_over_http(trained):
    _, folder = trained
    due = [0, 2 * BATCHES - 1, 4 * BATCHES - 1]  # untrained, after epochs 1 and 3 (the last)
    with tensorboard(folder, "--samples_per_plugin", "images=500", "--load_fast=false") as base:
        tags = ask(base + "images/tags", until=all_tags)["digits/run"]
        names = ["nought", "one", "two"]
        assert sorted(tags) == sorted(
            [f"saliency/{n}" for n in names] + [f"saliency_filmstrip/{n}" for n in names]
        )
        for name in names:
            cards = ask(base + "images/images", run="digits/run", tag=f"saliency/{name}", sample=0)
            assert [card["step"] for card in cards] == due
            for card in cards:
                kind, mosaic = picture(base, card)
                assert kind == "image/jpeg"
                # Three rows of four tiles of 84 pixels (three times 28), with their names.
                assert mosaic.size == (4 * 84 + 5 * 6, 24 + 3 * (84 + 6 + 18) + 20)
                assert np.asarray(mosaic).std() > 10
            strip = ask(
                base + "images/images",
                run="digits/run",
                tag=f"saliency_filmstrip/{name}",
                sample=0,
            )
            assert [card["step"] for card in strip] == due[-1:]
            width, height = picture(base, strip[0])[1].size
            assert width >= 3 * 84
            assert height > 10 * 84
        scalars = ask(base + "scalars/scalars", run="digits/run", tag="val_acc")
        # The picture of an epoch has the step of its scalars, so that linked cards move together.
        assert set(due[1:]) <= {step for _, step, _ in scalars}


def test_a_plain_tensorboard_lists_the_same_tags(trained):
    """The defaults of TensorBoard: the fast data server, and ten pictures per tag."""
    _, folder = trained
    with tensorboard(folder) as base:
        assert ask(base + "images/tags", until=all_tags)
        cards = ask(base + "images/images", run="digits/run", tag="saliency/two", sample=0)
        # There are fewer than ten per tag, so none is left out.
        assert [card["step"] for card in cards] == [0, 2 * BATCHES - 1, 4 * BATCHES - 1]
        assert picture(base, cards[-1])[1].width == 4 * 84 + 5 * 6


def test_nothing_is_left_on_the_module(trained):
    """Modes, gradients and attributes are compared in the next test, with another run."""
    module = trained[0]["module"]
    assert set(trained[0]["left"]["hooks"].values()) == {0}
    assert all(p.requires_grad for p in module.parameters())


def test_the_demo_ends_bitwise_as_without_the_callback(trained, fit_digits, digits, tmp_path):
    alone = train(fit_digits, digits, tmp_path, observed=False)
    assert differences(alone["left"], trained[0]["left"]) == []
