"""What a model predicts, when only some of its classes are explained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import records
import torch
from browser import Viewer, make_run

from lightning_saliency.draw.canvas import Tile
from lightning_saliency.viewer import still
from lightning_saliency.viewer.record import Record
from lightning_saliency.viewer.report import build_report, open_records

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Of ten digits, these are explained. The model takes each digit for what it is, but the one for
# a two, which is not explained.
SHOWN = (1, 8)
LAST = "observation-0000000009.safetensors"


def open_record(folder: Path) -> Record:
    return Record(folder / "saliency", "run")


def make_record(tmp_path: Path, *, told: dict | None = None, **changed) -> Record:
    """A record whose last observation and facts are changed."""
    return open_record(records.record(tmp_path / "run", changed=changed, told=told))


# Reading


def test_the_prediction_is_the_recorded_one_and_not_the_strongest_explained_class(tmp_path):
    record = open_record(make_run(tmp_path, images=10, names=DIGITS, classes=10, shown=SHOWN))
    last = record.moments()[0][-1]
    assert last.predicted == [0, 2, 2, 3, 4, 5, 6, 7, 8, 9]
    assert last.targets == [[1, 8]] * 10
    assert record.index()["moments"][-1]["predicted"] == last.predicted


P = torch.tensor([[0.2, 0.5, 0.3]]).repeat(records.IMAGES, 1)


@pytest.mark.parametrize(
    ("told", "targets", "expected"),
    [
        pytest.param({}, None, 1, id="as-many-as-there-are-names"),
        pytest.param({"class_names": None}, None, None, id="without-names"),
        pytest.param(
            {"class_names": None, "settings": {"targets": "auto"}}, None, 1, id="by-default"
        ),
        pytest.param({"class_names": (*records.CLASSES, "pig")}, None, None, id="one-is-left-out"),
        pytest.param({}, [2, 0, 1], 0, id="in-another-order"),
        pytest.param({}, [3, 0, 1], None, id="as-many-but-others"),
    ],
)
def test_a_record_without_predictions_is_concluded_from_only_if_all_classes_are_explained(
    tmp_path, told, targets, expected
):
    changed = {} if targets is None else {"targets": torch.tensor([targets] * records.IMAGES)}
    record = make_record(tmp_path, told=told, probabilities=P, **changed)
    assert record.moment(9).predicted == [expected] * records.IMAGES


def test_an_output_that_is_not_finite_predicts_nothing(tmp_path):
    p = P.clone()
    p[2] = torch.nan
    record = make_record(tmp_path, probabilities=p, predicted=torch.ones(6, dtype=torch.int64))
    assert record.moment(9).predicted == [1, 1, None, 1, 1, 1]


@pytest.mark.parametrize(
    "predicted",
    [torch.ones(5, dtype=torch.int64), torch.ones(6), torch.full((6,), -1)],
    ids=["too-few", "no-integers", "negative"],
)
def test_predictions_that_are_no_classes_are_refused(tmp_path, predicted):
    record = make_record(tmp_path, predicted=torch.ones(6, dtype=torch.int64))
    path = record.folder / LAST
    about, tensors = records.parts(path.read_bytes())
    records.write_tensors(path, about, tensors | {"predicted": predicted})
    index = record.index()
    assert [m["step"] for m in index["moments"]] == [0]
    assert index["unreadable"] == 1


def one_logit(tmp_path: Path, **told) -> Record:
    """A record of a model with one logit, with labels 0 and 1 in turn."""
    count = records.IMAGES
    p = torch.tensor([[0.1], [0.9], [0.6], [0.4], [0.1], [0.9]])
    whole = records.observation().snapshot
    return make_record(
        tmp_path,
        told={"labels": tuple((i % 2,) for i in range(count)), **told},
        targets=torch.zeros(count, 1, dtype=torch.int64),
        probabilities=p,
        predicted=torch.zeros(count, dtype=torch.int64),
        maps={rule: maps[:, :1] for rule, maps in whole.maps.items()},
        peaks={rule: peaks[:, :1] for rule, peaks in whole.peaks.items()},
    )


def test_a_single_logit_stands_for_class_1(tmp_path):
    moment = one_logit(tmp_path, class_names=("no", "yes"), one_logit=True).moment(9)
    assert moment.targets == [[1]] * 6
    assert moment.predicted == [0, 1, 1, 0, 0, 1]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param({"class_names": ("no", "yes")}, None, id="may-be-one-logit"),
        pytest.param({"class_names": None}, None, id="without-names"),
        pytest.param({"class_names": ("no", "yes"), "one_logit": False}, 0, id="two-logits"),
        pytest.param({"class_names": records.CLASSES}, 0, id="three-names"),
    ],
)
def test_where_it_is_not_known_if_there_is_one_logit_nothing_is_concluded(tmp_path, told, expected):
    moment = one_logit(tmp_path, **told).moment(9)
    assert moment.targets == [[0]] * 6
    assert moment.predicted == [expected] * 6


def test_the_still_picture_has_the_predicted_class_in_bold(tmp_path, monkeypatch):
    tiles: list[Tile] = []
    monkeypatch.setattr(still, "Tile", lambda *a, **k: tiles.append(Tile(*a, **k)) or tiles[-1])
    record = open_record(make_run(tmp_path, images=3, names=DIGITS, classes=10, shown=SHOWN))
    moment = record.moments()[0][-1]
    still.draw_still(record, moment)
    assert not any(tile.strong for tile in tiles)
    still.draw_still(record, replace(moment, predicted=[0, 8, 2]))
    assert [tile.name for tile in tiles if tile.strong] == ["eight"]


# In a browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of a run of each kind."""
    folder = tmp_path_factory.mktemp("logs")
    ten = {"images": 10, "classes": 10, "names": DIGITS}
    make_run(folder / "two", shown=SHOWN, **ten)
    make_run(folder / "one", shown=(8,), **ten)
    make_run(folder / "other", shown=(5, 7), **{**ten, "images": 4})
    make_run(folder / "changing", shown=3, **ten)
    make_run(folder / "unlabelled", shown=SHOWN, unlabelled=True, **ten)
    several = ((1, 2), (0,), (1,), (), (0, 2), (0, 1, 2))
    predicted = {"probabilities": P, "predicted": torch.ones(6, dtype=torch.int64)}
    records.record(folder / "several", told={"labels": several}, changed=predicted)
    # The file of an early version does not say what was predicted.
    for path in make_run(folder / "old", shown=SHOWN, **ten).glob("*/observation-*"):
        about, tensors = records.parts(path.read_bytes())
        del tensors["predicted"]
        records.write_tensors(path, about, tensors)
    page = folder / "report.html"
    page.write_text(build_report(open_records([folder])).html, encoding="utf-8")
    return page


