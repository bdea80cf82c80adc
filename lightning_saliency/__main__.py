"""Make ``python -m lightning_saliency`` the same as ``lightning-saliency``."""

import sys

from lightning_saliency.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
