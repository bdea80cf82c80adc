"""Files: written whole or not at all, named safely, and read without trust and within limits."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from records import write_tensors
from stores import FaultyStore

from lightning_saliency.errors import RecordError
from lightning_saliency.storage import files
from lightning_saliency.storage.files import (
    json_bytes,
    read_json,
    read_tensors,
    safe_name,
    tensor_bytes,
    write_whole,
)
from lightning_saliency.storage.places import find_place

# --- writing


def test_a_file_is_written_and_replaced(tmp_path: Path):
    path = tmp_path / "new/folder/file"
    for data in (b"first", b"", b"second"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(path.parent.iterdir()) == [path]


def fail(error: BaseException) -> Any:
    def failing(*_: Any, **__: Any) -> None:
        raise error

    return failing


FAILURES = [
    pytest.param(Path, "replace", OSError("no permission"), id="replace"),
    pytest.param(os, "fsync", OSError("no space left on device"), id="full-disk"),
    pytest.param(os, "fsync", KeyboardInterrupt(), id="interrupted"),
]


@pytest.mark.parametrize(("owner", "name", "error"), FAILURES)
@pytest.mark.parametrize("old", [b"old", None], ids=["old-file", "no-file"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    owner: Any,
    name: str,
    error: BaseException,
    old: bytes | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    with monkeypatch.context() as patched:
        patched.setattr(owner, name, fail(error))
        with pytest.raises(type(error)):
            write_whole(path, b"new")
    left = {found.name: found.read_bytes() for found in tmp_path.iterdir()}
    assert left == ({} if old is None else {"file": old})


# --- names made from data


@given(st.text(st.characters(codec=None), min_size=1), st.booleans())
@example("..", False)
@example(".", False)
@example("../../etc/passwd", False)
@example("/etc/passwd", True)
@example("CON\\x", False)
@example("a\0b\nc", False)
@example("\udcff of another code page", False)
@example("é" * 200, False)
@example("龍" * 200, True)
def test_a_safe_name_stays_in_its_folder(name: str, ascii_only: bool):
    safe = safe_name(name, ascii_only=ascii_only)
    folder = Path("/records")
    path = Path(os.path.normpath(folder / safe))
    assert path.parent == folder
    assert path.name == safe
    assert not set(safe) & set("/\\\0\n")
    assert len(safe.encode()) <= 130
    assert safe.isascii() or not ascii_only
    assert safe_name(name, ascii_only=ascii_only) == safe


@given(st.text(), st.text())
@example("a/b", "a_b")
@example("a/b", "a:b")
@example("x" * 200, "x" * 201)
@example("é", "è")
def test_different_names_stay_different(first: str, second: str):
    for ascii_only in (False, True):
        found = [safe_name(name, ascii_only=ascii_only) for name in (first, second)]
        assert (found[0] == found[1]) == (first == second)


@pytest.mark.parametrize("name", ["image 3 · class 3", "cat", "crème brûlée", "a-b_c", "x" * 120])
def test_a_harmless_name_stays_as_it_is(name: str):
    assert safe_name(name) == name


def test_an_empty_name_stays_empty():
    """Loggers may have an empty name, which stands for the folder itself."""
    assert safe_name("") == ""


def test_ascii_only_replaces_other_letters():
    assert safe_name("image 3 · class 3", ascii_only=True).startswith("image 3 _ class 3-")
    assert safe_name("image_3", ascii_only=True) == "image_3"


# --- reading


def by_url(read: Any) -> Any:
    """The same file, read through a store of fsspec."""
    return lambda path: read(find_place(f"{FaultyStore.protocol}://{path}"))


TENSOR_READERS = [
    pytest.param(read_tensors, id="tensors"),
    pytest.param(by_url(read_tensors), id="tensors-by-url"),
]
READERS = [
    pytest.param(read_json, id="json"),
    pytest.param(by_url(read_json), id="json-by-url"),
    *TENSOR_READERS,
]


@pytest.mark.parametrize("read", TENSOR_READERS)
def test_what_was_encoded_is_read(read: Any, tmp_path: Path):
    data = {"text": "crème \u202e \udce9", "numbers": [1, 0.5, None], "nested": {"a": True}}
    (tmp_path / "file.json").write_bytes(json_bytes(data))
    assert read_json(tmp_path / "file.json") == data
    tensors = {"a": torch.rand(2, 3).t(), "b": torch.tensor([True])}
    (tmp_path / "file.safetensors").write_bytes(tensor_bytes(data, tensors))
    about, found = read(tmp_path / "file.safetensors")
    assert about == data
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_file_is_read_up_to_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a.json").write_bytes(json_bytes({"a": 1}))
    (tmp_path / "a.safetensors").write_bytes(tensor_bytes({"a": 1}, {"x": torch.zeros(3)}))
    for name, limit, read in (
        ("a.json", "MAX_JSON", read_json),
        ("a.json", "MAX_JSON", by_url(read_json)),
        ("a.safetensors", "MAX_TENSORS", read_tensors),
        ("a.safetensors", "MAX_TENSORS", by_url(read_tensors)),
    ):
        size = (tmp_path / name).stat().st_size
        with monkeypatch.context() as patched:
            patched.setattr(files, limit, size)
            read(tmp_path / name)
            patched.setattr(files, limit, size - 1)
            with pytest.raises(
                RecordError, match=rf"{name} has {size} bytes, more than the limit of {size - 1}"
            ):
                read(tmp_path / name)


def test_files_that_are_too_large_are_not_read(tmp_path: Path):
    for name, size, read in (
        ("run.json", 2_000_001, read_json),
        ("run.json", 2_000_001, by_url(read_json)),
        ("big.safetensors", 500_000_001, read_tensors),
        ("big.safetensors", 500_000_001, by_url(read_tensors)),
    ):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)  # The file is sparse and takes no room on the disk.
        with pytest.raises(RecordError, match=f"{name} has .* bytes, more than the limit of"):
            read(tmp_path / name)


@pytest.mark.parametrize("read", TENSOR_READERS)
def test_a_header_over_the_limit_is_not_read(
    read: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "a.safetensors"
    path.write_bytes(tensor_bytes({"a": 1}, {"x": torch.zeros(3)}))
    claimed = int.from_bytes(path.read_bytes()[:8], "little")
    monkeypatch.setattr(files, "MAX_JSON", claimed)
    read(path)
    monkeypatch.setattr(files, "MAX_JSON", claimed - 1)
    with pytest.raises(RecordError, match=f"its header claims {claimed} bytes"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_is_missing_or_not_a_regular_file_is_refused(read: Any, tmp_path: Path):
    """Reading a pipe would wait for a writer that may never come."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nothing")
    for name in ("missing", "pipe", "folder", "link"):
        with pytest.raises(RecordError, match=rf"there is no file .*{name}"):
            read(tmp_path / name)


