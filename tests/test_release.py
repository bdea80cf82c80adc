"""What `release.py` refuses: commits that cannot be released, and archives that are not whole."""

from __future__ import annotations

import importlib.util
import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from paths import REPOSITORY

SMOKE = REPOSITORY / "tests/support/smoke.py"
POINTS = "[console_scripts]\nx = y:z\n[tensorboard_plugins]\nx = y:z\n"
TRACKED = {
    "README.md",
    "pyproject.toml",
    ".gitignore",
    "notes.txt",
    "lightning_saliency/__init__.py",
    "lightning_saliency/py.typed",
    "lightning_saliency/viewer/static/page.js",
    "tests/test_all.py",
}


@pytest.fixture(scope="module")
def release() -> ModuleType:
    spec = importlib.util.spec_from_file_location("release", REPOSITORY / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def git(root: Path, *arguments: str) -> None:
    known = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    subprocess.run(["git", "-C", str(root), *known, *arguments], check=True, capture_output=True)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A repository whose commit can be released."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\nversion = "1.2.0"\n')
    changelog = "# Changelog\n\n## 1.2.0 – 2026-12-01\n\n## 1.1.0 – 2026-11-01\n"
    (tmp_path / "CHANGELOG.md").write_text(changelog)
    git(tmp_path, "init")
    commit(tmp_path)
    return tmp_path


def commit(root: Path) -> None:
    git(root, "add", ".")
    git(root, "commit", "--message", "All")


# --- the commit


def test_a_commit_that_can_be_released(release: ModuleType, clone: Path):
    git(clone, "tag", "v1.1.0")
    git(clone, "tag", "v1.2.0rc1")
    assert release.find_obstacles(clone) == []


@pytest.mark.parametrize("name", ["CHANGELOG.md", "new.py"])
def test_a_dirty_work_tree_is_refused(release: ModuleType, clone: Path, name: str):
    with (clone / name).open("a") as file:
        file.write("\n")
    (obstacle,) = release.find_obstacles(clone)
    assert obstacle == f"The work tree has changes: {name}. Commit them, or remove them."


def test_many_changes_are_counted(release: ModuleType, clone: Path):
    for number in range(8):
        (clone / f"new_{number}.py").touch()
    (obstacle,) = release.find_obstacles(clone)
    assert "new_4.py and 3 more. Commit" in obstacle


@pytest.mark.parametrize(
    ("headings", "message"),
    [
        (
            "## Unreleased\n",
            r'still calls 1\.2\.0 "Unreleased"\. Rename that heading to "## 1\.2\.0 ',
        ),
        ("## [Unreleased]\n\n## 1.2.0 – 2026-12-01\n", r'still calls 1\.2\.0 "\[Unreleased\]"'),
        (
            "## 1.1.0 – 2026-11-01\n",
            r'is "1\.1\.0 – 2026-11-01", but pyproject\.toml has version 1',
        ),
        ("## 1.2.0\n", r'is "1\.2\.0", .*the heading must read "## 1\.2\.0 – \d{4}-\d\d-\d\d"'),
        ("## 1.2.01 – 2026-11-01\n", r'is "1\.2\.01 – 2026-11-01"'),
        ("", r'is "missing"'),
    ],
)
def test_another_heading_of_the_changelog_is_refused(
    release: ModuleType, clone: Path, headings: str, message: str
):
    (clone / "CHANGELOG.md").write_text(f"# Changelog\n\n{headings}")
    commit(clone)
    (obstacle,) = release.find_obstacles(clone)
    assert re.search(message, obstacle)


@pytest.mark.parametrize("heading", ["1.2.0 - 2026-12-01", "[1.2.0] - 2026-12-01"])
def test_other_spellings_of_the_heading(release: ModuleType, clone: Path, heading: str):
    (clone / "CHANGELOG.md").write_text(f"# Changelog\n\n## {heading}\n")
    commit(clone)
    assert release.find_obstacles(clone) == []


def test_a_version_that_was_released_is_refused(release: ModuleType, clone: Path):
    git(clone, "tag", "v1.2.0")
    (obstacle,) = release.find_obstacles(clone)
    assert obstacle.startswith("The tag v1.2.0 exists, so 1.2.0 has been released. Raise the")


def test_everything_that_is_missing_is_said_at_once(release: ModuleType, clone: Path):
    git(clone, "tag", "v1.2.0")
    (clone / "CHANGELOG.md").write_text("## Unreleased\n")
    assert len(release.find_obstacles(clone)) == 3


def test_nothing_is_built_of_a_commit_that_is_refused(
    release: ModuleType, clone: Path, monkeypatch: pytest.MonkeyPatch
):
    git(clone, "tag", "v1.2.0")
    monkeypatch.setattr(release, "REPOSITORY", clone)
    monkeypatch.setattr(release, "build", lambda *_: pytest.fail("it was built"))
    monkeypatch.setattr(sys, "argv", ["release.py"])
    with pytest.raises(SystemExit, match=r"^No release\.\nThe tag v1\.2\.0 exists"):
        release.main()
    assert not (clone / "dist").exists()


def test_a_version_that_cannot_be_read_is_refused(release: ModuleType, tmp_path: Path):
    (tmp_path / "pyproject.toml").write_text('dynamic = ["version"]\n')
    with pytest.raises(release.NotReadyError, match="has no line of the form version ="):
        release.read_version(tmp_path)


# --- the archives


def make_wheel(folder: Path, *more: str, without: str = "", points: str = POINTS) -> Path:
    path = folder / "x-1.2.0-py3-none-any.whl"
    names = {name for name in TRACKED if name.startswith("lightning_saliency/")}
    names |= {"x-1.2.0.dist-info/licenses/LICENSE", "x-1.2.0.dist-info/METADATA", *more}
    with zipfile.ZipFile(path, "w") as archive:
        for name in names - {without}:
            archive.writestr(name, "")
        archive.writestr("x-1.2.0.dist-info/entry_points.txt", points)
    return path


def test_a_whole_wheel(release: ModuleType, tmp_path: Path):
    release.check_wheel(make_wheel(tmp_path), TRACKED)


@pytest.mark.parametrize(
    ("more", "without", "points", "message"),
    [
        (["tests/test_all.py"], "", POINTS, r"should not have 1 file\(s\): tests/test_all\.py"),
        (["lightning_saliency/old.py"], "", POINTS, r"should not have 1 .*lightning_saliency/old"),
        ([], "lightning_saliency/viewer/static/page.js", POINTS, r"lacks 1 .*static/page\.js"),
        ([], "lightning_saliency/py.typed", POINTS, r"lacks 1 .*py\.typed"),
        ([], "x-1.2.0.dist-info/licenses/LICENSE", POINTS, "has no LICENSE"),
        ([], "", "[console_scripts]\n", r"has no entry points of \[tensorboard_plugins\]"),
        ([], "", "", r"has no entry points of \[console_scripts\]"),
    ],
)
def test_another_wheel_is_refused(
    release: ModuleType, tmp_path: Path, more: list[str], without: str, points: str, message: str
):
    wheel = make_wheel(tmp_path, *more, without=without, points=points)
    with pytest.raises(release.NotReadyError, match=message):
        release.check_wheel(wheel, TRACKED)


def make_sdist(folder: Path, names: set[str]) -> Path:
    path = folder / "x-1.2.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"x-1.2.0/{name}"), io.BytesIO())
    return path


@pytest.mark.parametrize(
    ("more", "without", "message"),
    [
        pytest.param(set(), set(), "", id="whole"),
        (set(), {"tests/test_all.py"}, r"lacks 1 file\(s\): tests/test_all\.py"),
        (set(), {"README.md"}, r"lacks 1 .*README"),
        ({"tests/secret.env"}, set(), r"should not have 1 .*secret"),
        ({"notes.txt"}, set(), r"should not have 1 .*notes"),
    ],
)
def test_a_source_distribution(
    release: ModuleType, tmp_path: Path, more: set[str], without: set[str], message: str
):
    names = TRACKED - {"notes.txt"} - without | more | {"PKG-INFO"}
    sdist, included = make_sdist(tmp_path, names), ["lightning_saliency", "tests", "README.md"]
    if message:
        with pytest.raises(release.NotReadyError, match=message):
            release.check_sdist(sdist, TRACKED, included)
    else:
        release.check_sdist(sdist, TRACKED, included)


def test_what_is_included_is_read_from_pyproject(release: ModuleType):
    assert {"lightning_saliency", "tests", "LICENSE"} <= set(release.list_included(REPOSITORY))


# --- the smoke test, and what is left to do


def test_the_smoke_test_refuses_a_package_that_is_not_installed():
    """In a clone, and with an editable installation, the package is not below `sys.prefix`."""
    spec = importlib.util.spec_from_file_location("smoke", SMOKE)
    smoke = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(smoke)
    with pytest.raises(SystemExit, match=r"lightning_saliency is not that of .*: it is not"):
        smoke.check_place()


def test_a_command_that_fails_is_named(release: ModuleType, tmp_path: Path, capfd):
    with pytest.raises(release.NotReadyError, match=r"-c import nothing_there` failed; its output"):
        release._run(sys.executable, "-c", "import nothing_there", cwd=tmp_path)
    assert "nothing_there" in capfd.readouterr().err


def test_the_commands_that_remain_name_the_files(release: ModuleType):
    text = release.tell_what_to_upload("1.2.0", [REPOSITORY / "dist/a.whl"])
    assert "git tag -a v1.2.0 -m 'Version 1.2.0'" in text
    assert "python -m twine upload dist/a.whl" in text
