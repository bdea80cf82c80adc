"""Damaged files: each is read, if the damage is harmless, or refused in one clear line.

The suite tries two thousand files, and the slow tests try twenty thousand. Files that can still be
read are then shown and checked by the command line, which must give a verdict or a one-line error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from damage import damaged
from hypothesis import HealthCheck, given, settings
from records import CLASSES, IMAGES, SIDE, masks, record

from lightning_saliency.check.reference import NUMBERS_FILE, REFERENCE_FILE, Reference
from lightning_saliency.cli.commands import main
from lightning_saliency.errors import RecordError
from lightning_saliency.probe.batch import ProbeBatch
from lightning_saliency.record.observation import read_observation
from lightning_saliency.record.run import (
    OBSERVATION_FILE,
    PHOTOS_FILE,
    RUN_FILE,
    open_run,
    read_info,
    read_thumbnails,
)

FILES = 20_000
MEMORY = 50_000  # kB that reading one of these files, of about 20 kB each, may take

Read = Callable[[Path], object]
READERS: dict[str, tuple[str, Read, tuple[type[Exception], ...]]] = {
    "observation": (f"run/saliency/{OBSERVATION_FILE.format(9)}", read_observation, (RecordError,)),
    "run": (f"run/saliency/{RUN_FILE}", lambda path: open_run(path.parent), (RecordError,)),
    "photos": (f"run/saliency/{PHOTOS_FILE}", read_thumbnails, (RecordError,)),
    "reference": (f"ref/{REFERENCE_FILE}", lambda p: Reference.load(p.parent), (RecordError,)),
    "numbers": (f"ref/{NUMBERS_FILE}", lambda p: Reference.load(p.parent), (RecordError,)),
    "probe": ("probe.safetensors", ProbeBatch.load, (ValueError,)),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A run whose maps lie on the mark, a reference of good runs, and a probe."""
    good = [record(tmp_path / f"good_{seed}", seed) for seed in range(3)]
    Reference.from_runs(good).save(tmp_path / "ref")
    record(tmp_path / "run", 9, on_mark=0.6)
    images = torch.rand(IMAGES, 3, SIDE, SIDE)
    labels = torch.arange(IMAGES) % len(CLASSES)
    known = {"class_names": CLASSES, "mean": [0.0] * 3, "std": [1.0] * 3}
    ProbeBatch(images, labels, masks=masks(), **known).save(tmp_path / "probe.safetensors")
    return tmp_path


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_refused_in_one_line(reader, place, capsys):
    found = fuzz(reader, place, capsys, FILES // 10 // len(READERS) + 1)
    assert found["refused"] > found["read"] // 9, found


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_twenty_thousand_damaged_files(reader, place, capsys):
    found = fuzz(reader, place, capsys, FILES // len(READERS) + 1)
    with capsys.disabled():
        print(f"\n{reader}: {dict(found)}")
    assert found["refused"] + found["read"] >= FILES // len(READERS)


def test_a_file_of_nothing_but_brackets_takes_little_memory(tmp_path):
    """Two bytes of JSON may become a Python object of 64 bytes."""
    record(tmp_path)
    path = tmp_path / "saliency" / RUN_FILE
    data = json.loads(path.read_text())
    for brackets in ("[]", "{}"):
        filler = ",".join([brackets] * 650_000)
        path.write_text(
            json.dumps(data | {"settings": {"x": 0}}).replace('"x": 0', f'"x": [{filler}]')
        )
        lowest = reset_peak()
        assert outcome(lambda p: open_run(p.parent), path, (RecordError,)) is None
        assert peak() - lowest < 1.5 * MEMORY, peak() - lowest
    path.write_text(f"[{','.join(['[]'] * 1_000_000)}]")
    lowest = reset_peak()
    assert "more than the limit of 2,000,000" in outcome(read_info, path, (RecordError,))
    assert peak() - lowest < MEMORY // 10


def fuzz(reader: str, place: Path, capsys: pytest.CaptureFixture[str], count: int) -> Counter[str]:
    """Damage the file of ``reader`` ``count`` times, read it each time, and count the outcomes."""
    name, read, documented = READERS[reader]
    path = place / name
    good = path.read_bytes()
    others = [(place / other).read_bytes() for other, *_ in READERS.values()]
    found: Counter[str] = Counter()
    follow_up(place, capsys)  # Whatever is imported lazily is imported before memory is measured.
    before = list_files(place)

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(good, others))
    def once(data: bytes) -> None:
        path.write_bytes(data)
        lowest = reset_peak()
        message = outcome(read, path, documented)
        if message is None:
            follow_up(place, capsys)
        taken = peak() - lowest
        assert taken < MEMORY, f"{taken} kB for {len(data)} bytes"
        found["read" if message is None else "refused"] += 1
        found["largest, kB"] = max(found["largest, kB"], taken)

    once()
    assert list_files(place) == before
    return found


def outcome(read: Read, path: Path, documented: tuple[type[Exception], ...]) -> str | None:
    """The error message if a file is refused; ``None`` if it is read."""
    try:
        read(path)
    except documented as error:
        message = str(error)
        assert path.parent.name in message, message
        assert "\n" not in message, message
        assert len(message) < 600 + len(str(path)), message
        return message
    return None


def follow_up(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Show and check the run: whatever a file holds, there is a verdict or a one-line error."""
    for command in (["show", "run"], ["check", "run", "--reference", "ref"]):
        code = main([str(place / word) if word in ("run", "ref") else word for word in command])
        printed = capsys.readouterr()
        assert code in range(6)
        assert bool(printed.err) == (code == 2 or not printed.out)
        assert printed.err.count("\n") <= 1
        assert not set(printed.out + printed.err) & {"\x1b", "\x07", "\u202e", "\0"}


def list_files(place: Path) -> set[Path]:
    """All files in ``place``, and those next to it, where nothing should appear."""
    return {p for p in place.parent.rglob("*") if p.is_file()}


def reset_peak() -> int:
    """Reset the peak memory of this process, and return its present memory in kB."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def peak() -> int:
    """The peak memory of this process since the last reset, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
