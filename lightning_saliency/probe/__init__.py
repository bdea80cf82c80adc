"""The images to explain: where they come from and how they are prepared."""
