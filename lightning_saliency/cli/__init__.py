"""The same from a shell."""

from lightning_saliency.cli.commands import main as main