GOOD = tensor_bytes({"schema": 1}, {"x": torch.arange(100)})
BROKEN = {
    "empty": b"",
    "short": b"abc",
    "truncated": GOOD[: len(GOOD) // 2],
    "cut by a byte": GOOD[:-1],
    "longer": GOOD + b"x",
    "a header of a terabyte": (2**40).to_bytes(8, "little") + b"{}",
    "no JSON": (20).to_bytes(8, "little") + b"x" * 20,
    "a pickle": b"\x80\x04K\x01.",
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("read", READERS)
def test_broken_files_are_refused_in_one_line(name: str, read: Any, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(BROKEN[name])
    with pytest.raises(RecordError, match=f"{name} is damaged, or was not written") as raised:
        read(path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["[]", "3", '"text"', "null"])
def test_json_that_is_not_an_object_is_refused(text: str, tmp_path: Path):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(RecordError, match=r"file\.json is damaged.*: it holds no JSON object$"):
        read_json(tmp_path / "file.json")
    path = write_tensors(tmp_path / "file.safetensors", text)
    with pytest.raises(RecordError, match=r"file\.safetensors is .*: it holds no JSON object$"):
        read_tensors(path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", ""], ids=lambda text: text[:6])
def test_text_that_is_not_json_is_refused(text: str, tmp_path: Path):
    (tmp_path / "file.json").write_text(text)
    with pytest.raises(RecordError, match=r"file\.json is damaged"):
        read_json(tmp_path / "file.json")
    path = write_tensors(tmp_path / "file.safetensors", text)
    with pytest.raises(RecordError, match=r"file\.safetensors is damaged"):
        read_tensors(path)


@pytest.mark.parametrize("read", TENSOR_READERS)
def test_files_without_metadata_are_named(read: Any, tmp_path: Path):
    path = tmp_path / "weights.safetensors"
    for metadata in (None, {"format": "pt"}):
        path.write_bytes(safetensors.torch.save({"weight": torch.zeros(2)}, metadata))
        with pytest.raises(RecordError, match=r"weights\.safetensors .*: it has no metadata$"):
            read(path)


@pytest.mark.parametrize("read", TENSOR_READERS)
def test_a_header_that_claims_gigabytes_costs_no_memory(read: Any, tmp_path: Path):
    tensor = {"dtype": "F16", "shape": [10**6, 10**4], "data_offsets": [0, 2 * 10**10]}
    claimed = json.dumps({"__metadata__": {"about": "{}"}, "maps": tensor}).encode()
    path = tmp_path / "huge.safetensors"
    path.write_bytes(len(claimed).to_bytes(8, "little") + claimed)
    with pytest.raises(RecordError, match="is damaged"):
        read(path)


@pytest.mark.parametrize("read", TENSOR_READERS)
def test_tensors_do_not_depend_on_their_file(read: Any, tmp_path: Path):
    """Overwriting a mapped file while a run holds its tensors would kill the run with SIGBUS."""
    path = tmp_path / "one.safetensors"
    path.write_bytes(tensor_bytes({}, {"x": torch.ones(100_000)}))
    _, found = read(path)
    with path.open("r+b") as file:
        file.truncate(10)
    assert float(found["x"].sum()) == 100_000
