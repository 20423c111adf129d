"""Configs: sections as dataclasses, the schema made of them, files and overrides, checks across fields.

A file of ``configs/`` starts from `experiment`; `parse` makes the typed `Experiment` of it that all else
reads.
"""

from difflax.config.start import experiment

__all__ = ["experiment"]
