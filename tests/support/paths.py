"""Where things are in the repository, for tests in any folder."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).parents[2]
DOCS, EXAMPLES = REPOSITORY / "docs", REPOSITORY / "examples"
FIXTURES, SUPPORT = REPOSITORY / "tests/fixtures", REPOSITORY / "tests/support"


def load_example(name: str) -> ModuleType:
    """Import ``examples/<name>.py``, which is not in a package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
