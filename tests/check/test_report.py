"""A verdict exactly as a person, a program and a build server see it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from lightning_saliency.check.report import (
    TerminalStyle,
    as_json,
    as_junit,
    as_text,
    describe_growth,
)
from lightning_saliency.check.verdict import Finding, Growth, Moved, Occluded, Verdict
from lightning_saliency.functional.text import plain

MOVED = Finding(
    requirement="moved_mass <= auto",
    measure="moved_mass",
    value=0.0551,
    low=None,
    high=0.2233,
    source="3 good runs: 0.055 ± 0.009, from 0.048 to 0.066",
    mark="pass",
)
SHARE = Finding(
    requirement="*.share within auto",
    measure="object.share",
    value=0.9049,
    low=0.8,
    high=0.95,
    source="3 good runs: 0.905 ± 0.010, from 0.895 to 0.915",
    mark="pass",
    area=0.25,
)
PASS = Verdict("pass", findings=(MOVED, SHARE), good_runs=3)
FAIL = Verdict(
    "fail",
    findings=(replace(MOVED, value=0.5841, mark="fail"), replace(SHARE, low=None, mark="pass")),
    growth=Growth("mark", 0, 0, 0.026, 0.606),
    classes=(Moved("cat", 0, 0.587, 0.3), Moved("dog", 1, 0.1, 0.3)),
    images=(Moved("image 4", 4, 0.59), Moved("image 0", 0, 0.58)),
    metrics={"val_acc": 0.99, "val_loss": 0.1},
    reference_metrics={"val_acc": 0.93},
    good_runs=3,
    left_out=1,
    occluded=Occluded(0.98, 0.12),
)


def test_a_pass_as_a_person_sees_it():
    assert (
        as_text(PASS, "logs/v3 at epoch 1")
        == """\
PASS  logs/v3 at epoch 1, against 3 good runs
  pass  moved_mass    0.055  at most 0.223   (3 good runs: 0.055 ± 0.009, from 0.048 to 0.066)
  pass  object.share  0.905  0.800 to 0.950  (3 good runs: 0.905 ± 0.010, from 0.895 to 0.915; \
25.0% of the area)"""
    )


def test_a_failure_as_a_person_sees_it():
    told = as_text(FAIL, "v3", pictures="v3/attention.png", accept="lightning-saliency approve v3")
    assert (
        told
        == """\
FAIL  v3, against 3 good runs
  fail  moved_mass    0.584  at most 0.223  (3 good runs: 0.055 ± 0.009, from 0.048 to 0.066)
  pass  object.share  0.905  at most 0.950  (3 good runs: 0.905 ± 0.010, from 0.895 to 0.915; \
25.0% of the area)
  1 image left out: its map is all zero or not finite, here or in a good run
  What grew: the region 'mark', from 2.6% to 60.6% of the gradient
  Hiding it lowers the probability of the label: 0.980 with it, 0.120 without
  Classes that moved most: cat (0.59), dog (0.10)
  Images that moved most: image 4 (0.59), image 0 (0.58)
  The run's own metrics: val_acc 0.990 (good runs 0.930)
  Pictures: v3/attention.png
  If the change is intended (three new runs are better than one):
    lightning-saliency approve v3"""
    )


def test_a_pass_with_warnings_says_which():
    warned = replace(
        PASS,
        findings=(
            replace(MOVED, mark="warn", source="a rule of thumb: one good run has no spread"),
        ),
        growth=Growth(None, 0, 7, 0.02, 0.3),
        occluded=Occluded(0.9, 0.95),
        good_runs=1,
        left_out=2,
    )
    assert (
        as_text(warned, "v3", accept="lightning-saliency approve v3")
        == """\
PASS, with warnings  v3, against 1 good run
  warn  moved_mass  0.055  at most 0.223  (a rule of thumb: one good run has no spread)
  2 images left out: their maps are all zero or not finite, here or in a good run
  What grew: row 1, column 8 of the 8×8 grid, from 2.0% to 30.0% of the gradient
  Hiding it does not lower the probability of the label: 0.900 with it, 0.950 without
  This is not an all-clear: the model may rely on it together with other places, or on a cue that \
