"""What a newcomer runs first: the demo, and the command that it prints to open TensorBoard."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from paths import load_example

pytest.importorskip("mlxtend")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a virtual environment in it that is not activated, as `make demo` leaves it."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    program = Path(sys.executable).name
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "executable", str(folder / ".venv/bin" / program))
        yield folder


@pytest.fixture(scope="module")
def printed(clone: Path, fit_digits: ModuleType) -> str:
    """What the demo prints when it is run in the clone."""
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["fit_digits", "--epochs", "1"])
        patch.setattr("builtins.print", lambda *words, **_: lines.append(" ".join(words)))
        fit_digits.main()
    return "\n".join(lines)


def test_the_demo_writes_its_pictures(clone: Path, printed: str):
    assert "The pictures are in logs/digits/version_0." in printed
    (events,) = clone.glob("logs/digits/version_0/events.*")
    assert b"saliency/image 3" in events.read_bytes()


def test_the_demo_says_what_to_click(printed: str):
    assert '"Images"' in printed
    assert 'the tab "Saliency"' in printed
    assert "http://localhost:6006/#saliency\n" in printed


def test_the_command_that_the_demo_prints_shows_the_run(clone: Path, printed: str):
    (command,) = (line.strip() for line in printed.splitlines() if " --logdir " in line)
    assert command.startswith(".venv/bin/")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [*shlex.split(command), "--host", "127.0.0.1", "--port", str(port)],
        cwd=clone,
        env={**os.environ, "PATH": os.defpath},  # no `tensorboard` there
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert ask(f"http://127.0.0.1:{port}/data/runs", server) == ["digits/version_0"]
        (run,) = ask(f"http://127.0.0.1:{port}/data/plugin/saliency/runs", server)["runs"]
        assert run["id"] == "digits/version_0/saliency"
    finally:
        server.terminate()
        server.communicate(timeout=30)


def ask(url: str, server: subprocess.Popen[bytes], seconds: float = 60) -> Any:
    """The answer of a server that may still have to start, once it is not empty."""
    deadline = time.monotonic() + seconds
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while time.monotonic() < deadline:
        if server.poll() is not None:
            pytest.fail(f"the server ended: {server.stderr.read().decode()}")
        try:
            if answer := json.load(direct.open(url, timeout=5)):
                return answer
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"{url} did not answer within {seconds} seconds")


# --- the command, wherever Python is


@pytest.fixture
def viewing() -> ModuleType:
    return load_example("viewing")


@pytest.mark.parametrize(
    ("python", "here", "installed", "expected"),
    [
        pytest.param(".venv/bin/python", ".", True, ".venv/bin/tensorboard", id="in-the-clone"),
        pytest.param(
            ".venv/bin/python", "docs", True, "{root}/.venv/bin/tensorboard", id="elsewhere"
        ),
        pytest.param(
            "bin/python", "bin", True, "{root}/bin/tensorboard", id="bare-names-are-looked-up"
        ),
        pytest.param(
            ".venv/bin/python", ".", False, ".venv/bin/python -m tensorboard.main", id="no-script"
        ),
        pytest.param(
            "my env/bin/python", ".", True, "'my env/bin/tensorboard'", id="quoted-for-the-shell"
        ),
    ],
)
def test_the_command_names_the_tensorboard_next_to_python(
    viewing: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    here: str,
    installed: bool,
    expected: str,
):
    (tmp_path / python).parent.mkdir(parents=True)
    (tmp_path / here).mkdir(exist_ok=True)
    if installed:
        (tmp_path / python).with_name("tensorboard").touch()
    monkeypatch.chdir(tmp_path / here)
    monkeypatch.setattr(sys, "executable", str(tmp_path / python))
    command = viewing.tensorboard_command("logs")
    assert command == f"{expected.format(root=tmp_path)} --logdir logs"
