"""What TensorBoard imports at every start; it imports next to nothing and cannot fail.

TensorBoard does not start if the import of an entry point fails. That is why the tab itself is
imported in :meth:`SaliencyLoader.load`, whose errors only cost the tab.
"""

from __future__ import annotations

import logging
from typing import Any

from tensorboard.plugins import base_plugin


class SaliencyLoader(base_plugin.TBLoader):  # type: ignore[misc]
    """Loads the tab "Saliency". It adds no flags, and changes none."""

    def load(self, context: Any) -> Any:
        """Build the tab for the log folders that TensorBoard was started with.

        Args:
            context: The ``base_plugin.TBContext`` of this TensorBoard.

        Returns:
            The plugin; ``None`` if it could not be built, which is logged.
        """
        try:
            from lightning_saliency.viewer.plugin import SaliencyPlugin

            return SaliencyPlugin(context)
        except Exception:
            logging.getLogger(__name__).warning("The tab 'Saliency' is missing.", exc_info=True)
            return None