@pytest.fixture
def report(browser, pages):
    """Opens the report with a state; by the end, nothing may have complained."""
    viewers = []

    def open_report(run, **state):
        viewers.append(Viewer(browser, offline=True))
        return viewers[-1].open_file(pages, run=f"{run}/saliency", **state)

    yield open_report
    for viewer in viewers:
        viewer.close()
    assert [complaint for viewer in viewers for complaint in viewer.complaints] == []


def test_a_right_image_has_its_name_and_a_wrong_one_the_class_that_it_is_taken_for(report):
    viewer = report("two")
    assert viewer.texts(".row .saying") == ["zero", "✗ two", *DIGITS[2:]]
    assert viewer.frame.locator(".saying.wrong").count() == 1
    # The one that is bold is what the model predicts, not the stronger of those explained.
    bold = viewer.frame.locator(".tile.predicted")
    assert bold.count() == 1
    assert "eight" in bold.get_attribute("aria-label")
    assert "the predicted class" in bold.get_attribute("aria-label")
    assert viewer.text(".hint") == "true class\npredicted"
    assert viewer.find_violations() == []


def test_only_what_is_wrong_is_among_the_wrong_ones(report):
    viewer = report("two", show="wrong")
    assert viewer.texts(".row .saying") == ["✗ two"]
    assert viewer.text(".hint") == "1 of 10 images"
    # What an image is taken for can be looked for, explained or not.
    viewer = report("two", find="two")
    assert viewer.texts(".row .saying") == ["✗ two", "two"]


