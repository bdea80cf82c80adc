"""One observation of a live model."""
