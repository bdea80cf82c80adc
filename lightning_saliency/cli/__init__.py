"""The command line: references, checks and comparisons of runs from a shell."""

from lightning_saliency.cli.commands import main as main
