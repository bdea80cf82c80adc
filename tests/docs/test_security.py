"""What `SECURITY.md` claims has tests, under the names that it gives."""

from __future__ import annotations

import re

from paths import REPOSITORY

SECURITY = REPOSITORY / "SECURITY.md"


def test_every_test_that_is_named_exists():
    """A name without a file, such as `::test_…`, is one of the file before it."""
    names = re.findall(r"`([\w/]+\.py)?(?:::(test_\w+))?`", SECURITY.read_text())
    file, count = "", 0
    for path, test in names:
        file = path or file
        if path or test:
            code = (REPOSITORY / "tests" / file).read_text()
            assert f"def {test}" in code, f"{file}::{test}"
            count += 1
    assert count > 15


def test_nothing_that_is_read_is_unpickled():
    """`torch.load` is called with `weights_only`, and no module imports a reader of pickles."""
    package = REPOSITORY / "lightning_saliency"
    for path in package.rglob("*.py"):
        code = path.read_text()
        assert not re.search(r"^\s*(import|from) (pickle|marshal|shelve|dill|joblib)\b", code, re.M)
        for call in re.findall(r"(?<!safetensors\.)torch\.load\((.*)\)$", code, re.M):
            assert "weights_only=True" in call, path
        assert "allow_pickle=True" not in code, path


def test_the_package_makes_no_request():
    """Nothing but fsspec opens URLs, and nothing listens on a port."""
    for path in (REPOSITORY / "lightning_saliency").rglob("*.py"):
        modules = re.findall(r"^\s*(?:import|from) ([\w.]+)", path.read_text(), re.M)
        for module in modules:
            assert module.split(".")[0] not in ("requests", "socket", "urllib3", "httpx"), path
            assert not module.startswith(("urllib.request", "http.")), path
