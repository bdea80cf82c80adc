"""The command line: each command, verdict and exit code; what it prints, writes and refuses."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commandline import run
from pages import Page
from PIL import Image
from records import IMAGES, RULE, info, observation, photos, record

from lightning_saliency.check.reference import Reference
from lightning_saliency.cli.commands import main
from lightning_saliency.cli.tables import compare_runs, describe_run
from lightning_saliency.record.run import open_run
from lightning_saliency.record.writer import RunWriter
from lightning_saliency.storage.files import safe_name
from lightning_saliency.testing import assert_attention
from lightning_saliency.viewer import bundle

COMMANDS = ("reference", "check", "approve", "diff", "show", "report")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Three good runs and their reference, a new run, and one that looks elsewhere."""
    monkeypatch.chdir(tmp_path)
    for seed in range(3):
        record(Path(f"good_{seed}"), seed)
    record(Path("new"), 8)
    record(Path("bad"), 9, on_mark=0.6, metrics={"val_acc": 0.99})
    Reference.from_runs([f"good_{seed}" for seed in range(3)], reason="first").save("ref")
    return tmp_path


# --- from the shell


SCRIPT = Path(sys.executable).with_name("lightning-saliency")
MODULE = [sys.executable, "-m", "lightning_saliency"]


def shell(*arguments: str, script: bool = True, **environment: str) -> subprocess.Popen[str]:
    """Start the command as a shell does."""
    return subprocess.Popen(
        [*([str(SCRIPT)] if script and SCRIPT.exists() else MODULE), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )


def test_every_exit_code_from_the_shell(place):
    """All processes start at once, because each spends seconds on imports.

    One runs the module instead of the script, and one has a terminal that knows only ASCII.
    """
    record(Path("other"), 1, told={"fingerprint": "e" * 64}, changed={"fingerprint": "e" * 64})
    RunWriter(Path("begun/saliency")).begin(info(), photos(), after=-1)
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    started = {
        0: (shell("check", "new", "--reference", "ref"), "PASS  new at epoch 1"),
        1: (shell("check", "bad", "--reference", "ref", **ascii_only), "good runs: 0.041 ? 0.005"),
        2: (shell("check", "absent", "--reference", "ref"), "absent is not a folder"),
        3: (shell("check", "bad", "--reference", "absent"), "NO REFERENCE  bad: there is none in"),
        4: (shell("check", "other", "--reference", "ref"), "NOT COMPARABLE  other"),
        5: (shell("check", "begun", "--reference", "ref", script=False), "INCONCLUSIVE  begun"),
    }
    for code, (process, told) in started.items():
        out, err = process.communicate(timeout=180)
        assert process.returncode == code, err
        assert told in (err if code == 2 else out)
        assert err.count("\n") == (code == 2), err


def test_letters_that_a_terminal_lacks_become_question_marks(place, monkeypatch):
    few = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", few)
    assert main(["check", "bad", "--reference", "ref"]) == 1
    few.flush()
    assert b"good runs: 0.041 ? 0.005" in few.buffer.getvalue()


# --- colours


def in_a_terminal(*arguments: str) -> str:
    """What the command prints to a terminal.

    It runs in a new process instead of a fork of this one, because torch's threads do not survive
    a fork.
    """
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "lightning_saliency", *arguments]
    started = subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL)
    os.close(theirs)
    told = b""
    try:
        with contextlib.suppress(OSError):  # The other side is closed.
            while data := os.read(ours, 65536):
                told += data
        started.wait(60)
    finally:
        started.kill()
        os.close(ours)
    return told.decode()


