"""Places: which paths are local, and what a store of fsspec does with files, also when it fails."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fsspec.exceptions import FSTimeoutError
from fsspec.registry import known_implementations
from stores import answer_late, break_off, failing, leave_out, refuse

from lightning_saliency.errors import RecordError
from lightning_saliency.storage.files import move, read_json, read_tensors, write_whole
from lightning_saliency.storage.places import RemotePath, find_place

# --- which is which


@pytest.mark.parametrize(
    "text",
    [
        "logs",
        "/logs/version_0",
        "~/logs",
        "with space/größe/字",
        r"C:\logs\version_0",
        "C:/logs",
        "C://logs",
        "lr=0.1::seed=3",
        "a:b/c",
        "s3:",
        "file:",
        "",
        ".",
    ],
)
def test_a_local_path_stays_a_path(text: str):
    for where in (text, Path(text)):
        place = find_place(where)
        assert type(place) is type(Path())
        assert place == Path(text)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("file:///logs/a b", "/logs/a b"),
        ("file://logs", "logs"),
        ("file:/logs", "/logs"),
        ("local:///logs", "/logs"),
        ("file:///C:/logs", "C:/logs"),
        ("file:///größe%20", "/größe%20"),
    ],
)
def test_a_file_url_is_a_local_path(url: str, path: str):
    assert find_place(url) == Path(path)


@pytest.mark.parametrize("url", ["memory://logs/a", "memory://logs/a/", "memory:///logs/a"])
def test_a_url_is_a_place_in_a_store(url: str):
    place = find_place(url)
    assert isinstance(place, RemotePath)
    assert str(place) == url.rstrip("/")
    assert str(place / "x.y" / "z.png") == f"{url.rstrip('/')}/x.y/z.png"
    assert place / "x" / "y" == place.joinpath("x", "y")
    assert place / "" == place
    assert (place / "x.json").name == "x.json"
    assert (place / "x.json").stem == "x"
    assert (place / "x").parent == place
    assert find_place(place) is place


def test_the_root_of_a_store_is_a_place_too():
    assert str(find_place("memory://") / "logs") == "memory://logs"
    assert (find_place("memory://") / "logs").path == find_place("memory://logs").path


def test_a_url_survives_pickling():
    place = find_place("memory://logs")
    assert pickle.loads(pickle.dumps(place)) == place


def test_a_local_path_does_not_load_fsspec(tmp_path: Path):
    script = (
        "import sys, pathlib\n"
        "from lightning_saliency.storage.files import write_whole\n"
        "from lightning_saliency.storage.places import find_place\n"
        f"for where in ({str(tmp_path / 'a')!r}, pathlib.Path({str(tmp_path / 'b')!r})):\n"
        "    write_whole(find_place(where), b'data')\n"
        "assert 'fsspec' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_urls_that_cannot_be_opened_say_why(monkeypatch: pytest.MonkeyPatch):
    unknown = r"nope://logs cannot be opened: Protocol not known: nope; pass a local path, or a URL"
    with pytest.raises(RecordError, match=unknown):
        find_place("nope://logs")
    missing = {"class": "not_installed.Store", "err": "Install not_installed to access it"}
    monkeypatch.setitem(known_implementations, "missing", missing)
    with pytest.raises(RecordError, match=r"missing://logs cannot .*: Install not_installed"):
        find_place("missing://logs")


def test_a_url_that_became_a_path_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(RecordError, match=r"memory:/logs was a URL .* string, 'memory://…'"):
        find_place(Path("memory://logs"))
    # A folder may have such a name all the same.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "memory:").mkdir()
    assert find_place(Path("memory:/logs")) == Path("memory:/logs")


# --- files of a store


@pytest.fixture(params=["memory", "faulty"])
def store(request: Any, tmp_path: Path) -> RemotePath:
    """A folder that is not there yet, whose name has letters that patterns and URLs may use."""
    return find_place(f"{request.param}://{tmp_path}/run [1] *größe?")


def names(folder: RemotePath, pattern: str = "*") -> list[str]:
    return [place.name for place in folder.glob(pattern)]


def test_a_file_is_written_replaced_found_and_deleted(store: RemotePath):
    path = store / "new" / "folder" / "file.json"
    assert not store.exists()
    assert not path.is_file()
    assert names(store) == []
    for data in (b"first", b"", b"second"):
        write_whole(path, data)
        assert path.read_bytes() == data
        assert path.size() == len(data)
    assert path.is_file()
    assert not path.is_dir()
    assert store.is_dir()
    assert not store.is_file()
    assert names(path.parent) == ["file.json"]
    assert names(path) == []
    path.unlink()
    assert not path.exists()
    path.unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError, match=r"file\.json"):
        path.unlink()


def test_names_are_found_by_pattern(store: RemotePath):
    for name in ("b-2", "b-1", "a", ".x.part", "B-3"):
        write_whole(store / name, b"")
    for folder, file in (("two", "run.json"), ("one", "run.json"), ("three", "x")):
        write_whole(store / folder / file, b"")
    assert names(store, "b-*") == ["b-1", "b-2"]
    assert names(store, ".*.part") == [".x.part"]
    assert [str(place) for place in store.glob("*/run.json")] == [
        f"{store}/one/run.json",
        f"{store}/two/run.json",
    ]


def test_a_folder_is_made_once(store: RemotePath):
    write_whole(store / "1" / "x", b"")
    with pytest.raises(FileExistsError, match="1 exists already"):
        (store / "1").mkdir()
    (store / "2").mkdir()


def test_a_file_is_moved(store: RemotePath, tmp_path: Path):
    write_whole(store / "x", b"data")
    move(store / "x", store / "aside" / "x")
    assert names(store) == ["aside"]
    move(store / "aside" / "x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"data"
    assert not (store / "aside" / "x").exists()


def test_what_others_write_is_seen_despite_a_cache(tmp_path: Path, monkeypatch: Any):
    """As in the stores of S3 and GCS, which remember every listing."""
    from fsspec.implementations.local import LocalFileSystem
    from stores import FaultyStore

    cache: dict[str, Any] = {}

    def ls(self: Any, path: str, detail: bool = True) -> Any:
        if path not in cache:
            cache[path] = LocalFileSystem.ls(self, path, detail)
        return cache[path]

    monkeypatch.setattr(FaultyStore, "ls", ls)
    monkeypatch.setattr(FaultyStore, "invalidate_cache", lambda self, path: cache.pop(path, None))
    folder = find_place(f"faulty://{tmp_path}")
    assert names(folder) == []
    (tmp_path / "x").write_bytes(b"")
    assert names(folder) == ["x"]


# --- failures


class LibraryError(Exception):
    """An error of a library, which is no OSError."""


ERRORS = [
    pytest.param(PermissionError("Forbidden"), PermissionError, "Forbidden", id="permission"),
    pytest.param(OSError("disk full"), OSError, "disk full", id="full"),
    pytest.param(FSTimeoutError(), (TimeoutError, OSError), "FSTimeoutError", id="timeout"),
    pytest.param(LibraryError("429"), OSError, "LibraryError: 429", id="other"),
]


@pytest.fixture
def faulty(tmp_path: Path) -> RemotePath:
    return find_place(f"faulty://{tmp_path}/logs")


@pytest.mark.parametrize(("error", "kind", "says"), ERRORS)
@pytest.mark.parametrize("old", [b"an earlier file", b"", None], ids=["old", "empty", "none"])
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_put_that_breaks_off_leaves_no_half_file(
    error: Exception, kind: Any, says: str, old: bytes | None, part: float, faulty: RemotePath
):
    new = b"the new content, which is longer"
    path = faulty / "file"
    if old is not None:
        write_whole(path, old)
    fail_once = [break_off(error, part)]

    def act(go_on: Callable[[], Any], *args: Any) -> Any:
        return fail_once.pop()(go_on, *args) if fail_once else go_on()

    with failing("pipe_file", act), pytest.raises(kind, match=f"faulty://.*/file: {says}"):
        write_whole(path, new)
    left = path.read_bytes() if path.exists() else None
    assert left == (new if part == 1 else old)


def test_a_put_that_is_refused_leaves_the_old_file(faulty: RemotePath):
    write_whole(faulty / "file", b"old")
    with failing("pipe_file", refuse(PermissionError("no"))) as fault:
        with pytest.raises(PermissionError):
            write_whole(faulty / "file", b"new and longer")
        assert len(fault.met) == 1
    assert (faulty / "file").read_bytes() == b"old"


def test_a_put_whose_answer_is_lost_leaves_the_new_file(faulty: RemotePath):
    with failing("pipe_file", answer_late(FSTimeoutError())), pytest.raises(OSError):
        write_whole(faulty / "file", b"new")
    assert (faulty / "file").read_bytes() == b"new"


def test_an_interrupted_put_leaves_no_half_file(faulty: RemotePath):
    with failing("pipe_file", break_off(KeyboardInterrupt())), pytest.raises(KeyboardInterrupt):
        write_whole(faulty / "file", b"data")
    assert not (faulty / "file").exists()


def test_the_first_error_is_reported_if_cleaning_up_fails_too(faulty: RemotePath):
    lost = refuse(ConnectionError("gone"))
    with (
        failing("pipe_file", break_off(OSError("disk full"))),
        failing("rm_file", lost),
        pytest.raises(OSError, match="disk full"),
    ):
        write_whole(faulty / "file", b"data")


def test_a_file_of_others_is_not_taken_for_a_half_file(faulty: RemotePath):
    """A put may fail because another process has put its own file there."""

    def overtaken(_: Any, path: str, *__: Any) -> None:
        Path(path).write_bytes(b"theirs")
        raise PermissionError("locked")

    with failing("pipe_file", overtaken), pytest.raises(PermissionError, match="locked"):
        write_whole(faulty / "file", b"ours, which is longer")
    assert (faulty / "file").read_bytes() == b"theirs"


def test_a_file_that_may_be_written_but_not_looked_for_is_written(faulty: RemotePath):
    with failing("info", refuse(PermissionError("no")), name="file"):
        write_whole(faulty / "file", b"data")
    assert (faulty / "file").read_bytes() == b"data"


@pytest.mark.parametrize("operation", ["pipe_file", "cat_file", "rm_file"])
def test_a_move_that_fails_loses_nothing(operation: str, faulty: RemotePath):
    write_whole(faulty / "file", b"data")
    act = break_off(OSError("no")) if operation == "pipe_file" else refuse(OSError("no"))
    with failing(operation, act), pytest.raises(OSError, match="no"):
        move(faulty / "file", faulty / "aside" / "file")
    assert (faulty / "file").read_bytes() == b"data"
    copy = faulty / "aside" / "file"
    assert not copy.exists() or copy.read_bytes() == b"data"


@pytest.mark.parametrize(("error", "kind", "says"), ERRORS)
def test_a_store_that_does_not_answer_is_not_taken_for_an_empty_one(
    error: Exception, kind: Any, says: str, faulty: RemotePath
):
    write_whole(faulty / "file", b"data")
    for operation, ask in (
        ("info", RemotePath.exists),
        ("info", RemotePath.is_file),
        ("info", RemotePath.is_dir),
        ("ls", lambda folder: list(folder.glob("*"))),
        ("cat_file", lambda folder: (folder / "file").read_bytes()),
        ("makedirs", lambda folder: (folder / "2").mkdir()),
    ):
        with failing(operation, refuse(error)), pytest.raises(kind, match=f"faulty://.*: {says}"):
            ask(faulty)


def test_an_error_that_names_the_url_names_it_once(faulty: RemotePath):
    with (
        failing("cat_file", refuse(FileNotFoundError(f"{faulty}/file"))),
        pytest.raises(FileNotFoundError) as raised,
    ):
        (faulty / "file").read_bytes()
    assert str(raised.value) == f"{faulty}/file"


@pytest.mark.parametrize("read", [read_json, read_tensors])
def test_a_file_that_cannot_be_read_is_named(read: Any, faulty: RemotePath):
    with pytest.raises(RecordError, match=r"there is no file faulty://.*/logs/file"):
        read(faulty / "file")
    write_whole(faulty / "file", b"{}")
    with (
        failing("cat_file", refuse(PermissionError("Forbidden"))),
        pytest.raises(RecordError, match=r"^faulty://.*/logs/file cannot be read: Forbidden$"),
    ):
        read(faulty / "file")


def test_a_file_of_unknown_size_is_not_read(faulty: RemotePath):
    write_whole(faulty / "file", b"{}")

    def unknown(go_on: Callable[[], Any], *_: Any) -> Any:
        return {**go_on(), "size": None}

    with (
        failing("info", unknown),
        pytest.raises(OSError, match="the store does not say how large this file is"),
    ):
        read_json(faulty / "file")


def test_entries_that_a_listing_lacks_are_not_there(faulty: RemotePath):
    for name in ("a", "b"):
        write_whole(faulty / name, b"")
    with failing("ls", leave_out("a")):
        assert names(faulty) == ["b"]
