"""What a verdict says of itself: exit codes, what failed, what is only suspicious."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightning_saliency.check.verdict import EXIT_CODES, Finding, Growth, Moved, Verdict

FINE = Finding("moved_mass <= 0.2", "moved_mass", 0.1, None, 0.2, "as required", "pass")
WARNED = replace(FINE, value=0.3, mark="warn")
FAILED = replace(FINE, value=0.3, mark="fail")
CALM, SURPRISING, UNKNOWN = Moved("cat", 0, 0.2, 0.2), Moved("dog", 1, 0.4, 0.25), Moved("x", 2, 1)
CORNER = Growth(None, 0, 7, 0.02, 0.3)


def test_each_outcome_has_an_exit_code_of_its_own():
    """Two is what argparse returns for wrong usage."""
    assert EXIT_CODES["pass"] == 0
    assert len(set(EXIT_CODES.values())) == len(EXIT_CODES)
    assert 2 not in EXIT_CODES.values()
    for outcome, code in EXIT_CODES.items():
        assert Verdict(outcome).exit_code == code


@pytest.mark.parametrize(
    ("verdict", "failed", "doubtful"),
    [
        pytest.param(Verdict("pass", findings=(FINE,)), False, False, id="pass"),
        pytest.param(Verdict("pass", findings=(WARNED,)), False, True, id="warning"),
        pytest.param(Verdict("pass", classes=(SURPRISING,)), False, True, id="class-alone"),
        pytest.param(Verdict("fail", findings=(FAILED,)), True, True, id="fail"),
        pytest.param(Verdict("no reference"), False, False, id="no-reference"),
        pytest.param(Verdict("inconclusive"), False, False, id="inconclusive"),
    ],
)
def test_what_is_a_failure_and_what_a_person_should_look_at(verdict, failed, doubtful):
    assert (verdict.failed, verdict.doubtful) == (failed, doubtful)
    assert not verdict.confirmable  # Nothing grew that could be hidden.
    assert replace(verdict, growth=CORNER).confirmable is doubtful


def test_violations_are_the_findings_that_fail():
    assert Verdict("fail", findings=(FINE, FAILED, WARNED)).violations == (FAILED,)
    assert Verdict("pass", findings=(FINE, WARNED)).violations == ()


def test_a_class_surprises_if_it_moved_further_than_its_bound():
    verdict = Verdict("pass", classes=(UNKNOWN, SURPRISING, CALM))
    assert verdict.surprising_classes == (SURPRISING,)


def test_warnings_are_put_in_words():
    verdict = Verdict("pass", findings=(FINE, WARNED), classes=(SURPRISING, CALM))
    assert verdict.warnings == ("moved_mass is 0.300", "class dog moved 0.400 (bound 0.250)")
    assert Verdict("fail", findings=(FAILED,)).warnings == ()


def test_a_place_is_a_region_or_a_cell_counted_from_one():
    assert CORNER.place == "row 1, column 8 of the 8×8 grid"
    assert replace(CORNER, region="the tag").place == "the region 'the tag'"
