"""How the package is built: layers that import upward only, public names, short functions."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imports
import pytest
from imports import LAYERS, MODULES

import lightning_saliency

LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
DOORS = {"lightning", "pytorch_lightning"}  # the two modules that may import it

# Longer than forty lines, docstring not counted, and why.
LONG = {"callback.hooks.__init__": "one parameter per line, and each one checked"}


def test_every_module_has_a_layer():
    assert {imports.room(module) for module in MODULES} == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down_to_lower_layers_or_stay_in_the_room(module):
    """Imports that only types need, and those inside of functions, count as well."""
    for other in imports.imported_modules(module):
        here, there = imports.room(module), imports.room(other)
        assert here == there or LAYERS[there] < LAYERS[here], f"{module} imports {other}"


def test_no_module_imports_itself_through_others():
    assert imports.circles() == []


def test_the_drawing_is_that_of_the_code():
    """`python tests/support/imports.py` draws it again."""
    page = imports.PAGE.read_text()
    assert imports.drawing() in page


@pytest.mark.parametrize("module", MODULES)
def test_only_the_doors_know_lightning(module):
    known = {name.split(".")[0] for name in imports.names_imported(module)} & LIGHTNING
    assert not known or module in DOORS


def test_imports_inside_of_functions_are_few_and_have_a_reason():
    """Drawing is a convenience of `Explanation`; whoever only computes does not pay for it.

    What TensorBoard imports at every start must not fail, so the tab comes after it.
    """
    late = {
        (module, other)
        for module in MODULES
        for other in imports.imported_modules(module) - imports.imported_modules(module, late=False)
    }
    assert late == {
        ("explanation", "draw.figure"),
        ("explanation", "draw.preview"),
        ("viewer.entry", "viewer.plugin"),
    }


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}.{node.name}", node


PUBLIC = {
    "AttentionCheck",
    "Reference",
    "SaliencyCallback",
    "ProbeBatch",
    "explain",
    "Explanation",
    "class_index",
    "SaliencyError",
}


def test_the_public_names_are_those_of_the_design():
    assert set(lightning_saliency.__all__) == PUBLIC <= set(dir(lightning_saliency))
    for name in PUBLIC:
        assert getattr(lightning_saliency, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'explian'"):
        lightning_saliency.explian  # noqa: B018


@pytest.mark.parametrize(
    "statement",
    [
        *(f"from lightning_saliency import {name}" for name in sorted(PUBLIC)),
        "from lightning_saliency import *",
        "from lightning_saliency.lightning import SaliencyCallback",
        "from lightning_saliency.pytorch_lightning import SaliencyCallback",
        "from lightning_saliency.testing import assert_attention",
        "from lightning_saliency.health import health, Health",
        "from lightning_saliency.rules import declare",
        "from lightning_saliency.captum import rule",
        "from lightning_saliency.photos import read_photo, to_tensor",
        "from lightning_saliency.errors import SaliencyError, SaliencyWarning, RecordError",
        "from lightning_saliency.cli import main",
        "from lightning_saliency.viewer import show",
    ],
)
def test_public_paths_can_be_imported(statement):
    exec(statement, {})


def loaded(statement: str) -> set[str]:
    """What a fresh process has loaded after ``statement``."""
    script = f"{statement}\nimport sys\nprint(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def heavy(names: set[str], *kinds: str) -> set[str]:
    return {name for name in names if name.split(".")[0] in kinds}


SEEN_BY_NOBODY = ("wandb", "mlflow", "timm", "captum", "tensorboard")


def test_importing_the_package_loads_nothing_but_itself():
    found = loaded("import lightning_saliency")
    assert not heavy(found, "torch", "numpy", "matplotlib", "torchvision", *LIGHTNING)
    assert "lightning_saliency" in found


def test_explaining_loads_no_trainer_and_no_pictures():
    found = loaded("from lightning_saliency import explain, ProbeBatch, Reference, class_index")
    assert "torch" in found
    assert not heavy(found, "matplotlib", "torchvision", *LIGHTNING, *SEEN_BY_NOBODY)


def test_importing_adds_little_to_importing_torch():
    """As a ratio of the processor's times, for a machine that has other things to do as well."""
    script = (
        "import time\n"
        "begun = time.process_time()\n"
        "import torch, numpy\n"
        "between = time.process_time()\n"
        "from lightning_saliency import explain, ProbeBatch, AttentionCheck, Reference\n"
        "print((time.process_time() - between) / (between - begun))\n"
    )
    command = [sys.executable, "-c", script]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(done.stdout) for done in runs) < 0.2


@pytest.mark.parametrize("arguments", [["--help"], ["check", "--help"], ["check", "x", "y"], []])
def test_the_command_line_loads_no_trainer(arguments):
    run = (
        f"from lightning_saliency.cli import main\ntry: main({arguments})\nexcept SystemExit: pass"
    )
    found = loaded(run)
    assert not heavy(found, "matplotlib", "torchvision", *LIGHTNING, *SEEN_BY_NOBODY)


def test_a_check_in_a_fresh_process_loads_no_trainer(tmp_path):
    fixture = Path(__file__).parent / "fixtures/v0_1"
    record = shutil.copytree(fixture / "record", tmp_path / "record")  # A check writes to it.
    arguments = ["check", str(record), "--reference", str(fixture / "reference")]
    found = loaded(f"from lightning_saliency.cli import main\nassert main({arguments}) == 0")
    assert "torch" in found
    assert not heavy(found, *LIGHTNING)


def test_each_namespace_loads_its_own_lightning_only():
    mine, other = "lightning_saliency.lightning", "lightning_saliency.pytorch_lightning"
    assert not heavy(loaded(f"import {mine}"), "pytorch_lightning")
    assert not heavy(loaded(f"import {other}"), "lightning")


def test_no_function_is_too_long():
    lengths = {}
    for name, node in functions():
        docstring = node.body[0] if ast.get_docstring(node, clean=False) else None
        told = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
        lengths[name] = node.end_lineno - node.lineno + 1 - told
    assert {name for name, length in lengths.items() if length > 40} == LONG.keys()
    assert sorted(lengths.values())[len(lengths) // 2] <= 12


FORBIDDEN = {"pickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
UNTRUSTED = {"eval", "exec", "compile", "__import__", "torch.load", "np.load", "numpy.load"}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_that_is_read_can_run_code(module):
    assert not {name.split(".")[0] for name in imports.names_imported(module)} & FORBIDDEN
    calls = [n for n in ast.walk(MODULES[module]) if isinstance(n, ast.Call)]
    assert (
        not {ast.unparse(n.func) for n in calls if not _loads_weights_only(module, n)} & UNTRUSTED
    )


def _loads_weights_only(module: str, call: ast.Call) -> bool:
    """Whether a call reads a checkpoint in such a way that nothing in it is executed."""
    if module != "cli.checkpoints" or ast.unparse(call.func) != "torch.load":
        return False
    return {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True"


@pytest.mark.parametrize("module", MODULES)
def test_no_assert_stands_in_for_an_error(module):
    """Python leaves them out under `-O`."""
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(MODULES[module]))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_and_public_function_says_what_it_is_for(module):
    tree = MODULES[module]
    assert ast.get_docstring(tree)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            if "overload" in map(ast.unparse, node.decorator_list):
                continue
            documented = ast.get_docstring(node) or "__doc__" in ast.unparse(node)
            assert documented, f"{module}.{node.name}"


def test_print_is_left_to_command_lines():
    callers = {m for m, t in MODULES.items() for n in ast.walk(t) if _calls(n, "print")}
    assert callers <= {"cli.commands"}


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
