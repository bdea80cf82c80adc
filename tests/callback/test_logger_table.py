"""The table of `docs/loggers.md`: what each logger has stored when training is over."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch
import numpy as np
import pytest
import pytorch_lightning
from logger_stores import LOGGERS, STORES, Kept, examples, offline, read_files
from older import takes_comets_own_options
from training import loader, make_module, one_image, quiet_trainer

from lightning_saliency import SaliencyCallback
from lightning_saliency.callback import loggers as ours
from lightning_saliency.draw.colours import Picture
from lightning_saliency.lightning import SaliencyCallback as NewCallback
from lightning_saliency.viewer.report import BUDGET

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

NAMESPACES = {"pytorch_lightning": pytorch_lightning, "lightning.pytorch": lightning.pytorch}
KINDS = {pytorch_lightning: SaliencyCallback, lightning.pytorch: NewCallback}
COLUMNS = (
    "picture",
    "step",
    "caption",
    "scalars",
    "film strip",
    "page",
    "several at once",
)
STRIP, PAGE = "saliency_filmstrip/", "saliency_viewer"


def table() -> dict[str, dict[str, str]]:
    """The cells in the document, by row and column."""
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in LOGGERS.read_text().splitlines()
        if line.startswith("| ")
    ]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[1:]}


@dataclass
class Logged:
    """A training that is over.

    Attributes:
        drawn: The pictures that were logged, by tag and step.
        scalars: The numbers that the callback has logged, with their steps, by tag.
        kept: What each logger has stored.
        files: The pictures that became files.
    """

    drawn: dict[tuple[str, int], Picture]
    scalars: dict[str, list[tuple[int, float]]]
    kept: dict[str, Kept]
    files: Kept


def train(namespace: Any, names: list[str], folder: Path) -> Logged:
    """Train with the loggers of these names, close them, and read back what they have stored."""
    logged = Logged({}, {}, {}, Kept())

    class Noting(ours.PictureLog):
        def add(self, tag: str, picture: Picture, step: int) -> None:
            logged.drawn[tag, step] = picture
            super().add(tag, picture, step)

        def add_scalars(self, scalars: Any, step: int) -> None:
            for tag, value in scalars.items():
                logged.scalars.setdefault(tag, []).append((step, value))
            super().add_scalars(scalars, step)

    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        stack.enter_context(offline(folder))
        patch.setattr("lightning_saliency.callback.build.PictureLog", Noting)
        made = {name: STORES[name].make(namespace, folder / name) for name in names}
        for name, logger in made.items():
            stack.callback(STORES[name].close, logger)
        trainer = quiet_trainer(
            folder,
            KINDS[namespace](one_image(), targets="label", tile_size=24, image_format="png"),
            namespace=namespace,
            logger=list(made.values()),
            max_epochs=2,
        )
        trainer.fit(make_module(namespace), loader(), loader(16))
    for name in names:
        logged.kept[name] = STORES[name].read(folder / name)
    logged.files = read_files(folder / "CSV")
    return logged


@pytest.fixture(scope="module", params=NAMESPACES)
def namespace(request: pytest.FixtureRequest) -> Any:
    return NAMESPACES[request.param]


@pytest.fixture(scope="module", params=STORES)
def alone(request: pytest.FixtureRequest, namespace: Any, tmp_path_factory: Any) -> Any:
    """The name of a logger, and a training with that logger only."""
    folder = tmp_path_factory.mktemp("alone")
    return request.param, train(namespace, [request.param], folder)


@pytest.fixture(scope="module")
def together(namespace: Any, tmp_path_factory: Any) -> Iterator[Logged]:
    """A training with all loggers at once."""
    return train(namespace, list(STORES), tmp_path_factory.mktemp("together"))


def cell(logged: Logged, name: str, column: str) -> str:
    """What the document has to say about a logger."""
    kept = logged.kept[name]
    if column == "scalars":
        return "yes" if holds_scalars(logged, kept) else "no"
    if column == "page":
        return "yes" if holds_page(kept) else "no"
    for store, word in ((kept, "yes"), (logged.files, "file")):
        if store.pictures and _holds(logged, store, column):
            return word
    return "no"


def _holds(logged: Logged, store: Kept, column: str) -> bool:
    pairs = [(tag, step, _find(store, tag)) for tag, step in logged.drawn]
    if column == "film strip":
        pairs = [(tag, step, found) for tag, step, found in pairs if tag.startswith(STRIP)]
    if column == "step":
        return all(step in found for _, step, found in pairs)
    if column == "caption":
        return all(found[step][1] == f"step {step}" for _, step, found in pairs)
    return all(
        len(found) == sum(tag == other for other, _ in logged.drawn)
        and np.array_equal(found[step][0], logged.drawn[tag, step])
        for tag, step, found in pairs
    )


def _find(store: Kept, tag: str) -> dict[int, tuple[Any, str | None]]:
    """The pictures of a tag by step; MLflow has the name in ASCII."""
    names = {tag, "/".join(ours.split_tag(tag, ascii_only=True))}
    return {step: value for (name, step), value in store.pictures.items() if name in names}


def holds_scalars(logged: Logged, kept: Kept) -> bool:
    return bool(logged.scalars) and all(
        [step for step, _ in kept.scalars[tag]] == [step for step, _ in points]
        and np.allclose([v for _, v in kept.scalars[tag]], [v for _, v in points], rtol=1e-6)
        for tag, points in logged.scalars.items()
    )


def holds_page(kept: Kept) -> bool:
    if not kept.pages:
        return False
    assert list(kept.pages) == [PAGE]
    html = kept.pages[PAGE]
    (index,) = re.findall(
        r'<script type="application/json" id="saliency-index">(.*?)</script>', html
    )
    (run,) = json.loads(index)
    return (
        html.startswith("<!doctype html>")
        and len(html.encode()) <= BUDGET
        and run["finished"]
        and [moment["step"] for moment in run["moments"]] == [0, 4, 9]
    )


def test_every_logger_has_a_row_and_every_column_a_test():
    assert list(table()) == list(STORES)
    for row in table().values():
        assert tuple(row) == COLUMNS
        assert set(row.values()) <= {"yes", "no", "file"}


@pytest.mark.parametrize("column", COLUMNS[:-1])
def test_a_cell_of_the_table(column, alone):
    name, logged = alone
    assert cell(logged, name, column) == table()[name][column]


@pytest.mark.parametrize("name", STORES)
def test_several_at_once(name, together):
    """Each logger stores what it stores alone; files are written only if no logger takes any."""
    assert together.files.pictures == {}
    found = {column: cell(together, name, column) for column in COLUMNS[:-1]}
    same = {column: "no" if word == "file" else word for column, word in table()[name].items()}
    assert found == {column: same[column] for column in COLUMNS[:-1]}
    assert table()[name]["several at once"] == ("no" if found["picture"] == "no" else "yes")


def test_what_is_drawn_is_what_the_table_speaks_of(alone):
    """Three mosaics of one image, at the steps of the observations, and its film strip."""
    _, logged = alone
    assert [step for tag, step in logged.drawn if tag.startswith("saliency/")] == [0, 4, 9]
    assert [step for tag, step in logged.drawn if tag.startswith(STRIP)] == [9]
    # What is measured is how much the maps have changed, so that the first one has no numbers.
    assert {step for points in logged.scalars.values() for step, _ in points} == {4, 9}


@pytest.mark.parametrize("code", examples(), ids=lambda code: code.split("logger = ")[1][:12])
def test_the_code_of_the_document_makes_a_logger(code, tmp_path, monkeypatch):
    if "Comet" in code and not takes_comets_own_options():
        pytest.skip("this version of Lightning has other options")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with offline(tmp_path):
        exec(code, names)
    assert isinstance(names["logger"], lightning.pytorch.loggers.Logger)
    if "Comet" in code:
        assert len(list((tmp_path / "logs").glob("*.zip"))) == 1
