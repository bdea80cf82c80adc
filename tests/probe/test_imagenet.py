"""ImageNet's classes by name: every name finds its own class, and no name finds a wrong one."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from lightning_saliency.probe import imagenet
from lightning_saliency.probe.imagenet import class_index, class_names

# Taken from torchvision's list: names that differ from others only in case or by an omitted word.
AMBIGUOUS = {"Cardigan": 264, "cardigan": 474, "crane": 517, "maillot": 638}


def forget() -> None:
    for remembered in (imagenet._timm_names, imagenet._timm_meanings):
        remembered.cache_clear()


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(sys.modules, "timm.data.imagenet_info", None)
    forget()
    yield
    forget()


@pytest.fixture
def with_timm() -> None:
    pytest.importorskip("timm")


def test_there_are_a_thousand_names():
    names = class_names()
    assert isinstance(names, tuple)
    assert len(names) == 1000
    assert (names[0], names[24], names[999]) == ("tench", "great grey owl", "toilet tissue")


def test_every_name_of_torchvision_finds_its_class():
    found = {name: class_index(name) for name in class_names() if name not in AMBIGUOUS}
    assert found == {n: i for i, n in enumerate(class_names()) if n not in AMBIGUOUS}


@pytest.mark.usefixtures("with_timm")
def test_every_synonym_finds_its_class_or_is_ambiguous():
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    meanings: dict[str, set[int]] = {}
    for index in range(1000):
        for synonym in info.index_to_description(index).split(", "):
            meanings.setdefault(synonym.casefold(), set()).add(index)
    assert len(meanings) > 1800
    assert sum(len(meant) > 1 for meant in meanings.values()) < 25
    refused, wrong = [], []
    for synonym, meant in meanings.items():
        try:
            found = class_index(synonym)
        except ValueError:
            refused.append(synonym)
        else:
            wrong += [synonym] if found not in meant else []
    assert wrong == []
    assert [synonym for synonym in refused if len(meanings[synonym]) < 2] == []


@pytest.mark.usefixtures("with_timm")
@pytest.mark.parametrize(
    ("name", "index"),
    [
        pytest.param("great grey owl", 24, id="as-torchvision-has-it"),
        pytest.param("GREAT Grey Owl", 24, id="case"),
        pytest.param("great_grey_owl", 24, id="underscores"),
        pytest.param("  great-grey   owl\n", 24, id="hyphens-and-spaces"),
        pytest.param("great gray owl", 24, id="synonym"),
        pytest.param("strix-nebulosa", 24, id="latin"),
        pytest.param("crane bird", 134, id="a-word-of-torchvision"),
        pytest.param("tank suit", 639, id="a-word-of-timm"),
        pytest.param("Cardigan Welsh corgi", 264, id="the-dog"),
        pytest.param("jack-o'-lantern", 607, id="apostrophe"),
        pytest.param("Jack o’ Lantern", 607, id="typographic-apostrophe"),
        pytest.param("St Bernard", 247, id="full-stop"),
        # The name of one class is a synonym of another. It means the first, as without timm.
        pytest.param("missile", 657, id="own-name-before-synonym"),
        pytest.param("partridge", 86, id="own-name-before-synonym-of-two"),
    ],
)
def test_a_name_however_spelt(name: str, index: int):
    assert class_index(name) == index


@pytest.mark.usefixtures("without_timm")
@pytest.mark.parametrize(
    ("name", "index"), [("Great_Grey-owl", 24), ("missile", 657), ("crane bird", 134)]
)
def test_names_of_torchvision_need_no_timm(name: str, index: int):
    assert class_index(name) == index


def test_timm_is_not_asked_for_what_torchvision_knows(monkeypatch: pytest.MonkeyPatch):
    def refuse() -> None:
        raise AssertionError("timm takes seconds to import")

    forget()
    monkeypatch.setattr(imagenet, "_timm_names", refuse)
    assert class_index(["zebra", "espresso"]) == [340, 967]


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(["zebra", "great grey owl"], id="list"),
        pytest.param(("zebra", "great grey owl"), id="tuple"),
        pytest.param((n for n in ("zebra", "great grey owl")), id="generator"),
    ],
)
def test_several_names_give_a_list_in_order(names: list[str]):
    found = class_index(names)
    assert found == [340, 24]
    assert [type(index) for index in found] == [int, int]


def test_no_names_give_an_empty_list():
    assert class_index([]) == []


@pytest.mark.usefixtures("with_timm")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "cardigan",
            "`name` 'cardigan' means several classes: 264 is 'Cardigan', say 'Cardigan Welsh "
            "corgi'; 474 is 'cardigan', use 474 itself.",
            id="cardigan",
        ),
        pytest.param("Cardigan", "264 is 'Cardigan', say 'Cardigan Welsh corgi'; 474", id="case"),
        pytest.param(
            "crane",
            "`name` 'crane' means several classes: 134 is 'crane bird', say 'crane bird'; 517 is "
            "'crane', use 517 itself.",
            id="crane",
        ),
        pytest.param(
            "maillot", "638 is 'maillot', use 638 itself; 639 is 'maillot tank suit'", id="maillot"
        ),
        pytest.param("panda", "say 'lesser panda'; 388 is 'giant panda'", id="synonym-of-two"),
    ],
)
def test_the_error_of_an_ambiguous_name_lists_its_classes(name: str, message: str):
    with pytest.raises(ValueError) as raised:
        class_index(name)
    assert message in str(raised.value)
    assert "pip install" not in str(raised.value)


@pytest.mark.usefixtures("with_timm")
@pytest.mark.parametrize("name", [*AMBIGUOUS, "panda", "horn", "wagon"])
def test_the_names_suggested_for_an_ambiguous_name_work(name: str):
    with pytest.raises(ValueError) as raised:
        class_index(name)
    candidates = str(raised.value).split(": ", 1)[1].rstrip(".").split("; ")
    assert len(candidates) > 1
    for candidate in candidates:
        if ", say " in candidate:
            index, say = int(candidate.split()[0]), candidate.split(", say ")[1].strip("'\"")
            assert class_index(say) == index


@pytest.mark.usefixtures("without_timm")
@pytest.mark.parametrize("name", ["cardigan", "crane", "maillot"])
def test_the_same_names_are_ambiguous_without_timm(name: str):
    with pytest.raises(ValueError, match=r"means several classes: .*`pip install timm` adds"):
        class_index(name)


@pytest.mark.usefixtures("with_timm")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "great grey owll",
            r"^`name` 'great grey owll' is not an ImageNet class name; the closest are "
            r"'great grey owl' \(24\)\.$",
            id="misspelt",
        ),
        pytest.param("owl", r"the closest are 'great grey owl' \(24\), ", id="a-word-of-it"),
        pytest.param("qzxv", r"no class has a similar name\.$", id="nothing-like-it"),
        pytest.param(" ", r"`name` ' ' is not an .* no class has a similar name\.$", id="blank"),
    ],
)
def test_the_error_of_an_unknown_name_lists_the_closest(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        class_index(name)


def test_the_unknown_one_of_several_is_named():
    with pytest.raises(ValueError, match="`name` 'zebrra' is not an"):
        class_index(["zebra", "zebrra"])


@pytest.mark.usefixtures("without_timm")
def test_without_timm_the_error_of_an_unknown_name_suggests_timm():
    with pytest.raises(ValueError, match=r"'great grey owl' \(24\).* `pip install timm` adds"):
        class_index("great gray owl")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(24, "`name` must be a class name or a list of them, got 24", id="int"),
        pytest.param(None, "or a list of them, got None", id="none"),
        pytest.param(b"zebra", "or a list of them, got b'zebra'", id="bytes"),
        pytest.param({"zebra"}, "or a list of them, got {'zebra'}", id="set"),
        pytest.param(["zebra", 3], "`name` must be a class name, got 3 of int", id="int-in-list"),
    ],
)
def test_anything_but_names_is_a_type_error(name: object, message: str):
    with pytest.raises(TypeError, match=message):
        class_index(name)
