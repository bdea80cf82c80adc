"""The files of a run on disk; nothing here knows a model."""
