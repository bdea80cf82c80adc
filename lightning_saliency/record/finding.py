"""Find recorded runs in the folders that Lightning's loggers make.

Programs that only look at files import this module, so it does without torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from lightning_saliency.record.facts import PHOTOS_FILE, RUN_FILE
from lightning_saliency.storage.places import Place

# Folders with many files or with runs of other programs, and observations that a run gave up.
SKIPPED = frozenset(("checkpoints", "wandb", "mlruns", "set_aside", "node_modules"))


def find_runs(folder: Place) -> list[Place]:
    """Find the folders of recorded runs in a log folder, or in its subfolders if it has none.

    Args:
        folder: The callback's own folder, the log folder that holds it, or the folder of that one,
            such as ``logs/good`` with the run in ``logs/good/version_0/saliency``.

    Returns:
        The nearest ones, sorted by their paths; none of them lies more than two levels down.
    """
    if (folder / RUN_FILE).is_file():
        return [folder]
    found = list(_find_inside(folder))
    if not found:
        inner = [child for child in folder.glob("*") if _may_hold_runs(child)]
        found = [
            run
            for child in inner
            for run in _find_inside(child)
            # Other programs have a `run.json` too, but no photos next to it.
            if (run / PHOTOS_FILE).is_file()
        ]
    return sorted(found, key=str)


def _find_inside(folder: Place) -> Iterator[Place]:
    return (file.parent for file in folder.glob(f"*/{RUN_FILE}"))


def _may_hold_runs(folder: Place) -> bool:
    return not folder.name.startswith(".") and folder.name not in SKIPPED and folder.is_dir()
