"""The command line, in this process."""

from __future__ import annotations

import pytest

from lightning_saliency.cli import main


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """The exit code of a command, and what it printed."""
    try:
        code = main(arguments)
    except SystemExit as left:
        code = left.code
    told = capsys.readouterr()
    return code, told.out, told.err
