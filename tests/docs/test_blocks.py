"""Every block of code in the documents runs: Python, commands, and files for LightningCLI.

Python runs page by page, from top to bottom, as a reader would paste it. Each block of commands
runs in a fresh folder. What is not run here is in a table with the reason.
"""

from __future__ import annotations

import doctest
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import newcomer
import pytest
import torch
import torchvision
import yaml
from documents import DOCUMENTS, PAGES, README, Block, blocks, label
from older import takes_comets_own_options
from paths import DOCS, REPOSITORY
from pytorch_lightning.cli import LightningCLI
from torchvision.models import resnet18

from lightning_saliency.attribution import activations
from lightning_saliency.cli import main

# Kinds of blocks that hold no code: drawings, formulas, output.
TEXT = {"text"}
KINDS = {"python", "shell", "console", "yaml"} | TEXT

# Commands that are looked at but not run, and why.
NOT_RUN = {
    "git": "it needs the address of a repository",
    "cd": "it goes into the clone",
    "pip": "it installs packages into this environment",
    "make": "it makes an environment; the targets are looked up in the Makefile",
    "tensorboard": "it serves until it is stopped; test_first_run.py starts it",
}
# Scripts of the repository, which other tests run, or which take minutes.
SCRIPTS = {
    "examples/digits_cli.py": "tests/callback/test_lightning_cli.py",
    "docs/make_viewer_picture.py": "it trains four networks and needs TensorBoard and a browser",
    "docs/make_pictures.py": "it needs the logs of `make demo`",
    "docs/make_honest_picture.py": "tests/docs/test_examples.py",
    "docs/make_methods_picture.py": "tests/docs/test_examples.py",
    "docs/make_attention_picture.py": "it trains four networks",
    "benchmarks/growth.py": "tests/runs/test_bench.py",
}
# Verdicts: a run passes, or looks elsewhere.
VERDICTS = {"check": {0, 1}}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Iterator[Path]:
    """The folder that the pages assume, trained once."""
    folder = tmp_path_factory.mktemp("workshop")
    before = set(sys.modules), torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(torchvision.models, "resnet50", lambda weights: resnet18())  # no download
        patch.setattr(mpl, "use", lambda *_: None)
        newcomer.lay_out(folder)
        yield folder
    torch.set_rng_state(before[1])
    sys.modules.pop("train", None)


