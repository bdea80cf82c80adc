"""Tell people how to look at what an example has logged."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

ADDRESS = "http://localhost:6006/#saliency"


def tensorboard_command(logdir: str | Path) -> str:
    """The shell command that shows the runs under ``logdir``.

    It names the ``tensorboard`` that is installed next to the running Python by its path, so that
    it works as printed if the virtual environment of that Python is not activated.
    """
    installed = Path(sys.executable).with_name("tensorboard")
    if installed.exists():
        program = [_shown(installed)]
    else:
        program = [_shown(Path(sys.executable)), "-m", "tensorboard.main"]
    return shlex.join([*program, "--logdir", str(logdir)])


def _shown(program: Path) -> str:
    """A path for a shell to run, relative if it lies in a folder below the current one."""
    here = Path.cwd()
    # In the current folder itself a relative path would be a bare name, which shells look up.
    if program.is_relative_to(here) and program.parent != here:
        return str(program.relative_to(here))
    return str(program)


def tell_how_to_view(run_folder: str, logdir: str | Path) -> None:
    """Print the command that opens TensorBoard, and what to click there."""
    print(f"\nThe pictures are in {run_folder}. To see them, run\n")
    print(f"    {tensorboard_command(logdir)}\n")
    print(f"and open\n\n    {ADDRESS}\n")
    print(
        'That is the tab "Saliency": one slider moves all maps over the epochs; ? lists its keys.'
    )
    print('The pictures that were logged are in the tab "Images".')
