"""Whether a run looks where good runs look."""
