"""Isolation: whatever a computation borrows, it gives back as it was found."""