def test_a_terminal_has_colours_unless_they_are_unwanted(place, monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    told = in_a_terminal("check", "bad", "--reference", "ref")
    assert told.startswith("\x1b[31mFAIL\x1b[0m  bad at epoch 1")
    plainly = run(capsys, "check", "bad", "--reference", "ref")[1]
    assert "\x1b" not in plainly  # The output is captured and thus no terminal.
    assert re.sub(r"\x1b\[\d+m", "", told).replace("\r\n", "\n") == plainly
    monkeypatch.setenv("NO_COLOR", "1")
    assert in_a_terminal("check", "bad", "--reference", "ref").replace("\r\n", "\n") == plainly


# --- help and usage


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches(command, capsys):
    code, told, _ = run(capsys, command, "--help")
    assert code == 0
    assert told.startswith(f"usage: lightning-saliency {command} ")
    if command in ("reference", "check"):
        assert "moved_mass <= auto     no more of the gradient" in told
    if command == "check":
        assert "3  no reference      4  not comparable    5  inconclusive" in told


def test_the_overall_help_shows_each_command_and_an_example(capsys):
    code, told, _ = run(capsys, "--help")
    assert code == 0
    for command in COMMANDS:
        assert re.search(rf"^ +{command}\b", told, re.M)
    assert "lightning-saliency check logs/version_3 --reference attention" in told


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["judge"],
        ["check", "new"],
        ["check", "--reference", "ref"],
        ["reference", "-o", "ref"],
        ["approve", "new", "--reference", "ref"],
        ["diff", "new"],
        ["show"],
        ["show", "new", "--loud"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_reported_by_argparse(arguments, place, capsys):
    code, out, told = run(capsys, *arguments)
    assert code == 2
    assert not out
    assert "error: " in told.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "new", "--reference", "ref", "--require", "x"], "must read like"),
        (["check", "new", "--reference", "ref", "--require", "x.share <= 2"], "from 0 to 1"),
        (
            ["check", "new", "--reference", "ref", "--require", "x.share <= 0.1"],
            "mask of the region 'x'",
        ),
        (
            ["reference", "good_0", "-o", "ref2", "--require", "x.share <= 0.1"],
            "mask of the region",
        ),
        (["reference", "good_0", "-o", "ref"], "there already is a reference in ref"),
        (["reference", "good_0", "good_0", "-o", "ref2"], "hold identical maps"),
        (["reference", "nowhere", "-o", "ref2"], "nowhere is not a folder"),
        (["approve", "new", "--reference", "ref", "--reason", "  "], "must say why the change"),
        (["show", "."], "holds several recorded runs|no recorded run"),
        (["diff", "new", "nowhere"], "nowhere is not a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_reported_in_one_line(arguments, message, place, capsys):
    code, out, told = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert re.match(rf"lightning-saliency: .*({message})", told)
    assert told.count("\n") == 1
    assert not Path("ref2").exists()


def test_a_damaged_reference_is_reported_in_one_line(place, capsys):
    Path("ref/reference.json").write_text("{")
    for arguments in (
        ["check", "new", "--reference", "ref"],
        ["approve", "new", "--reference", "ref", "--reason", "x"],
    ):
        code, out, told = run(capsys, *arguments)
        assert (code, out, told.count("\n")) == (2, "", 1)
        assert "ref/reference.json is damaged" in told


# --- the life of a reference


def test_a_reference_is_made_used_and_replaced(place, capsys):
    code, told, _ = run(
        capsys, "reference", "good_0", "good_1", "good_2", "-o", "made", "--reason",
        "they are good", "--require", "moved_mass <= auto", "--require", "object.share >= 0.6",
    )  # fmt: skip
    assert code == 0
    assert told == (
        "made: 3 runs, 6 images\n  requires  moved_mass <= auto\n  requires  object.share >= 0.6\n"
    )
    assert run(capsys, "check", "new", "--reference", "made")[0] == 0
    assert run(capsys, "check", "bad", "--reference", "made")[0] == 1
    code, told, _ = run(capsys, "approve", "bad", "--reference", "made", "--reason", "it is meant")
    assert code == 0
    assert (
        "Fewer than three runs have no usable spread: would-be failures are only warnings." in told
    )
    code, told, _ = run(capsys, "check", "bad", "--reference", "made")
    assert code == 1  # Approving a run does not change a bound that is a number.
    assert "fail  object.share" in told
    made = Reference.load("made")
    assert made.reason == "it is meant"
    assert [(h.reason, h.runs) for h in made.history] == [("they are good", 3)]


def test_every_command_takes_the_folder_that_holds_the_log_folder(place, capsys):
    """As with Lightning's own loggers, which add `version_0`."""
    for name in ("good_0", "good_1", "good_2", "bad"):
        Path("logs", name).mkdir(parents=True)
        Path(name).rename(Path("logs", name, "version_0"))
    good = [f"logs/good_{seed}" for seed in range(3)]
    assert run(capsys, "reference", *good, "-o", "made")[0] == 0
    assert run(capsys, "check", good[0], "--reference", "made")[0] == 0
    assert run(capsys, "check", "logs/bad", "--reference", "made")[0] == 1
    assert run(capsys, "diff", good[0], "logs/bad")[0] == 0
    assert run(capsys, "show", good[1])[0] == 0
    assert run(capsys, "report", *good, "-o", "page.html")[0] == 0
    approve = ["approve", "logs/bad", "--reference", "made", "--reason", "it is meant"]
    assert run(capsys, *approve)[0] == 0
    assert len(Reference.from_runs(good).runs) == 3
    assert_attention(good[0], Reference.from_runs(good))


def test_a_check_never_creates_a_reference(place, capsys):
    remedy = "make one: lightning-saliency reference RUN RUN RUN -o absent"
    code, told, _ = run(capsys, "check", "new", "--reference", "absent")
    assert (code, told) == (3, f"NO REFERENCE  new: there is none in absent; {remedy}\n")
    code, _, told = run(capsys, "approve", "new", "--reference", "absent", "--reason", "x")
    assert code == 3
    assert told == f"lightning-saliency: there is no reference in absent; {remedy}\n"
    assert not Path("absent").exists()


def test_runs_that_cannot_be_compared(place, capsys):
    record(Path("other"), 1, told={"fingerprint": "e" * 64}, changed={"fingerprint": "e" * 64})
    for arguments in (["diff", "new", "other"], ["reference", "new", "other", "-o", "made"]):
        code, out, told = run(capsys, *arguments)
        assert (code, out) == (4, "")
        assert "cannot be compared: their probes differ" in told
        assert "pass `ProbeBatch.load('probe.safetensors')` to each" in told


def test_a_run_of_another_probe_without_the_masks_is_not_comparable_either(place, capsys):
    bare = observation(fingerprint="e" * 64)
    bare = replace(bare, measured=replace(bare.measured, shares={}))
    recorder = RunWriter(Path("bare/saliency"))
    recorder.begin(info(fingerprint="e" * 64, areas={}), photos(), after=-1)
    recorder.add(bare)
    code, told, _ = run(
        capsys, "check", "bare", "--reference", "ref", "--require", "object.share >= 0.1"
    )
    assert code == 4
    assert told.startswith("NOT COMPARABLE  bare at epoch 1")


def test_strict_turns_warnings_into_failures(place, capsys):
    assert run(capsys, "reference", "good_0", "-o", "one")[0] == 0
    code, told, _ = run(capsys, "check", "bad", "--reference", "one")
    assert code == 0
    assert told.startswith("PASS, with warnings  bad")
    assert Path("bad/saliency/attention.png").exists()
    code, told, _ = run(capsys, "check", "bad", "--reference", "one", "--strict", "--junit", "j")
    assert code == 1
    assert "fail  moved_mass " in told
    assert ET.parse("j").getroot().get("failures") == "3"


def test_the_verdict_on_an_unfinished_run_says_so(place, capsys):
    record(Path("on"), 7, finished=False)
    code, told, _ = run(capsys, "check", "on", "--reference", "ref")
    assert code == 0
    assert told.startswith("PASS  on at epoch 1 (unfinished run), against")


def test_a_reference_made_from_an_unfinished_run_says_so(place, capsys):
    record(Path("on"), 7, finished=False)
    code, told, _ = run(capsys, "reference", "good_0", "good_1", "on", "-o", "made")
    assert code == 0
    assert told.endswith("  on is unfinished or was interrupted.\n")
    assert told.count("unfinished") == 1


# --- what it writes


def test_the_files_for_programs(place, capsys):
    code, told, _ = run(
        capsys, "check", "bad", "--reference", "ref", "--json", "out/v.json", "--junit", "out/j.xml"
    )
    assert code == 1
    found = json.loads(Path("out/v.json").read_text())
    assert (found["outcome"], found["exit_code"]) == ("fail", 1)
    assert found["growth"]["region"] == "mark"
    suite = ET.parse("out/j.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("4", "4", "0")
    assert suite.find("system-out").text == told.rstrip("\n")
    run(
        capsys,
        "check",
        "new",
        "--reference",
        "absent",
        "--json",
        "out/v.json",
        "--junit",
        "out/j.xml",
    )
    assert json.loads(Path("out/v.json").read_text())["exit_code"] == 3
    assert ET.parse("out/j.xml").getroot().get("errors") == "1"


def test_a_file_that_cannot_be_written_does_not_hide_the_verdict(place, capsys):
    Path("taken").mkdir()
    for option in ("--json", "--junit"):
        code, out, told = run(capsys, "check", "bad", "--reference", "ref", option, "taken")
        assert code == 2
        assert out.startswith("FAIL  bad")
        assert re.match(r"lightning-saliency: .*taken", told)


def test_a_pipe_is_written_into_and_stays_a_pipe(place, capsys):
    os.mkfifo("pipe")
    Path("link").symlink_to("pipe")
    for name in ("pipe", "link"):
        reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        run(capsys, "check", "new", "--reference", "ref", "--json", name)
        assert json.loads(os.read(reader, 65536))["outcome"] == "pass"
        os.close(reader)
    assert Path("pipe").is_fifo()
    assert Path("link").is_symlink()


def test_a_picture_that_cannot_be_written_does_not_hide_the_verdict(place, capsys):
    Path("bad/saliency/attention.png").mkdir()
    code, told, _ = run(capsys, "check", "bad", "--reference", "ref")
    assert code == 1
    assert "  Pictures: not written: " in told
    assert [p.name for p in Path("bad/saliency").glob(".*")] == []


def test_the_verdict_is_kept_with_the_run(place, capsys):
    for name, outcome in (("bad", "fail"), ("new", "pass")):
        run(capsys, "check", name, "--reference", "ref")
        verdict = json.loads(Path(name, "saliency/verdict.json").read_text())
        assert (verdict["outcome"], verdict["run"], verdict["step"]) == (outcome, "saliency", 9)
    Path("bad/saliency/verdict.json").unlink()
    Path("bad/saliency/verdict.json").mkdir()  # It cannot be written, and the verdict is printed.
    assert run(capsys, "check", "bad", "--reference", "ref")[0] == 1


def test_the_picture_is_drawn_only_for_a_run_that_fails(place, capsys):
    run(capsys, "check", "bad", "--reference", "ref")
    with Image.open("bad/saliency/attention.png") as picture:
        assert picture.width >= 4 * 96
        assert picture.height >= IMAGES * 96
    run(capsys, "check", "new", "--reference", "ref")
    assert not Path("new/saliency/attention.png").exists()


def test_the_command_that_accepts_the_change_works_as_it_stands(place, capsys):
    odd = "a 'good' run; $(touch hacked) & \"more\""
    shutil.move("bad", odd)
    shutil.move("ref", "the ref's")
    _, told, _ = run(capsys, "check", odd, "--reference", "the ref's")
    words = shlex.split(told.splitlines()[-1])
    assert words == [
        *("lightning-saliency", "approve", odd, "--reference", "the ref's", "--reason", "…")
    ]
    assert run(capsys, *words[1:])[0] == 0
    assert run(capsys, "check", odd, "--reference", "the ref's")[0] == 0


# --- show and diff


def test_show_and_diff_print_tables_of_recorded_runs(place, capsys):
    bad, good = open_run("bad"), open_run("good_0")
    assert run(capsys, "show", "bad") == (0, describe_run(bad) + "\n", "")
    table = compare_runs(good, bad, ("good_0", "bad"))
    assert run(capsys, "diff", "good_0", "bad") == (0, table + "\n", "")


def test_runs_whose_maps_were_kept_at_other_sizes_are_compared(place, capsys):
    data = observation(5)
    halved, shown = (
        torch.nn.functional.avg_pool2d(maps.float(), 2).half()
        for maps in (data.measured.maps, data.snapshot.maps[RULE])
    )
    recorder = RunWriter(Path("small/saliency"))
    recorder.begin(info(), photos(), after=-1)
    recorder.add(observation(5, maps=shown, measured=replace(data.measured, maps=halved)))
    assert run(capsys, "diff", "good_0", "small")[0] == 0
    assert run(capsys, "reference", "good_0", "small", "-o", "made")[0] == 0
    assert Reference.load("made").maps.shape == halved.shape
    assert run(capsys, "check", "bad", "--reference", "made")[0] == 0


# --- names from data


def test_malicious_names_reach_neither_terminal_nor_picture_nor_folder(place, capsys):
    evil = "\x1b]0;owned\x07\u202e\n../../x\ud800" + "W" * 100_000
    told = {
        "class_names": (evil, "1", "\u200b" * 3000),
        "images": tuple(f"{evil}{i}" for i in range(IMAGES)),
    }
    for seed in range(3):
        record(Path(f"evil_{seed}"), seed, told=told)
    record(Path("evil"), 9, on_mark=0.6, told=told, changed={"caption": evil})
    names = [f"evil_{seed}" for seed in range(3)]
    before = {p for p in place.rglob("*") if p.is_file()}
    assert run(capsys, "reference", *names, "-o", "evil_ref")[0] == 0
    start = time.monotonic()
    for arguments in (["check", "evil", "--reference", "evil_ref"], ["show", "evil"]):
        code, out, err = run(capsys, *arguments)
        assert code in (0, 1)
        assert not err
        assert not set(out) & set("\x1b\x07\u202e\ud800\u200b")
    assert time.monotonic() - start < 10
    new = {p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file()} - {
        p.relative_to(place).as_posix() for p in before
    }
    assert new == {
        *("evil_ref/reference.json", "evil_ref/reference.safetensors"),
        *("evil/saliency/attention.png", "evil/saliency/verdict.json"),
    }


def test_the_malicious_name_of_a_folder_is_printed_plainly(place, capsys):
    """The name of a folder is data too if it comes from an archive that was unpacked."""
    shutil.move("new/saliency", "new/\x1b[31mevil\u202e")
    for arguments in (["show", "new"], ["check", "new", "--reference", "ref"]):
        code, out, err = run(capsys, *arguments)
        assert code == 0
        assert not set(out + err) & {"\x1b", "\u202e"}
    code, out, _ = run(capsys, "reference", "new", "-o", "\x1b[31mref")
    assert code == 0
    assert "\x1b" not in out


def test_a_path_that_is_not_utf8_is_reported(place, capsys):
    """safetensors does not accept such a path; its older versions say so in other words."""
    odd = os.fsdecode(b"run \xff")
    shutil.move("bad", odd)
    code, out, told = run(capsys, "check", odd, "--reference", "ref")
    assert (code, out, told.count("\n")) == (2, "", 1)
    assert told.startswith("lightning-saliency: run ?/saliency/observation-")
    assert re.search(r"is not valid UTF-8|'utf-8' codec can't encode", told)


def test_file_names_from_names_stay_in_their_folder():
    for name in ("../x", "/etc/passwd", "a/b", "..", "\0", "CON\\x"):
        assert "/" not in safe_name(name)
        assert safe_name(name) not in (".", "..", "")


# --- report


@pytest.fixture
def front(place, monkeypatch):
    """A front end of one line, in place of the real one."""
    folder = place / "front"
    folder.mkdir()
    (folder / "page.js").write_text("document.title;\n")
    monkeypatch.setattr(bundle, "STATIC", folder)


@pytest.mark.usefixtures("front")
def test_report_writes_a_file_and_says_what_is_in_it(place, capsys):
    code, told, error = run(capsys, "report", "good_0", "new/saliency", "-o", "out/report.html")
    size = (place / "out/report.html").stat().st_size
    assert (code, error) == (0, "")
    assert told == f"out/report.html: {size / 1000:.0f} kB\n  good_0\n  new\n"
    assert (place / "out/report.html").read_text().startswith("<!doctype html>")


@pytest.mark.usefixtures("front")
def test_report_judges_each_run_by_a_reference(place, capsys):
    command = ("report", "new", "bad", "--reference", "ref", "-o", "report.html")
    code, told, _ = run(capsys, *command)
    assert code == 0
    assert told.splitlines()[1:] == ["  new: pass", "  bad: fail"]
    page = Page((place / "report.html").read_text())
    for name in ("new", "bad"):
        run(capsys, "check", name, "--reference", "ref", "--json", f"{name}.json")
    for index, name in zip(page.index, ("new", "bad"), strict=True):
        judged = json.loads((place / f"{name}.json").read_text())
        assert index["verdict"]["outcome"] == judged["outcome"]
        assert index["verdict"]["findings"] == judged["findings"]
        assert index["verdict"]["growth"] == judged["growth"]
        assert index["verdict"]["images"] == judged["images"]
    assert "Attention fails" in page.words


@pytest.mark.usefixtures("front")
def test_report_replaces_a_report(place, capsys):
    (place / "report.html").write_text("old")
    assert run(capsys, "report", "new", "-o", "report.html")[0] == 0
    assert (place / "report.html").read_text() != "old"


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("new", "-o", "good_0"), 2, "good_0 is a folder; name a file, such as report.html in it"),
        (("absent", "-o", "r.html"), 2, "absent is not a folder; pass the log folder of a run"),
        (("ref", "-o", "r.html"), 2, "ref. A run with `SaliencyCallback(record=True)` writes it"),
        (
            ("new", "-o", "r.html", "--reference", "absent"),
            3,
            "there is no reference in absent; make one: lightning-saliency reference RUN RUN RUN",
        ),
        *(
            (
                ("new", "-o", "r.html", "--budget", size),
                2,
                "`--budget` must be a size such as 500kB",
            )
            for size in ("", "ten", "MB", "0", "0.0001kB", "10 pounds", "1e9", "9" * 500)
        ),
        (("new", "-o", "r.html", "--budget", "9kB"), 2, "a budget of 0.009 MB is too small"),
    ],
)
def test_report_refuses_with_a_remedy(place, capsys, arguments, code, told):
    got, printed, error = run(capsys, "report", *arguments)
    assert got == code
    assert told in error
    assert error.count("\n") == 1
    assert printed == ""
    assert not (place / "r.html").exists()


@pytest.mark.usefixtures("front")
def test_report_of_a_run_that_cannot_be_compared_says_so(place, capsys):
    record(Path("other"), told={"fingerprint": "e" * 64}, changed={"fingerprint": "e" * 64})
    code, told, _ = run(capsys, "report", "other", "--reference", "ref", "-o", "report.html")
    assert code == 0
    assert told.splitlines()[1:] == ["  other: not comparable"]
    assert "Attention check: not comparable" in Page((place / "report.html").read_text()).words


def test_report_says_in_its_help_what_it_is_for(capsys):
    code, told, _ = run(capsys, "report", "--help")
    assert code == 0
    assert "(default: 10MB)" in told
    assert "needs no network" in told
