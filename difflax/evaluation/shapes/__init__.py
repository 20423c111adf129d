"""Exact measures of pictures of the shapes world: alignment, coverage and fidelity, by its judge and its truth."""