def test_a_probability_is_shown_if_it_is_known(report):
    says = {image: report("two", view="image", image=image).text(".saying") for image in (0, 1, 8)}
    assert says[0] == "zero"
    assert says[1] == "✗ taken for two"
    name, chance = says[8].split(", ")
    assert name == "eight"
    assert 90 < int(chance.removesuffix("%")) <= 100
    chances = report("changing", view="image", image=1, at=0).texts(".tile .chance")
    assert len(chances) == 3


def test_over_time_images_without_a_map_of_the_class_take_no_place(report):
    viewer = report("two", view="time")
    assert viewer.texts(".film-row .film-lead .name") == ["one", "eight"]
    assert "not explained" not in viewer.frame.locator(".stage").inner_text()
    assert viewer.text(".hint") == "2 of 10 images with maps of this class"
    assert viewer.frame.locator("input[role=combobox]").input_value() == "the true class"
    viewer = report("two", view="time", cls=8)
    assert len(viewer.texts(".film-row")) == 10
    # Only explained classes can be chosen.
    viewer.frame.locator("input[role=combobox]").click()
    assert viewer.texts("[role=option]") == [
        *("the true class", "the predicted class", "one", "eight")
    ]
    nothing = report("two", view="time", cls=3).text(".nothing")
    assert nothing == "This class was not explained for any image."


def test_over_time_the_predicted_class_is_named(report):
    viewer = report("two", view="time", cls="strongest")
    rows = viewer.texts(".film-row .film-lead .name")
    assert "eight" in rows
    last = viewer.frame.locator(".film-row:visible").last.locator(".tile.now:visible")
    assert last.locator(".name").first.inner_text() in ("one", "eight")


@pytest.mark.parametrize("run", ["other", "unlabelled"])
def test_over_time_the_first_explained_class_is_shown_if_no_true_one_is(report, run):
    viewer = report(run, view="time")
    assert viewer.frame.locator("input[role=combobox]").input_value() == "the first explained class"
    names = viewer.frame.locator(".tile .name").all_inner_texts()
    assert set(filter(None, names)) == {"five" if run == "other" else "one"}
    assert "not explained" not in viewer.frame.locator(".stage").inner_text()


def test_a_single_explained_class_is_named(report):
    viewer = report("one")
    assert viewer.text(".hint") == "Maps of eight"
    assert viewer.texts(".row .saying")[:3] == ["zero", "✗ two", "two"]


def test_without_labels_an_image_is_called_what_it_is_taken_for(report):
    viewer = report("unlabelled")
    assert viewer.texts(".row .saying") == ["zero", "two", *DIGITS[2:]]
    assert viewer.text(".hint") == "predicted"
    viewer = report("unlabelled", show="wrong")
    assert "does not say" in viewer.text(".nothing")


def test_of_several_labels_the_strongest_is_not_called_the_predicted_one(report):
    viewer = report("several")
    says = ["dog, cow", "✗ dog", "dog", "dog", "✗ dog", "cat, dog, cow"]
    assert viewer.texts(".row .saying") == says
    assert viewer.text(".hint") == "true class\nstrongest"
    tile = viewer.frame.locator(".tile.predicted").first
    assert "the strongest label" in tile.get_attribute("aria-label")
    viewer.press("t").frame.locator("input[role=combobox]").click()
    assert "the strongest label" in viewer.texts("[role=option]")


def test_of_an_early_record_nothing_is_said_that_it_does_not_say(report):
    viewer = report("old")
    assert viewer.texts(".row .saying") == list(DIGITS)
    assert viewer.frame.locator(".saying.wrong, .tile.predicted").count() == 0
    assert viewer.text(".hint") == "true class"
    assert "does not say" in report("old", show="wrong").text(".nothing")
    assert report("old", view="image", image=0).text(".saying") == "zero"
    assert "%" in report("old", view="image", image=8).text(".saying")
    assert report("old", view="time", cls="strongest").text(".nothing").startswith("This class")


def test_the_curves_of_the_package_are_explained(report):
    viewer = report("two")
    lane = viewer.frame.locator(".lane", has_text="moved_mass").first
    assert "lies elsewhere than in good runs" in lane.get_attribute("title")
