"""Requirements: what a sentence means, what it judges, and how a wrong one is refused."""

from __future__ import annotations

import re

import pytest

from lightning_saliency.check.requirements import DEFAULT, Requirement, parse_all


@pytest.mark.parametrize(
    ("text", "measure", "relation", "bound"),
    [
        ("moved_mass <= auto", "moved_mass", "<=", None),
        ("moved_mass<=0.2", "moved_mass", "<=", 0.2),
        ("  *.share   within  auto ", "*.share", "within", None),
        ("object.share >= 0.6", "object.share", ">=", 0.6),
        ("object.share>=.6", "object.share", ">=", 0.6),
        ("mark.share <= 5e-2", "mark.share", "<=", 0.05),
        ("object.share <= auto", "object.share", "<=", None),
        ("object.share >= 0", "object.share", ">=", 0.0),
        ("object.share <= 1", "object.share", "<=", 1.0),
        ("the left ear.share >= 0.6", "the left ear.share", ">=", 0.6),
        ("a.share.share >= 0.6", "a.share.share", ">=", 0.6),
        ("within.share within auto", "within.share", "within", None),
        ("a <= b.share >= 0.5", "a <= b.share", ">=", 0.5),
        ("7.share >= 0.5", "7.share", ">=", 0.5),
        ("猫.share >= 0.5", "猫.share", ">=", 0.5),
    ],
)
def test_what_a_sentence_means(text, measure, relation, bound):
    found = Requirement.parse(text)
    assert (found.region + found.measure.name, found.relation, found.bound) == (
        measure,
        relation,
        bound,
    )
    assert found.text == text.strip()
    assert Requirement.parse(found.text) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must read like 'moved_mass <= auto'"),
        ("object.share", "must read like"),
        ("object.share > 0.5", "must read like"),
        ("object.share == 0.5", "must read like"),
        ("object.share >= 0.5 please", "must read like"),
        (">= 0.5", "must read like"),
        ("object >= 0.5", "must be on '<region>.share' or 'moved_mass'"),
        (".share >= 0.5", "must be on '<region>.share' or"),
        ("Moved_mass <= auto", "must be on '<region>.share' or"),
        ("moved_mass >= 0.1", "'moved_mass' takes only '<='"),
        ("moved_mass within auto", "'moved_mass' takes only '<='"),
        ("object.share within 0.5", "'within' takes only 'auto'"),
        ("object.share >= 60", "a bound must be 'auto' or a number from 0 to 1"),
        ("object.share >= 60%", "a bound must be 'auto' or a number"),
        ("object.share >= -0.1", "a bound must be 'auto' or a number"),
        ("object.share >= nan", "a bound must be 'auto' or a number"),
        ("object.share >= inf", "a bound must be 'auto' or a number"),
        ("object.share >= Auto", "a bound must be 'auto' or a number"),
    ],
)
def test_what_is_not_a_requirement(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as raised:
        Requirement.parse(text)
    assert repr(text) in str(raised.value)


@pytest.mark.parametrize("value", [None, 3, ["moved_mass <= auto"], b"moved_mass <= auto"])
def test_what_is_not_text(value):
    with pytest.raises(TypeError, match="a requirement must be a sentence such as"):
        Requirement.parse(value)


def test_one_sentence_is_not_a_list():
    with pytest.raises(TypeError, match="requirements must be a list of sentences, got 'moved_m"):
        parse_all("moved_mass <= auto")


def test_a_repeated_sentence_counts_once():
    assert len(parse_all([*DEFAULT, *DEFAULT, " moved_mass <= auto "])) == 3


def names(sentence, regions):
    return [quantity.name for quantity in Requirement.parse(sentence).quantities(regions)]


def test_what_it_judges():
    regions = ["object", "*", "a b", "x.share"]
    judged = {text: names(text, regions) for text in DEFAULT}
    assert judged["moved_mass <= auto"] == ["moved_mass"]
    assert judged["*.share within auto"] == [
        "*.share",
        "a b.share",
        "object.share",
        "x.share.share",
    ]
    assert names("x.share.share >= 0.1", regions) == ["x.share.share"]
    assert names("a b.share >= 0.1", regions) == ["a b.share"]
    assert names("*.share >= 0.1", []) == []


def test_a_region_without_a_mask_is_named_with_those_that_have_one():
    for regions, told in ((["mark", "face"], "masks of: face, mark"), ([], "masks of: none")):
        with pytest.raises(ValueError, match=rf"needs a mask of the region 'object'.*{told}") as e:
            Requirement.parse("object.share >= 0.6").quantities(regions)
        assert "Pass `ProbeBatch(…, masks={'object': …})`" in str(e.value)
