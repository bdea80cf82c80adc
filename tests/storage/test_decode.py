"""Dataclasses built from JSON: each kind of hint by hand, and every wrong value named."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Optional

import pytest
import torch

from lightning_saliency.storage.decode import (
    MISFITS,
    AtLeast,
    check_parts,
    check_schema,
    check_shapes,
    check_wholes,
    decode,
)


@dataclass(frozen=True)
class Point:
    x: int
    y: int = 7


@dataclass(frozen=True)
class Chain:
    link: Chain | None = None


@dataclass(frozen=True)
class Everything:
    """One field for each kind of hint that is understood."""

    text: str = ""
    flag: bool = False
    count: int = 0
    epoch: Annotated[int, AtLeast(-1)] = 0
    number: float = 0.0
    maybe: int | None = None
    maybe_old: Optional[str] = None  # noqa: UP045
    names: tuple[str, ...] = ()
    rows: tuple[tuple[int, ...], ...] | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    point: Point = Point(0)
    points: tuple[Point, ...] = ()
    by_name: Mapping[str, Point] = field(default_factory=dict)
    anything: Any = None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("text", "crème\n", "crème\n"),
        ("text", "", ""),
        ("flag", True, True),
        ("count", 0, 0),
        ("count", 2**53 - 1, 2**53 - 1),
        ("epoch", -1, -1),
        ("number", 0.5, 0.5),
        ("number", -3, -3.0),
        ("number", 1e308, 1e308),
        ("number", -(2**53), -(2.0**53)),
        ("maybe", None, None),
        ("maybe", 3, 3),
        ("maybe_old", None, None),
        ("maybe_old", "a", "a"),
        ("names", ["a", "b"], ("a", "b")),
        ("names", [], ()),
        ("rows", [[0, 1], []], ((0, 1), ())),
        ("rows", None, None),
        ("numbers", {"a": 1, "": 0.5}, {"a": 1.0, "": 0.5}),
        ("point", {"x": 1, "y": 2}, Point(1, 2)),
        ("point", {"x": 1}, Point(1, 7)),
        ("points", [{"x": 1}, {"x": 2, "z": 3}], (Point(1), Point(2))),
        ("by_name", {"a": {"x": 1}}, {"a": Point(1)}),
        ("anything", {"a": [1, None, {"b": -0.5}]}, {"a": [1, None, {"b": -0.5}]}),
        ("anything", None, None),
    ],
)
def test_each_kind_of_hint(name: str, value: Any, expected: Any):
    found = getattr(decode(Everything, json.loads(json.dumps({name: value}))), name)
    assert found == expected
    assert type(found) is type(expected)


def test_fields_with_a_default_may_be_missing():
    assert decode(Everything, {}) == Everything()
    assert decode(Point, {"x": 3}) == Point(3, 7)


def test_a_field_without_a_default_may_not_be_missing():
    with pytest.raises(ValueError, match=r"^`x` is missing$"):
        decode(Point, {"y": 3})
    with pytest.raises(ValueError, match=r"^`x` is missing$"):
        decode(Everything, {"points": [{"x": 1}, {}]})


def test_unknown_keys_are_ignored():
    assert decode(Point, {"x": 1, "z": "of a later version", "": None}) == Point(1)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("text", 3, TypeError, "`text` must be a str, got 3"),
        ("text", None, TypeError, "`text` must be a str, got None"),
        ("flag", 1, TypeError, "`flag` must be a bool, got 1"),
        ("flag", "true", TypeError, "`flag` must be a bool, got 'true'"),
        ("count", -1, ValueError, "`count` must be an integer of at least 0, got -1"),
        ("count", True, ValueError, "`count` must be an integer of at least 0, got True"),
        ("count", 1.0, ValueError, "`count` must be an integer of at least 0, got 1.0"),
        ("count", 2**53, ValueError, f"`count` must be an integer of at least 0, got {2**53}"),
        ("count", "3", ValueError, "`count` must be an integer of at least 0, got '3'"),
        ("count", None, ValueError, "`count` must be an integer of at least 0, got None"),
        ("epoch", -2, ValueError, "`epoch` must be an integer of at least -1, got -2"),
        ("epoch", False, ValueError, "`epoch` must be an integer of at least -1, got False"),
        ("number", float("nan"), ValueError, "`number` must be a finite number, got nan"),
        ("number", float("inf"), ValueError, "`number` must be a finite number, got inf"),
        ("number", float("-inf"), ValueError, "`number` must be a finite number, got -inf"),
        ("number", True, ValueError, "`number` must be a finite number, got True"),
        ("number", 2**53 + 1, ValueError, f"`number` must be a finite number, got {2**53 + 1}"),
        ("number", 10**400, ValueError, f"`number` must be a finite number, got 1{'0' * 38}…"),
        ("number", "1", ValueError, "`number` must be a finite number, got '1'"),
        ("maybe", -1, ValueError, "`maybe` must be an integer of at least 0, got -1"),
        ("maybe_old", 3, TypeError, "`maybe_old` must be a str, got 3"),
        ("names", "ab", TypeError, "`names` must be a list, got 'ab'"),
        ("names", {"a": 1}, TypeError, "`names` must be a list, got {'a': 1}"),
        ("names", ["a", None], TypeError, "`names` must be a str, got None"),
        ("rows", [0], TypeError, "`rows` must be a list, got 0"),
        ("rows", [[0], [-1]], ValueError, "`rows` must be an integer of at least 0, got -1"),
        ("numbers", [], TypeError, "`numbers` must be a dict, got []"),
        ("numbers", {"a.b": "x"}, ValueError, "`numbers.a.b` must be a finite number, got 'x'"),
        ("point", None, TypeError, "`point` must be a dict, got None"),
        ("point", [1, 2], TypeError, "`point` must be a dict, got [1, 2]"),
        ("points", [{"x": -1}], ValueError, "`x` must be an integer of at least 0, got -1"),
        ("by_name", {"a": 1}, TypeError, "`by_name.a` must be a dict, got 1"),
    ],
)
def test_a_wrong_value_is_refused_and_named(
    name: str, value: Any, error: type[Exception], message: str
):
    with pytest.raises(error) as raised:
        decode(Everything, {name: value})
    assert str(raised.value) == message


def test_a_long_value_is_shortened():
    with pytest.raises(TypeError) as raised:
        decode(Everything, {"flag": "x" * 10_000})
    assert str(raised.value) == f"`flag` must be a bool, got '{'x' * 38}…"


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_anything_but_an_object_is_refused(data: Any):
    with pytest.raises(TypeError, match=r"^`it` must be a dict, got "):
        decode(Point, data)


def test_nesting_that_is_too_deep_is_one_of_the_misfits():
    assert decode(Chain, {"link": {"link": None}}) == Chain(Chain(None))
    data: dict[str, Any] = {}
    for _ in range(100_000):
        data = {"link": data}
    with pytest.raises(RecursionError):
        decode(Chain, data)
    assert RecursionError in MISFITS


def test_a_decoded_value_is_checked_by_its_own_class():
    @dataclass
    class Even:
        count: int

        def __post_init__(self) -> None:
            if self.count % 2:
                raise ValueError("it is odd")

    # Hints of a class within a function are found because they name only builtins.
    assert decode(Even, {"count": 2}).count == 2
    with pytest.raises(ValueError, match=r"^it is odd$"):
        decode(Even, {"count": 3})


# --- tensors


@pytest.mark.parametrize("schema", [0, 2, "1", None, [1]])
def test_other_schemas_are_refused(schema: Any):
    assert check_schema({"schema": 1}) == 1
    with pytest.raises(ValueError, match=r"^it has schema .*, and this version reads 1; install"):
        check_schema({"schema": schema})
    with pytest.raises(ValueError, match=r"^it has schema None"):
        check_schema({})


def test_older_schemas_of_a_file_are_read():
    assert [check_schema({"schema": schema}, 2) for schema in (1, 2)] == [1, 2]
    with pytest.raises(
        ValueError, match="it has schema 3, and this version reads 1 and 2; install"
    ):
        check_schema({"schema": 3}, 2)


def test_shapes():
    expected = {"a": (torch.int64, ("N", 3)), "b": (torch.float32, ("N", "K"))}
    good = {"a": torch.zeros(2, 3).long(), "b": torch.zeros(2, 5)}
    check_shapes(good, expected)
    check_shapes(good | {"c": torch.zeros(1)}, expected)
    with pytest.raises(KeyError, match="b"):
        check_shapes({"a": good["a"]}, expected)
    for name, tensor, message in (
        ("a", torch.zeros(2, 3), r"`a` is torch.float32 \(2, 3\), not torch.int64 with 2 dim"),
        ("a", torch.zeros(2).long(), r"`a` is torch.int64 \(2,\), not torch.int64 with 2 dim"),
        ("a", torch.zeros(2, 4).long(), r"`a` has the shape \(2, 4\), which does not fit"),
        ("b", torch.zeros(3, 5), r"`b` has the shape \(3, 5\), which does not fit"),
        ("b", torch.zeros(2, 0), r"`b` has the shape \(2, 0\), which does not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            check_shapes(good | {name: tensor}, expected)


def test_parts():
    check_parts({"a": torch.tensor([0, 0.5, 1, torch.nan])}, ["a"])
    for value in (-0.1, 1.1, torch.inf, -torch.inf):
        with pytest.raises(ValueError, match=r"^`a` has values outside of 0 to 1$"):
            check_parts({"a": torch.tensor([0.5, value])}, ["a"])


def test_wholes():
    whole = torch.full((2, 2, 2), 0.25)
    unmeasured = torch.full((2, 2), torch.nan)
    check_wholes({"a": whole}, "a")
    check_wholes({"a": torch.stack([whole[0], unmeasured])}, "a")
    partly = whole.clone()
    partly[1, 0, 0] = torch.nan
    for wrong in (whole * 2, whole * 0, partly):
        with pytest.raises(ValueError, match=r"^`a` has a profile whose sum is not 1$"):
            check_wholes({"a": wrong}, "a")
