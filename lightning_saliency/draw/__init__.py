"""Pictures; nothing here knows a model."""
