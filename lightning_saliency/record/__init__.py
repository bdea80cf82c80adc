"""What a run keeps on disk; nothing here knows a model."""