is elsewhere. Look at the maps"""
    )


def test_a_profile_that_shifts_everywhere_is_told_from_a_place_that_grew():
    scattered = Growth(None, 0, 7, 0.02, 0.03, scattered=True)
    assert describe_growth(scattered) == (
        "no one place: the whole profile shifted, as after a change of recipe, or by a cue at "
        "several places or without a place (most: row 1, column 8 of the 8×8 grid, from 2.0% to "
        "3.0% of the gradient)"
    )
    words = "row 1, column 8 of the 8×8 grid, from 2.0% to 3.0% of the gradient"
    assert describe_growth(replace(scattered, scattered=False)) == words


def test_a_class_alone_warns_or_fails():
    moved = (Moved("cow", 2, 0.4, 0.25),)
    assert "  warn  moved_mass of cow  0.400  at most 0.250   (this class alone)" in as_text(
        replace(PASS, classes=moved), "v3"
    )
    strict = replace(PASS, outcome="fail", classes=moved)
    assert "  fail  moved_mass of cow  0.400  at most 0.250   (this class alone)" in as_text(
        strict, "v3"
    )


@pytest.mark.parametrize(
    ("verdict", "text"),
    [
        (
            Verdict("no reference", why="there is none in ref"),
            "NO REFERENCE  v3: there is none in ref",
        ),
        (
            Verdict("not comparable", why="their probes differ"),
            "NOT COMPARABLE  v3: their probes differ",
        ),
        (
            Verdict("inconclusive", why="3 of 4 maps are all zero", left_out=3),
            "INCONCLUSIVE  v3: 3 of 4 maps are all zero",
        ),
    ],
    ids=lambda value: value.outcome if isinstance(value, Verdict) else "",
)
def test_the_other_outcomes_as_a_person_sees_them(verdict, text):
    assert as_text(verdict, "v3", accept="approve") == text


def test_without_an_accuracy_the_first_metrics_are_named():
    metrics = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    told = as_text(replace(FAIL, metrics=metrics, reference_metrics={}, good_runs=0), "v3")
    assert "The run's own metrics: a 1.000, b 2.000, c 3.000" in told
    assert "run's own" not in as_text(replace(FAIL, reference_metrics={}), "v3")


# --- colours


def test_colours_are_used_if_asked_for_and_do_not_change_the_layout():
    plainly = as_text(FAIL, "v3", accept="approve v3")
    coloured = as_text(FAIL, "v3", accept="approve v3", style=TerminalStyle(on=True))
    assert "\x1b" not in plainly
    assert re.sub(r"\x1b\[\d+m", "", coloured) == plainly
    assert coloured.startswith("\x1b[31mFAIL\x1b[0m  v3")
    assert "\x1b[32mpass\x1b[0m" in coloured
    assert "\x1b[1mapprove v3\x1b[0m" in coloured
    assert coloured.count("\x1b[0m") * 2 == coloured.count("\x1b")


# --- names from data

EVIL = (
    "cat\x1b[31m\x07\u202egnp\u2066\r\n\u2028\u2029\x85\x9b31m\0<b a=\"'&]]>\udce9\ufffe\U000e0041"
)
HOSTILE = replace(
    FAIL,
    findings=(replace(MOVED, measure=f"{EVIL}.share", requirement=EVIL, source=EVIL, mark="fail"),),
    growth=Growth(EVIL, 0, 0, 0.0, 1.0),
    classes=(Moved(EVIL, 0, 0.9, 0.1),),
    images=(Moved(EVIL, 0, 0.9),),
    metrics={f"{EVIL}acc": 1.0},
    reference_metrics={f"{EVIL}acc": 1.0},
    why=EVIL,
)
BAD = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def test_names_cannot_reach_the_terminal():
    told = as_text(HOSTILE, EVIL)
    assert not BAD.search(told)
    told.encode()
    lines = as_text(replace(HOSTILE, why=""), "v3").splitlines()
    assert len(lines) == len(as_text(FAIL, "v3").splitlines()) - 1  # There is one finding less.


def test_of_many_classes_the_worst_are_named_and_the_others_counted():
    moved = tuple(Moved(str(i), i, 0.9 - i / 100, 0.25) for i in range(10))
    told = as_text(replace(PASS, classes=moved), "v3")
    assert told.count("(this class alone)") == 3
    assert "\n  … and 7 more classes\n" in told
    failing = replace(FAIL, classes=moved)
    assert "this class alone" not in as_text(failing, "v3")  # A finding failed already.


@pytest.mark.parametrize(
    "char", "\x1b\x00\x07\n\r\t\x7f\x85\x9b\u200b\u202e\u2066\u2028\u2029\ud800"
)
def test_what_a_terminal_would_act_upon_is_replaced(char):
    assert plain(f"a{char}b") == "a?b"


@pytest.mark.parametrize("text", ["Katze", "猫", "größer", "e\u0301", "image 3 · class 3", "🐈"])
def test_letters_stay_as_they_are(text):
    assert plain(text) == text


def test_long_names_leave_lines_that_can_be_read():
    long = tuple(Moved("W" * 5000, i, 0.9, 0.1) for i in range(2))
    passed = tuple(replace(f, mark="pass") for f in FAIL.findings)
    told = as_text(replace(FAIL, findings=passed, classes=long, images=long), "v3")
    assert max(map(len, told.splitlines())) < 200
    assert f"moved_mass of {'W' * 59}…  0.900" in told


def test_names_cannot_break_the_xml():
    suite = ET.fromstring(as_junit(HOSTILE, EVIL, as_text(HOSTILE, EVIL) + EVIL))
    assert [c.tag for c in suite] == ["testcase", "system-out"]
    assert len(suite.findall("testcase/failure")) == 1
    text = "".join(suite.itertext()) + "".join(
        value for element in suite.iter() for value in element.attrib.values()
    )
    assert not BAD.search(text)
    assert "<b a=\"'&]]>" in text  # It is kept as text, not as markup.


def test_names_cannot_break_the_json():
    data = as_json(HOSTILE, EVIL)
    assert data.isascii()
    assert not BAD.search(data)
    found = json.loads(data)
    assert found["run"] == EVIL
    assert found["classes"][0]["name"] == EVIL


# --- for programs


def test_the_json_has_null_for_what_could_not_be_measured():
    finding = replace(FAIL.findings[0], value=float("nan"), high=float("inf"))
    found = as_json(replace(FAIL, findings=(finding,)), "v3")
    assert json.loads(found)["findings"][0]["value"] is None
    assert "NaN" not in found
    assert "Infinity" not in found


def test_the_json_holds_all_of_the_verdict_in_full():
    found = json.loads(as_json(FAIL, "v3"))
    assert found["run"] == "v3"
    assert found["outcome"] == "fail"
    assert found["exit_code"] == 1
    assert found["findings"][0]["value"] == 0.5841
    assert found["findings"][0]["low"] is None
    assert found["growth"] == {
        "region": "mark",
        "row": 0,
        "column": 0,
        "before": 0.026,
        "now": 0.606,
        "scattered": False,
    }
    assert found["occluded"] == {"before": 0.98, "after": 0.12}
    assert found["warnings"] == ["class cat moved 0.587 (bound 0.300)"]
    assert found["images"][1] == {"name": "image 0", "index": 0, "moved": 0.58, "bound": None}


def counts(verdict: Verdict) -> tuple[int, int, int]:
    suite = ET.fromstring(as_junit(verdict, "v3", as_text(verdict, "v3")))
    assert suite.find("system-out").text == as_text(verdict, "v3")
    found = tuple(len(suite.findall(f"testcase{kind}")) for kind in ("", "/failure", "/error"))
    assert tuple(int(suite.get(n)) for n in ("tests", "failures", "errors")) == found
    return found


@pytest.mark.parametrize(
    ("verdict", "expected"),
    [
        pytest.param(PASS, (2, 0, 0), id="pass"),
        pytest.param(replace(PASS, findings=(replace(MOVED, mark="warn"),)), (1, 0, 0), id="warn"),
        pytest.param(FAIL, (2, 1, 0), id="fail"),
        pytest.param(
            replace(PASS, outcome="fail", classes=(Moved("cow", 2, 0.4, 0.25),)),
            (3, 1, 0),
            id="strict-class-alone",
        ),
        pytest.param(Verdict("no reference", why="none"), (1, 0, 1), id="no-reference"),
        pytest.param(Verdict("not comparable", why="other"), (1, 0, 1), id="not-comparable"),
        pytest.param(Verdict("inconclusive", why="zero"), (1, 0, 1), id="inconclusive"),
        pytest.param(
            Verdict("no reference", findings=(SHARE,), why="x"), (2, 0, 1), id="partly-judged"
        ),
        pytest.param(Verdict("pass"), (1, 0, 0), id="nothing-found"),
    ],
)
def test_the_counts_of_a_build_server_are_right(verdict, expected):
    assert counts(verdict) == expected
    assert (verdict.exit_code == 0) == (expected[1] + expected[2] == 0)


def test_the_cases_of_a_build_server_are_named_and_say_why():
    suite = ET.fromstring(as_junit(FAIL, "v3", ""))
    assert [(c.get("classname"), c.get("name")) for c in suite.findall("testcase")] == [
        ("v3", "moved_mass <= auto [moved_mass]"),
        ("v3", "*.share within auto [object.share]"),
    ]
    [failure] = suite.findall("testcase/failure")
    assert failure.get("message") == "moved_mass is 0.584; allowed: at most 0.223"