@pytest.fixture
def folder(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workshop, which is the current folder."""
    copy = tmp_path / "copy"
    shutil.copytree(workshop, copy)
    monkeypatch.chdir(copy)
    return copy


Walk = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def walk(workshop: Path, tmp_path_factory: pytest.TempPathFactory) -> Walk:
    """Run the Python of a page once, and return the names that it leaves, and its folder."""

    @cache
    def run(page: Path) -> dict[str, Any]:
        folder = tmp_path_factory.mktemp("page") / "copy"
        shutil.copytree(workshop, folder)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(folder)
            names = newcomer.names() | {"folder": folder}
            for block in blocks(page, "python"):
                if ">>>" not in block.code:
                    exec(compile(block.code, label(page), "exec", dont_inherit=True), names)
        return names

    return run


def having(kind: str) -> list[Path]:
    return [page for page in DOCUMENTS if blocks(page, kind)]


@pytest.mark.parametrize("page", DOCUMENTS, ids=label)
def test_each_block_says_what_it_is(page: Path):
    assert {block.kind for block in blocks(page)} <= KINDS
    fences = re.findall(r"^```", page.read_text(), flags=re.M)
    assert len(fences) == 2 * len(blocks(page))  # None is indented or left open.


@pytest.mark.parametrize("page", PAGES, ids=label)
def test_examples_in_the_documents_run(page: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(activations, "_declared", {})
    examples = "\n".join(b.code for b in blocks(page, "python") if ">>>" in b.code)
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(test)
    assert runner.summarize(verbose=False).failed == 0


# `docs/rules.md` has expressions that a test of their own compares with what they compute.
@pytest.mark.parametrize(
    "page", [page for page in having("python") if page.name != "rules.md"], ids=label
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: Path, walk: Walk):
    if page.name == "loggers.md" and not takes_comets_own_options():
        pytest.skip("this version of Lightning has other options for Comet")
    walk(page)


def test_the_callback_of_the_readme_shows_both_rules(walk: Walk):
    assert walk(README)["callback"].options.rules == ("guided_backprop", "gradient")


def test_the_readme_is_right_about_what_explain_returns(walk: Walk):
    explanation = walk(README)["explanation"]
    assert explanation["guided_backprop"].shape == (6, 1, 1, 16, 16)
    assert str(explanation.coverage) == "guided: 1 Relu"


def test_the_photos_are_explained(walk: Walk):
    names = walk(DOCS / "guides/photos.md")
    assert names["targets"].tolist() == [285, 967]
    assert (names["folder"] / "maps.pdf").stat().st_size > 10_000
    assert len(names["figure"].axes) == 8


# --- commands


def commands(block: Block) -> list[str]:
    """The commands of a block, without their output, comments and broken lines."""
    text = block.code.replace("\\\n", " ")
    if block.kind == "console":
        text = "\n".join(re.findall(r"^\$ (.*)", text, flags=re.M))
    return [line for line in text.splitlines() if shlex.split(line, comments=True)]


def carry_out(command: str) -> None:
    """Run a command of a page in this process, or see that what it names is there."""
    program, *rest = shlex.split(command, comments=True)
    if program == "lightning-saliency":
        assert main(rest) in VERDICTS.get(rest[0], {0}), command
    elif program == "python" and Path(rest[0]).exists():
        runpy.run_path(rest[0], run_name="__main__")
    elif program == "python":
        assert rest[0] in SCRIPTS, f"{command}: say in SCRIPTS who runs it"
        assert all((REPOSITORY / file).is_file() for file in rest if "/" in file), command
    else:
        assert program in NOT_RUN, f"{command}: say in NOT_RUN why it is not run"
        look_at(program, rest)


def look_at(program: str, rest: list[str]) -> None:
    """See that what a command names exists, though it is not run."""
    if program == "make":
        lines = re.findall(r"^([\w -]+):", (REPOSITORY / "Makefile").read_text(), flags=re.M)
        targets = {target for line in lines for target in line.split()}
        assert {word for word in rest if "=" not in word} <= targets, rest
    if program == "pip":
        project = (REPOSITORY / "pyproject.toml").read_text()
        for extra in re.findall(r"^\.\[([\w,-]+)\]", rest[-1]):
            assert all(re.search(rf"^{e} = \[", project, flags=re.M) for e in extra.split(",")), (
                rest
            )
    if program == "tensorboard":
        assert Path(rest[rest.index("--logdir") + 1]).is_dir(), rest


def cases(kind: str) -> list[Any]:
    """Each block of a kind, named by its page and number."""
    return [
        pytest.param(block, id=f"{label(page)}-{number}")
        for page in having(kind)
        for number, block in enumerate(blocks(page, kind))
    ]


@pytest.mark.parametrize("block", cases("shell"))
def test_the_commands_run(block: Block, folder: Path):
    if "lightning-saliency reference" in block.code:
        shutil.rmtree(folder / "attention")  # It is what the block makes.
    for command in commands(block):
        carry_out(command)


@pytest.mark.parametrize("block", cases("console"))
def test_commands_with_their_output_are_understood(
    block: Block, folder: Path, capsys: pytest.CaptureFixture[str]
):
    """They are of `examples/shortcut.py`, whose runs take a minute and a half."""
    for command in commands(block):
        assert main(shlex.split(command)[1:]) == 3  # A wrong option would be 2.
        assert "NO REFERENCE" in capsys.readouterr().out


MENTIONED = [
    (page, command)
    for page in [README, *PAGES]
    if page.name != "errors.md"  # Its commands are in messages, and tests match those.
    for command in re.findall(r"`(lightning-saliency \w+ [^`]+)`", page.read_text())
]


@pytest.mark.parametrize(("page", "command"), MENTIONED, ids=lambda value: Path(value).name)
def test_commands_in_the_text_run(page: Path, command: str, folder: Path):
    carry_out(command)


def test_the_reasons_name_tests_that_exist():
    for reason in SCRIPTS.values():
        for file in re.findall(r"tests/\S+\.py", reason):
            assert (REPOSITORY / file).is_file(), file


# --- YAML


@pytest.mark.parametrize("block", cases("yaml"))
def test_the_files_run(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Steps of a build are run one by one; anything else is a file for LightningCLI."""
    found = yaml.safe_load(block.code)
    if isinstance(found, list):
        for step in found:
            carry_out(step["run"])
        return
    Path("config.yaml").write_text(block.code)
    script = sys.modules["train"]
    monkeypatch.setattr(sys, "argv", ["train.py"])
    arguments = ["fit", "--config", "config.yaml", "--trainer.enable_progress_bar=false"]
    cli = LightningCLI(script.Net, script.PetData, args=arguments)
    (callback,) = (c for c in cli.trainer.callbacks if type(c).__name__ == "SaliencyCallback")
    assert callback.probe is not None
    assert list(Path("lightning_logs").glob("version_*/saliency/run.json"))
