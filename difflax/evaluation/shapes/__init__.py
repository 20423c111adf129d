"""Exact measures of pictures of the shapes world, by its judge and its truth."""
