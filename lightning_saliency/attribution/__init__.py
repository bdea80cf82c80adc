"""Attributions: from a live model and images to signed gradients."""
