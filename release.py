"""Build a release, check it, and say how to upload it. Nothing is uploaded, and no tag is made.

    make release     # refuses to begin unless the commit can be released
    make rehearsal   # builds and checks whatever is here, and says what a release would lack

The files go to `dist/` only after all checks have passed: what they contain, `twine check`, and a
smoke test of the wheel in an empty environment (`tests/support/smoke.py`).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from datetime import date
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent
PACKAGE = "lightning_saliency"

# What tools write into the archives next to the files of the repository.
_MADE_FOR_SDIST = {"PKG-INFO"}
# Hatchling packs these whether they are listed or not.
_ALWAYS_IN_SDIST = {".gitignore", "pyproject.toml"}
_ENTRY_POINTS = ("[console_scripts]", "[tensorboard_plugins]")


class NotReadyError(Exception):
    """Something stands in the way of a release; the message says what, and what to do."""


def read_version(root: Path) -> str:
    """Read the version of the package from ``pyproject.toml``."""
    found = re.search(r'^version = "([^"]+)"$', (root / "pyproject.toml").read_text(), re.M)
    if found is None:
        raise NotReadyError('pyproject.toml has no line of the form version = "1.2.3".')
    return found[1]


def find_obstacles(root: Path) -> list[str]:
    """List what keeps the commit in ``root`` from being released, each with its remedy.

    Args:
        root: A clone of the repository.

    Returns:
        Sentences; none if the commit can be released.
    """
    version = read_version(root)
    checks = (
        _check_work_tree(root),
        _check_changelog(root, version),
        _check_tag(root, version),
    )
    return [obstacle for obstacle in checks if obstacle]


def _check_work_tree(root: Path) -> str:
    changed = _git(root, "status", "--porcelain").splitlines()
    if not changed:
        return ""
    names = ", ".join(line[3:] for line in changed[:5])
    more = f" and {len(changed) - 5} more" if len(changed) > 5 else ""
    return f"The work tree has changes: {names}{more}. Commit them, or remove them."


def _check_changelog(root: Path, version: str) -> str:
    """The newest heading must be that of the version, with the day of the release."""
    headings = re.findall(r"^## (.+)$", (root / "CHANGELOG.md").read_text(), re.M)
    newest = headings[0].strip() if headings else "missing"
    if re.fullmatch(rf"\[?{re.escape(version)}\]? [-–] \d{{4}}-\d\d-\d\d", newest):
        return ""
    wanted = f'"## {version} – {date.today().isoformat()}"'
    if newest.lower().strip("[]") == "unreleased":
        return (
            f'CHANGELOG.md still calls {version} "{newest}". Rename that heading to {wanted}, '
            "and commit."
        )
    return (
        f'The newest heading of CHANGELOG.md is "{newest}", but pyproject.toml has version '
        f"{version}. One of them is wrong; the heading must read {wanted}."
    )


def _check_tag(root: Path, version: str) -> str:
    if not _git(root, "tag", "--list", f"v{version}"):
        return ""
    return (
        f"The tag v{version} exists, so {version} has been released. Raise the version in "
        "pyproject.toml; a released version is never built again."
    )


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.rstrip()


def list_tracked(root: Path) -> set[str]:
    """The files of the repository, as git lists them."""
    return set(_git(root, "-c", "core.quotePath=false", "ls-files").splitlines())


def check_wheel(wheel: Path, tracked: Iterable[str]) -> None:
    """Refuse a wheel that holds anything but the package and its metadata, or not all of it.

    Args:
        wheel: The file.
        tracked: The files of the repository; those below the package belong in the wheel.

    Raises:
        NotReadyError: A file is missing, or should not be there.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        metadata = {name for name in names if name.split("/")[0].endswith(".dist-info")}
        expected = {name for name in tracked if name.startswith(f"{PACKAGE}/")}
        _compare(wheel, names - metadata, expected)
        known = {name.partition("/")[2]: name for name in metadata}
        if "licenses/LICENSE" not in known:
            raise NotReadyError(f"{wheel.name} has no LICENSE.")
        points = archive.read(known["entry_points.txt"]).decode() if known else ""
    for section in _ENTRY_POINTS:
        if section not in points:
            raise NotReadyError(f"{wheel.name} has no entry points of {section}.")


