"""Print the lowest versions that `pyproject.toml` allows, as constraints for pip.

    python tests/support/lowest.py > lowest.txt
    pip install --editable ".[dev]" --constraint lowest.txt

The bounds are read from the metadata of the package, which must be installed. Programs that only
check the code are left out, as are test runners: their newest versions are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.metadata import requires

# These are pinned too, as users have them next to the package. Lightning 2.4 does not work with the
# newest rich. The rest of the extra `dev` are tools.
INTEGRATIONS = ("lightning", "rich")

_REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[[\w,.-]+\])?\s*>=\s*(?P<version>[\w.]+)"
    r"(\s*;\s*extra\s*==\s*['\"](?P<extra>\w+)['\"])?"
)


def find_lowest(requirements: Iterable[str]) -> dict[str, str]:
    """Find the lowest version of each run-time dependency and of the integrations.

    Args:
        requirements: As the metadata of the package lists them, such as ``numpy>=1.24``. Those of
            extras end in ``; extra == "dev"``.

    Returns:
        The versions by the names of the distributions.

    Raises:
        ValueError: A run-time dependency has no lower bound, or a form that is not understood.

    Example:
        >>> find_lowest(["numpy>=1.24", "lightning>=2.4; extra == 'dev'", "ruff; extra == 'dev'"])
        {'numpy': '1.24', 'lightning': '2.4'}
    """
    lowest: dict[str, str] = {}
    for requirement in requirements:
        found = _REQUIREMENT.fullmatch(requirement.strip())
        if found is None:
            if ";" in requirement:
                continue  # a tool, or a version that is fixed anyway
            raise ValueError(f"{requirement!r} must read like name>=version")
        if found["extra"] is None or found["name"] in INTEGRATIONS:
            lowest[found["name"]] = found["version"]
    return lowest


def main() -> None:
    """Print one constraint per line."""
    for name, version in find_lowest(requires("lightning-saliency") or ()).items():
        print(f"{name}=={version}")


if __name__ == "__main__":
    main()
