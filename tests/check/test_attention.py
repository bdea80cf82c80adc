"""The arguments of a check, the condition it starts after, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from records import info, observation, record

from lightning_saliency.check.attention import AttentionCheck, Condition
from lightning_saliency.check.evaluate import Candidate
from lightning_saliency.check.reference import Reference
from lightning_saliency.check.requirements import DEFAULT
from lightning_saliency.errors import RecordError, SaliencyWarning


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    good = [record(tmp_path / f"good_{seed}", seed) for seed in range(3)]
    Reference.from_runs(good, ["object.share >= 0.6"]).save(tmp_path / "ref")
    return tmp_path / "ref"


def sentences(check: AttentionCheck) -> list[str]:
    return [requirement.text for requirement in check.requirements]


def test_without_arguments_it_requires_what_needs_a_reference():
    check = AttentionCheck()
    assert sentences(check) == list(DEFAULT)
    assert (check.reference, check.rule, check.reduce) == (None, "gradient", "joint")
    assert (check.on_fail, check.start_after, check.patience) == ("warn", None, 1)


def test_a_reference_is_given_itself_or_by_its_folder(folder):
    for given in (folder, str(folder), Reference.load(folder)):
        check = AttentionCheck(given)
        assert isinstance(check.reference, Reference)
        assert sentences(check) == ["object.share >= 0.6"]


def test_requirements_are_added_to_those_of_the_reference(folder):
    check = AttentionCheck(folder, require=["mark.share <= 0.05", "object.share >= 0.6"])
    assert sentences(check) == ["object.share >= 0.6", "mark.share <= 0.05"]
    assert sentences(AttentionCheck(require=["mark.share <= 0.05"])) == ["mark.share <= 0.05"]
    assert sentences(AttentionCheck(require=[])) == []


def test_it_judges_as_the_command_line_does(folder):
    check = AttentionCheck(folder)
    assert check.evaluate(Candidate(info(), observation(9))).outcome == "pass"
    assert check.evaluate(Candidate(info(), observation(9, on_mark=0.6))).outcome == "fail"
    alone = AttentionCheck(require=["object.share >= 0.6"])
    assert alone.evaluate(Candidate(info(), observation(9, on_mark=0.6))).outcome == "fail"
    assert AttentionCheck().evaluate(Candidate(info(), observation())).outcome == "no reference"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rule": "guided"}, "`rule` must be one of .*gradient.*, got 'guided'"),
        ({"reduce": "max"}, "`reduce` must be one of .*square.*, got 'max'"),
        ({"reduce": "mean"}, "`reduce` must be one of .*, got 'mean'"),
        ({"on_fail": "ignore"}, "`on_fail` must be one of warn, raise, stop, got 'ignore'"),
        ({"on_fail": None}, "`on_fail` must be one of"),
        ({"patience": 0}, "`patience` must be an integer of at least 1, got 0"),
        ({"patience": 1.5}, "`patience` must be an integer"),
        ({"patience": True}, "`patience` must be an integer"),
        ({"patience": 2}, "`patience` above 1 needs `start_after`: without it, only one"),
        ({"start_after": "soon"}, "`start_after` must read like 'val_acc>0.8', got 'soon'"),
        ({"start_after": 0.8}, "`start_after` must read like"),
        ({"require": ["x >= 1"]}, "must be on '<region>.share' or 'moved_mass'"),
    ],
)
def test_a_wrong_value_is_refused_at_once(given, message):
    with pytest.raises(ValueError, match=message):
        AttentionCheck(**given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"reference": 3}, "`reference` must be a Reference, the folder of one, or None, got int"),
        ({"reference": ["a"]}, "`reference` must be a Reference"),
        ({"require": "moved_mass <= auto"}, "requirements must be a list of sentences"),
        ({"require": [3]}, "a requirement must be a sentence"),
    ],
)
def test_a_wrong_type_is_refused_at_once(given, message):
    with pytest.raises(TypeError, match=message):
        AttentionCheck(**given)


def test_a_reference_that_is_missing_or_damaged_is_refused_at_once(folder, tmp_path):
    with pytest.raises(RecordError, match=r"there is no file .*absent/reference\.json"):
        AttentionCheck(tmp_path / "absent")
    (folder / "reference.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(RecordError, match=r"reference\.safetensors is damaged"):
        AttentionCheck(folder)


@pytest.mark.parametrize("other", [{"rule": "deconvnet"}, {"reduce": "abs_max"}])
def test_a_reference_that_was_measured_differently_is_refused_at_once(folder, other):
    """The error must not wait until training is over."""
    message = r"must be those of the reference, \('gradient', 'joint'\), got \("
    with pytest.raises(ValueError, match=message):
        AttentionCheck(folder, **other)


def test_a_reference_that_was_measured_by_squares_is_judged_by_squares_and_says_so(tmp_path):
    good = [record(tmp_path / str(seed), seed, told={"reduce": "square"}) for seed in range(3)]
    reference = Reference.from_runs(good)
    with pytest.warns(SaliencyWarning, match="measured by 'square', which finds fewer shortcuts"):
        assert AttentionCheck(reference).reduce == "square"


def test_the_way_of_the_reference_is_the_default(tmp_path):
    run = record(tmp_path / "run", told={"reduce": "contribution"})
    assert AttentionCheck(Reference.from_runs([run])).reduce == "contribution"


@pytest.mark.parametrize("rule", ["guided_backprop", "deconvnet"])
def test_a_rule_that_misses_a_lot_is_warned_about(rule):
    with pytest.warns(SaliencyWarning, match=f"a check on '{rule}' misses a lot"):
        AttentionCheck(rule=rule)


# --- conditions


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        ("val_acc>0.8", 0.81, True),
        ("val_acc>0.8", 0.8, False),
        ("val_acc >= 0.8", 0.8, True),
        ("val_acc>=0.8", 0.79, False),
        ("val_loss<0.5", 0.4, True),
        ("val_loss < 0.5", 0.5, False),
        ("val_loss<=5e-1", 0.5, True),
        ("val/acc@top 5>0.8", 0.9, None),
        ("val/acc@top_5>.8", 0.9, True),
        ("val_acc>0.8", math.nan, False),
        ("val_loss<0.5", math.nan, False),
        ("lr>-1", 0.0, True),
    ],
)
def test_a_condition_on_a_metric(text, value, holds):
    if holds is None:
        with pytest.raises(ValueError, match=r"must read like 'val_acc>0\.8'"):
            Condition.parse(text)
        return
    condition = Condition.parse(text)
    assert condition.holds({condition.metric: value}) is holds
    assert not condition.holds({})
    assert not condition.holds({"other": 0.9})
    assert Condition.parse(str(condition)) == condition


NOT_CONDITIONS = (
    *("", "val_acc", ">0.8", "val_acc>", "val_acc=0.8", "val_acc>high", "0.8<val_acc", "a>b>0.5"),
    *("val_acc>nan", "val_loss<inf", None),
)


@pytest.mark.parametrize("text", NOT_CONDITIONS)
def test_what_is_not_a_condition(text):
    """A comparison with NaN would never hold, and the check would stay silent forever."""
    with pytest.raises(ValueError, match=r"`start_after` must read like 'val_acc>0\.8', got"):
        Condition.parse(text)


def test_a_condition_is_printed_as_it_was_written():
    assert str(Condition.parse(" val_acc >= 0.81234567 ")) == "val_acc>=0.81234567"


def test_stopping_needs_a_moment_before_the_end():
    with pytest.raises(ValueError, match="`on_fail='stop'` needs `start_after`: without it, a run"):
        AttentionCheck(on_fail="stop")
    AttentionCheck(on_fail="stop", start_after="val_acc>0.5")