def check_sdist(sdist: Path, tracked: Iterable[str], included: Iterable[str]) -> None:
    """Refuse a source distribution that is not made of all files that belong in it.

    Args:
        sdist: The file.
        tracked: The files of the repository.
        included: The files and folders that ``pyproject.toml`` lists for it.

    Raises:
        NotReadyError: A file is missing, or should not be there.
    """
    with tarfile.open(sdist) as archive:
        members = [member.name for member in archive.getmembers() if member.isfile()]
    names = {name.partition("/")[2] for name in members}
    wanted = tuple(included)
    expected = {name for name in tracked if name.split("/")[0] in wanted} | _ALWAYS_IN_SDIST
    _compare(sdist, names - _MADE_FOR_SDIST, expected)


def list_included(root: Path) -> list[str]:
    """What ``pyproject.toml`` puts into the source distribution."""
    found = re.search(r"^include = \[(.*?)^\]", (root / "pyproject.toml").read_text(), re.M | re.S)
    return re.findall(r'"([^"]+)"', found[1]) if found else []


def _compare(archive: Path, names: set[str], expected: set[str]) -> None:
    for what, differing in (("lacks", expected - names), ("should not have", names - expected)):
        if differing:
            shown = ", ".join(sorted(differing)[:5])
            raise NotReadyError(f"{archive.name} {what} {len(differing)} file(s): {shown}.")


def build(root: Path, folder: Path) -> tuple[Path, Path]:
    """Build the source distribution, and from it the wheel.

    Args:
        root: The repository.
        folder: Where the files go.

    Returns:
        The source distribution and the wheel.
    """
    _run(sys.executable, "-m", "build", "--outdir", str(folder), str(root), cwd=folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


def try_wheel(wheel: Path, smoke: Path) -> None:
    """Install a wheel into an empty environment, and use it there.

    Args:
        wheel: The file. What it depends on is installed too, which takes minutes and gigabytes.
        smoke: The script that uses it. Python runs it in isolation, so that nothing but what is
            installed can be imported.
    """
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        folder = Path(name)
        venv.create(folder / "env", with_pip=True)
        python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
        _run(str(python), "-m", "pip", "install", "--quiet", str(wheel), cwd=folder)
        _run(str(python), "-m", "pip", "check", cwd=folder)
        _run(str(python), "-I", str(smoke), cwd=folder)


def _run(*command: str, cwd: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, check=False)
    if done.returncode:
        raise NotReadyError(f"`{' '.join(command)}` failed; its output is above.")


def tell_what_to_upload(version: str, files: Iterable[Path]) -> str:
    """The commands that remain, in order."""
    names = " ".join(str(file.relative_to(REPOSITORY)) for file in files)
    return "\n".join(
        (
            f"{version} is built and checked. To publish it:",
            "",
            f"    git tag -a v{version} -m 'Version {version}'",
            f"    git push origin v{version}",
            f"    python -m twine upload --repository testpypi {names}   # a trial, if wanted",
            f"    python -m twine upload {names}",
            "",
            "An upload is final: a file on the index can be hidden, but never replaced.",
        )
    )


def release(rehearsal: bool) -> str:
    """Build and check everything.

    Args:
        rehearsal: Whether to go on if the commit cannot be released.

    Returns:
        What to do next.

    Raises:
        NotReadyError: The commit cannot be released, or a check failed.
    """
    version, obstacles = read_version(REPOSITORY), find_obstacles(REPOSITORY)
    if obstacles and not rehearsal:
        raise NotReadyError("\n".join(obstacles))
    tracked = list_tracked(REPOSITORY)
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        sdist, wheel = build(REPOSITORY, Path(name))
        check_sdist(sdist, tracked, list_included(REPOSITORY))
        check_wheel(wheel, tracked)
        _run(
            sys.executable,
            "-m",
            "twine",
            "check",
            "--strict",
            str(sdist),
            str(wheel),
            cwd=sdist.parent,
        )
        try_wheel(wheel, REPOSITORY / "tests/support/smoke.py")
        if rehearsal:
            missing = obstacles or ["Nothing is missing: `make release` would build the same."]
            return "\n".join(("All checks have passed. Nothing is kept.", *missing))
        dist = REPOSITORY / "dist"
        dist.mkdir(exist_ok=True)
        kept = [Path(shutil.copy(file, dist)) for file in (sdist, wheel)]
    return tell_what_to_upload(version, kept)


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description="Build a release and check it.")
    parser.add_argument("--rehearsal", action="store_true", help="go on if it cannot be released")
    try:
        print(release(parser.parse_args().rehearsal))
    except NotReadyError as error:
        sys.exit(f"No release.\n{error}")


if __name__ == "__main__":
    main()
