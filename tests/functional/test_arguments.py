"""Argument checks, and the messages of their errors."""

from __future__ import annotations

import re

import pytest
import torch

from lightning_saliency.functional.arguments import (
    check_choice,
    check_images,
    check_integer,
    is_integer,
)


@pytest.mark.parametrize(
    ("value", "expected"), [(3, True), (-1, True), (True, False), (3.0, False), ("3", False)]
)
def test_is_integer(value, expected):
    assert is_integer(value) is expected


@pytest.mark.parametrize("value", [0, -3, True, 2.0, None])
def test_an_integer_that_is_too_small_or_no_integer_is_refused(value):
    message = re.escape(f"`count` must be an integer of at least 1, got {value!r}.")
    with pytest.raises(ValueError, match=message):
        check_integer("count", value, 1)


def test_the_smallest_valid_integer_is_accepted():
    check_integer("count", 1, 1)


def test_a_choice_is_accepted_or_refused():
    check_choice("reduce", "max", ("max", "sum"))
    with pytest.raises(ValueError, match="`reduce` must be one of max, sum, got 'mean'"):
        check_choice("reduce", "mean", ("max", "sum"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_images_are_accepted(dtype):
    check_images(torch.zeros(2, 3, 4, 5, dtype=dtype))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        pytest.param([[0.0]], TypeError, r"must be a tensor, got list\. Convert", id="list"),
        pytest.param(
            torch.zeros(3, 4, 4),
            ValueError,
            r"must have shape \(N, C, H, W\) or .*, got \(3, 4, 4\)\. Add a batch axis",
            id="no-batch-axis",
        ),
        pytest.param(
            torch.zeros(0, 3, 4, 4),
            ValueError,
            r"must not be empty, got shape \(0, 3, 4, 4\)\. Pass at least one image",
            id="empty",
        ),
        pytest.param(
            torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
            TypeError,
            r"must be floating point, .* got torch\.uint8\. If `forward` divides",
            id="bytes",
        ),
    ],
)
def test_images_of_another_kind_are_refused(images, error, message):
    with pytest.raises(error, match=f"`images` {message}"):
        check_images(images)
