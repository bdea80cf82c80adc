"""Who may import whom, what is public, how long a function may be: the house as it was planned."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import lightning_saliency

PACKAGE = Path(lightning_saliency.__file__).parent
MODULES = {path.stem: ast.parse(path.read_text()) for path in sorted(PACKAGE.glob("*.py"))}

LIGHTNING = {"lightning", "pytorch_lightning", "lightning_fabric", "lightning_utilities"}
ON_TOP = {"callback", "lightning", "loggers"}

# What a room may know of the other rooms, where the plan says so. The others only must not look up.
MAY_KNOW = {
    "errors": set(),
    "files": {"errors"},
    "maps": set(),
    "measures": set(),
    "bounds": set(),
    "untrusted": set(),
    "record": {"errors", "files", "measures", "untrusted"},
    "recorder": {"errors", "files", "record"},
    "requirements": set(),
    "reference": {"errors", "files", "measures", "record", "requirements", "untrusted"},
    "verdict": {"measures", "record"},
    "judge": {"bounds", "measures", "record", "reference", "requirements", "verdict"},
    "report": {"verdict"},
    "tables": {"errors", "measures", "record", "reference", "report", "requirements"},
    "schedule": set(),
    "rules": {"errors"},
    "isolation": {"errors"},
    "doubts": {"errors", "rules"},
    "classes": {"errors"},
    "imagenet": {"errors"},
    "grid": {"maps"},
    "ranks": {"errors"},
    "monitors": {"errors", "schedule"},
}

# Longer than forty lines, docstring not counted, and why.
LONG = {"callback.__init__": "a parameter a line, and each one checked"}


def imported(tree: ast.Module, *, late: bool = True) -> set[str]:
    """The modules that ``tree`` imports, but for those that only types need.

    Args:
        tree: Of a module.
        late: Whether imports inside of functions count.
    """
    for_types = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    names: set[str] = set()
    for node in set(ast.walk(tree) if late else tree.body) - for_types:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that these tests see them"
            names |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return names


def rooms(module: str, *, late: bool = False) -> set[str]:
    """The modules of the package that ``module`` imports."""
    parts = [name.split(".") for name in imported(MODULES[module], late=late)]
    return {p[1] for p in parts if p[0] == PACKAGE.name and len(p) > 1 and p[1] in MODULES}


def above(module: str) -> set[str]:
    """All modules of the package that importing ``module`` brings in, itself included."""
    found, pending = {module}, [module]
    while pending:
        for room in rooms(pending.pop()) - found:
            found.add(room)
            pending.append(room)
    return found


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{module}.{node.name}", node


@pytest.mark.parametrize("module", MODULES)
def test_only_the_top_of_the_house_knows_lightning(module):
    known = {name.split(".")[0] for name in imported(MODULES[module])} & LIGHTNING
    assert not known or module in ON_TOP


@pytest.mark.parametrize("module", sorted(MODULES.keys() - ON_TOP - {"__init__"}))
def test_no_tensor_side_module_brings_in_the_trainer_s_side(module):
    assert not above(module) & {"callback", "lightning", "__init__"}


@pytest.mark.parametrize("module", MAY_KNOW)
def test_a_room_knows_no_more_than_was_planned(module):
    assert rooms(module) <= MAY_KNOW[module]


def test_doors_open_one_way():
    for module in MODULES.keys() - {"__init__"}:
        for room in rooms(module):
            assert module not in above(room), f"{module} and {room} import each other"


def test_no_door_opens_later_but_the_one_to_drawing():
    """`Explanation.plot` is a convenience; whoever only computes does not pay for it."""
    late = {(m, r) for m in MODULES for r in rooms(m, late=True) - rooms(m)}
    assert late == {("attribution", "plot")}


def test_pictures_know_no_model_and_models_no_pictures():
    assert not above("judge") & {"attribution", "grid", "pictures", "snapshot"}
    assert not above("grid") & {"attribution", "rules", "isolation"}
    assert not above("attribution") & {"grid", "pictures", "plot", "loggers"}


def test_the_public_names_are_those_of_the_design():
    public = {name for name in vars(lightning_saliency) if not name.startswith("_")}
    assert public - MODULES.keys() - {"annotations"} == {
        "AttentionCheck",
        "Reference",
        "SaliencyCallback",
        "ProbeBatch",
        "explain",
        "Explanation",
        "class_index",
        "SaliencyError",
    }
    for name in public - MODULES.keys():
        assert getattr(lightning_saliency, name).__doc__, name


def test_the_door_holds_nothing_but_names():
    kinds = {type(node) for node in MODULES["__init__"].body}
    assert kinds == {ast.Expr, ast.ImportFrom}  # a docstring and re-exports


HEAVY = (
    "torch._dynamo",
    "torchvision",
    "timm",
    "matplotlib.pyplot",
    "tensorboard",
    "wandb",
    "mlflow",
)


@pytest.mark.parametrize("module", MODULES)
def test_what_is_heavy_is_imported_when_it_is_needed(module):
    """Some of it comes with Lightning today; that must not become the package's own doing."""
    early = imported(MODULES[module], late=False)
    assert not [n for n in early for h in HEAVY if n == h or n.startswith(h + ".")]


def test_importing_the_package_brings_in_nothing_heavy():
    """Beyond what Lightning itself brings in, which is plenty."""
    script = (
        "import sys, pytorch_lightning\n"
        "before = set(sys.modules)\n"
        "import lightning_saliency\n"
        "print(*sorted(set(sys.modules) - before))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    brought = done.stdout.split()
    assert "lightning_saliency.callback" in brought
    for name in (*HEAVY, "lightning", "captum", "lightning_saliency.plot"):
        assert not [b for b in brought if b == name or b.startswith(name + ".")]


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
    assert not {name.split(".")[0] for name in imported(MODULES[module])} & FORBIDDEN
    called = {ast.unparse(n.func) for n in ast.walk(MODULES[module]) if isinstance(n, ast.Call)}
    assert not called & UNTRUSTED


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
    assert callers <= {"cli"}


def _calls(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
