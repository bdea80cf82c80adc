"""Which recorded runs are found below the log folders, and what they are called."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import records
from tensorboard.backend.event_processing.data_ingester import _parse_event_files_spec

from lightning_saliency.viewer import discovery
from lightning_saliency.viewer.discovery import Catalogue, Root, find_records, parse_roots


def touch(folder: Path) -> Path:
    """Make a folder that looks like that of a recorded run."""
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "observation-0000000000.safetensors").write_text("")
    return folder


def names(*roots: Root) -> list[tuple[str, str]]:
    return [(record.run, record.id) for record in find_records(roots)]


def test_runs_are_called_what_tensorboard_calls_them(tmp_path):
    touch(tmp_path / "version_0/saliency")
    touch(tmp_path / "version_0/mine")
    touch(tmp_path / "a/b/c/saliency")
    assert names(Root(tmp_path)) == [
        ("a/b/c", "a/b/c/saliency"),
        ("version_0", "version_0/mine"),
        ("version_0", "version_0/saliency"),
    ]


def test_the_log_folder_can_be_that_of_one_run_or_of_its_record(tmp_path):
    folder = touch(tmp_path / "version_0/saliency")
    assert names(Root(folder.parent)) == [(".", "saliency")]
    assert names(Root(folder)) == [(".", "saliency")]
    assert names(Root(folder.parent, "mine")) == [("mine", "mine/saliency")]
    assert names(Root(tmp_path, "mine")) == [("mine/version_0", "mine/version_0/saliency")]


def test_records_of_the_same_name_are_told_apart(tmp_path):
    for folder in ("a", "b", "c"):
        touch(tmp_path / folder / "run/saliency")
    roots = [Root(tmp_path / folder) for folder in ("a", "b", "c")]
    assert [id_ for _, id_ in names(*roots)] == [
        *("run/saliency", "run/saliency (2)", "run/saliency (3)"),
    ]


@pytest.mark.parametrize("skipped", ["checkpoints", "wandb", "mlruns", ".git", "set_aside"])
def test_folders_of_other_things_are_not_looked_into(tmp_path, skipped):
    touch(tmp_path / skipped / "saliency")
    touch(tmp_path / "run/saliency" / skipped)
    assert names(Root(tmp_path)) == []


def test_the_log_folder_itself_may_be_called_anything(tmp_path):
    touch(tmp_path / "wandb/run/saliency")
    assert names(Root(tmp_path / "wandb")) == [("run", "run/saliency")]


def test_the_run_json_of_another_program_hides_nothing(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    touch(tmp_path / "version_0/saliency")
    assert names(Root(tmp_path)) == [("version_0", "version_0/saliency")]


def test_symbolic_links_are_followed_but_not_in_circles(tmp_path):
    touch(tmp_path / "elsewhere/run/saliency")
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "linked").symlink_to(tmp_path / "elsewhere/run")
    for name in ("up", "again", "here"):
        (logs / name).symlink_to(logs)
        (tmp_path / "elsewhere/run" / name).symlink_to(logs)
    (logs / "gone").symlink_to(tmp_path / "nowhere")
    assert names(Root(logs)) == [("linked", "linked/saliency")]
    (tmp_path / "link").symlink_to(logs)
    assert names(Root(tmp_path / "link")) == [("linked", "linked/saliency")]


def test_how_deep_a_record_may_lie(tmp_path):
    touch(tmp_path.joinpath(*"12345678"))
    touch(tmp_path.joinpath(*"abcdefghi"))
    assert [run for run, _ in names(Root(tmp_path))] == ["1/2/3/4/5/6/7"]


def test_a_folder_that_nobody_may_read_or_that_is_missing(tmp_path):
    assert names(Root(tmp_path / "nowhere")) == []
    (tmp_path / "file").write_text("")
    assert names(Root(tmp_path / "file")) == []


@pytest.mark.parametrize(
    "spec",
    [
        *("logs", "/logs", "mine:logs", "mine:/logs,other:logs", "/a:b/logs", "a:b:c"),
        *("gs://bucket/logs", "mine:gs://bucket/logs", "s3://a,b:c", "~/logs", "x:~/logs"),
    ],
)
def test_specs_mean_what_they_mean_to_tensorboard(spec):
    expected = {
        path: name or "" for path, name in _parse_event_files_spec(spec).items()
    }  # local paths as absolute ones
    local, remote = parse_roots("", spec)
    assert {str(root.folder.resolve()): root.name for root in local} == {
        path: name for path, name in expected.items() if "://" not in path
    }
    assert remote == [path for path in expected if "://" in path]


def test_a_log_folder_may_have_commas_and_colons():
    assert parse_roots("a:b,c", "ignored") == ([Root(Path("a:b,c"))], [])
    assert parse_roots("") == ([], [])
    assert parse_roots("s3://bucket") == ([], ["s3://bucket"])


def test_a_slow_disk_makes_nobody_wait_long(tmp_path, monkeypatch):
    records.record(tmp_path / "run")
    may_go_on = threading.Event()
    find = discovery.find_records

    def slow(roots):
        may_go_on.wait(10)
        return find(roots)

    monkeypatch.setattr(discovery, "find_records", slow)
    catalogue = Catalogue([Root(tmp_path)])
    begun = time.monotonic()
    assert catalogue.records() == {}
    assert time.monotonic() - begun < 2
    may_go_on.set()
    for _ in range(100):
        if catalogue.records():
            break
        time.sleep(0.02)
    assert list(catalogue.records()) == ["run/saliency"]


def wait_for(catalogue: Catalogue, *ids: str) -> None:
    for _ in range(200):
        if tuple(catalogue.records()) == ids:
            return
        time.sleep(0.02)
    raise AssertionError(f"{ids} expected, got {tuple(catalogue.records())}")


def test_new_records_appear_old_ones_go_and_what_was_read_is_kept(tmp_path):
    records.record(tmp_path / "a")
    catalogue = Catalogue([Root(tmp_path)], every=0.01)
    wait_for(catalogue, "a/saliency")
    known = catalogue.records()["a/saliency"]
    records.record(tmp_path / "b")
    wait_for(catalogue, "a/saliency", "b/saliency")
    assert catalogue.records()["a/saliency"] is known
    (tmp_path / "a").rename(tmp_path / "c")
    wait_for(catalogue, "b/saliency", "c/saliency")


def test_the_disk_is_looked_at_once_in_a_while(tmp_path, monkeypatch):
    looks = []
    find = discovery.find_records
    monkeypatch.setattr(discovery, "find_records", lambda roots: looks.append(1) or find(roots))
    catalogue = Catalogue([Root(tmp_path)], every=60)
    for _ in range(20):
        catalogue.records()
    assert len(looks) == 1


def test_a_look_that_fails_is_not_the_last_one(tmp_path, monkeypatch):
    records.record(tmp_path / "run")
    find = discovery.find_records
    failures = [OSError("the disk is gone")]

    def flaky(roots):
        if failures:
            raise failures.pop()
        return find(roots)

    monkeypatch.setattr(discovery, "find_records", flaky)
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)
    wait_for(Catalogue([Root(tmp_path)], every=0.01), "run/saliency")
