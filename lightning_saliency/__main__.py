"""``python -m lightning_saliency`` is ``lightning-saliency``."""

import sys

from lightning_saliency.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
