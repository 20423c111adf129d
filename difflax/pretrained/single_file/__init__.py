"""Checkpoints in one file in the original layout."""
