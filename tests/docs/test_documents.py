"""The documents are right: their examples run, their links and tables match the repository."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from documents import CONTRIBUTING, DOCUMENTS, README, blocks, label
from paths import DOCS, REPOSITORY
from PIL import Image
from torch import nn
from torchvision import transforms

from lightning_saliency import SaliencyCallback
from lightning_saliency.attribution.graph import Graph

PACKAGE = REPOSITORY / "lightning_saliency"
RULES, FLASHTORCH = DOCS / "rules.md", DOCS / "flashtorch.md"
CAPTUM, HONEST = DOCS / "guides/captum.md", DOCS / "guides/honest.md"
PARAMETERS, COMPARISON = DOCS / "reference/parameters.md", DOCS / "comparison.md"


def links(path: Path) -> Iterator[str]:
    """The files of the repository that a document links to or shows."""
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#\s]+)", text) + re.findall(r'src="([^"]+)"', text):
        if "://" not in target:
            yield target


def anchors(path: Path) -> set[str]:
    """The names that links to the sections of a document have."""
    titles = re.findall(r"^#+ (.*)", path.read_text(), flags=re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=label)
def test_what_the_documents_link_to_exists(path: Path):
    for target in links(path):
        assert (path.parent / target).exists(), target
    for file, anchor in re.findall(r"\]\(([^):\s]*)#([^)\s]+)\)", path.read_text()):
        assert anchor in anchors(path.parent / file if file else path), anchor


def test_the_readme_counts_what_the_pages_list():
    """Kinds of run are the first table of their page, and kinds of data all tables of theirs."""
    text, docs = README.read_text(), REPOSITORY / "docs"
    (kinds,) = re.findall(r"\[(\d+) kinds of run", text)
    section = (docs / "neutrality.md").read_text().split("## Kinds of run")[1].split("\n## ")[0]
    assert int(kinds) == section.count(" | same | ")
    (kinds,) = re.findall(r"\[(\d+) kinds of data", text)
    lines = re.findall(r"^\|.*", (docs / "situations.md").read_text(), flags=re.M)
    tables = sum(set(line) <= set("|- ") for line in lines)
    assert int(kinds) == len(lines) - 2 * tables


# --- CONTRIBUTING and pyproject.toml


def test_each_room_is_in_the_table_of_contributing():
    text = CONTRIBUTING.read_text()
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders == set(re.findall(r"^\| `([a-z]+)/`", text, flags=re.M))


def test_each_public_door_is_in_contributing():
    text = CONTRIBUTING.read_text()
    doors = {path.name for path in PACKAGE.glob("*.py") if not path.name.startswith("__")}
    for name in doors - {"errors.py"}:
        assert f"`{name}`" in text, name


def test_what_contributing_says_of_a_change_is_in_the_code():
    """Each row of "to add …" names a file, and what stands in it."""
    text = CONTRIBUTING.read_text()
    (table,) = re.findall(r"^\| to add .*?\n\n", text, flags=re.M | re.S)
    rows = [line.strip("| ").split(" | ") for line in table.strip().splitlines()[2:]]
    assert len(rows) >= 9
    for what, where in rows:
        for file, names in re.findall(r"`([\w/]+\.py)`(?: \((`[^)]+`)\))?", where):
            code = (PACKAGE / file).read_text()
            for name in re.findall(r"`(\w+)`", names):
                assert re.search(rf"\b{name}\b", code), f"{what}: no {name} in {file}"


def test_each_dependency_is_imported():
    project = (REPOSITORY / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^dependencies = \[(.*?)^\]", project, flags=re.M | re.S)
    names = {name.replace("-", "_") for name in re.findall(r'"([a-z-]+)', listed)}
    sources = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    imported = set(re.findall(r"^\s*(?:from|import) (\w+)", sources, flags=re.M))
    assert names - {"pillow"} | {"PIL"} <= imported


def test_what_is_packed_exists():
    """Hatchling leaves out what does not exist without a word."""
    project = (REPOSITORY / "pyproject.toml").read_text()
    (listed,) = re.findall(r"^include = \[(.*?)^\]", project, flags=re.M | re.S)
    names = re.findall(r'"([^"]+)"', listed)
    assert {"lightning_saliency", "tests", "docs", "README.md"} <= set(names)
    for name in names:
        assert (REPOSITORY / name).exists(), name


# --- docs/rules.md


def test_spellings_that_no_graph_can_tell():
    """As `docs/rules.md` says: each computes a ReLU or a SiLU, and none is recognised."""
    (spellings,) = (b for b in blocks(RULES, "python") if "torch.maximum" in b.code)
    for line in spellings.code.splitlines():
        x = torch.tensor([-2.0, 0.5, 3.0], requires_grad=True)
        y = eval(line, {"torch": torch, "x": x})
        torch.testing.assert_close(y, F.silu(x) if "sigmoid" in line else F.relu(x))
        assert Graph(y, x).coverage.followed == 0, line


# --- what the pages say of the callback


def test_the_table_of_parameters_is_that_of_the_callback():
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", PARAMETERS.read_text(), flags=re.M)
    parameters = list(inspect.signature(SaliencyCallback).parameters.values())
    assert [name for name, _ in rows] == [parameter.name for parameter in parameters]
    for (name, default), parameter in zip(rows, parameters, strict=True):
        assert eval(default) == parameter.default, name


def test_honest_reading_names_the_argument_that_the_readme_shows():
    argument = 'rule=("guided_backprop", "gradient")'
    assert HONEST.read_text().count(f"`{argument}`") == 1
    assert any(argument in block.code for block in blocks(README, "python"))


# --- compared with other packages


@pytest.mark.parametrize(
    "package", ["Captum", "pytorch-grad-cam", "FlashTorch", "tf-explain", "FoXAI"]
)
def test_how_it_differs_has_tests_under_the_name_of_each_package(package: str):
    assert f"| [{package}]" in COMPARISON.read_text()
    tests = (REPOSITORY / "tests/attribution/test_neighbours.py").read_text()
    prefix = f"def test_{package.lower().replace('-', '_')}"
    assert tests.count(prefix) >= 3


# --- coming from FlashTorch


def rows(page: Path = FLASHTORCH) -> list[tuple[str, str]]:
    """The rows of its table: what the other package has, and what to write here."""
    lines = [line.strip("| \n").split(" | ") for line in page.read_text().splitlines()]
    return [(line[0], line[1]) for line in lines if len(line) == 2][1:]


class Ten(nn.Module):
    """A small network with a thousand logits, as for ImageNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 10, 7, stride=4), nn.Linear(10, 1000)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv(images).relu().mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the rows of the table in order; return every name that they define."""
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (240, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    names: dict[str, Any] = {"path": path, "model": Ten(), "device": device}
    exec(blocks(FLASHTORCH, "python")[0].code, names)
    for theirs, ours in rows():
        if ours == "not here":
            assert "GradientAscent" in theirs
        else:
            exec(ours.strip("`"), names)
    return names


def test_the_table_has_a_row_for_each_call_of_flashtorch():
    listed = " ".join(theirs for theirs, _ in rows())
    calls = ("load_image", "apply_transforms", "denormalize", "ImageNetIndex", "Backprop(model)")
    calls += ("guided=True", "take_max=True", "use_gpu=True", "visualize", "standardize_and_clip")
    for call in (*calls, "format_for_plotting", "GradientAscent"):
        assert call in listed


def test_photos_are_prepared_as_by_flashtorch(after: dict[str, Any]):
    expected = transforms.Compose(
        [
            *(transforms.Resize(224), transforms.CenterCrop(224), transforms.ToTensor()),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )(Image.open(after["path"]).convert("RGB"))
    torch.testing.assert_close(after["images"][0], expected)
    torch.testing.assert_close(after["probe"].images, after["images"])
    pixels = transforms.functional.to_tensor(
        transforms.functional.center_crop(transforms.functional.resize(after["photo"], 224), 224)
    )
    torch.testing.assert_close(after["shown"][0], pixels)


def test_gradients_have_the_shapes_of_flashtorch(after: dict[str, Any]):
    assert after["target"] == 24
    assert after["gradient"].shape == after["guided"].shape == (3, 224, 224)
    assert after["largest"].shape == (1, 224, 224)
    torch.testing.assert_close(after["largest"], after["guided"].amax(dim=0, keepdim=True))
    assert after["pixels"].shape == (224, 224, 3)
    assert len(after["figure"].axes) == 4


def test_the_plain_gradient_is_autograd_s(after: dict[str, Any]):
    leaf = after["images"].clone().requires_grad_()
    (expected,) = torch.autograd.grad(after["model"].cpu()(leaf)[0, 24], leaf)
    torch.testing.assert_close(after["gradient"].cpu(), expected[0])


def test_clipping_is_that_of_flashtorch_but_for_the_mean(after: dict[str, Any]):
    gradient = after["gradient"]
    theirs = (0.1 * (gradient - gradient.mean()) / gradient.std() + 0.5).clamp(0, 1)
    torch.testing.assert_close(after["clipped"], theirs, rtol=0, atol=0.05)


# --- coming from Captum


@pytest.mark.parametrize("row", rows(CAPTUM), ids=lambda row: row[0].strip("`").split("(")[0])
def test_each_call_of_captum_gives_what_the_page_says(row: tuple[str, str]):
    pytest.importorskip("captum")
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 16), nn.ReLU())
    names: dict[str, Any] = {
        "model": nn.Sequential(*layers, nn.Linear(16, 3)).double().eval(),
        "images": torch.randn(5, 1, 8, 8, dtype=torch.float64),
        "labels": torch.tensor([0, 1, 2, 1, 0]),
    }
    exec(blocks(CAPTUM, "python")[0].code, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Captum sets hooks and `requires_grad`, and says so.
        theirs, ours = (eval(side.strip("`"), names) for side in row)
    assert theirs.abs().sum() > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
