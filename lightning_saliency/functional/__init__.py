"""Functional: pure functions of tensors and numbers."""
