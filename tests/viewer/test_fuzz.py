"""Damaged files: a page shows what is left, and never fails in any other way."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from urllib.parse import quote

import pytest
from damage import damaged
from hypothesis import HealthCheck, given, settings
from records import record
from tab import Tab

from lightning_saliency.errors import RecordError
from lightning_saliency.viewer.report import build_report, open_records

VERDICT = {
    **{"outcome": "fail", "good_runs": 5, "metrics": {"acc": 0.5}, "why": "", "warnings": ["x"]},
    "findings": [{"measure": "moved_mass", "mark": "fail", "value": 0.5, "low": None, "high": 0.2}],
    "growth": {"region": "mark", "row": 0, "column": 0, "before": 0.02, "now": 0.6},
    "images": [{"name": "image 3", "index": 3, "moved": 0.7, "bound": None}],
}
FILES = ("run.json", "observation-0000000009.safetensors", "photos.safetensors", "verdict.json")
RUN = quote("run/saliency", safe="")
ROUTES = (
    *(
        "runs",
        f"run?id={RUN}",
        f"photos?id={RUN}",
        f"maps?id={RUN}&step=0",
        f"maps?id={RUN}&step=9",
    ),
    f"maps?id={RUN}&step=9&images=1,5&k=2",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that has a verdict."""
    folder = record(tmp_path / "logs/run") / "saliency"
    (folder / "verdict.json").write_text(json.dumps(VERDICT))
    return folder


def many(count: int):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def refuse(word: str) -> None:
    raise AssertionError(f"{word} is no number to a browser")


def ask(tab: Tab, folder: Path) -> list[int]:
    """The statuses of all routes; each is an answer, or one line that names no path."""
    statuses = []
    for route in ROUTES:
        answer = tab.get(route)
        statuses.append(answer.status_code)
        assert answer.status_code in (200, 404), answer.text
        if answer.content_type == "application/json":
            json.loads(answer.data, parse_constant=refuse)
        elif answer.status_code != 200:
            assert answer.text.count("\n") == 0
            assert str(folder.parent) not in answer.text
    return statuses


@pytest.mark.parametrize("name", FILES)
def test_every_route_answers_whatever_is_damaged(name, folder, caplog):
    caplog.set_level(logging.ERROR)
    path = folder / name
    good = path.read_bytes()
    others = [(folder / other).read_bytes() for other in FILES]
    tab = Tab(folder.parents[1])
    assert ask(tab, folder) == [200] * len(ROUTES)
    outcomes = set()

    @many(120)
    @given(damaged(good, others))
    def once(data: bytes) -> None:
        path.write_bytes(data)
        outcomes.add(tuple(ask(tab, folder)))

    once()
    if name == "verdict.json":
        assert outcomes == {(200,) * len(ROUTES)}
    else:
        assert len(outcomes) > 1


def refusal(folder: Path) -> str | None:
    """Why there is no page of a run; ``None`` if there is one."""
    try:
        build_report(open_records([folder])).html.encode()
    except RecordError as error:
        return str(error)
    return None


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize("name", FILES)
def test_a_page_is_built_or_refused_in_one_line(name, folder):
    path = folder / name
    good = path.read_bytes()

    @many(12)
    @given(damaged(good, [b"", b"{}"]))
    def once(data: bytes) -> None:
        path.write_bytes(data)
        message = refusal(folder)
        assert message is None or "\n" not in message

    once()


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize("depth", [100, 300, 400, 450, 480, 900, 100_000])
def test_settings_that_are_nested_deeply(folder, depth):
    path = folder / "run.json"
    text = json.dumps({**json.loads(path.read_text()), "settings": {"x": 0}})
    path.write_text(text.replace('"x": 0', f'"x": {"[" * depth}{"]" * depth}'))
    tab = Tab(folder.parents[1])
    assert set(ask(tab, folder)) <= {200, 404}
    message = refusal(folder)
    assert message is None or "run.json is damaged" in message
    assert (message is None) == (ask(tab, folder)[1] == 200)
