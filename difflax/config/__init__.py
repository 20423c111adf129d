"""Configs: sections as dataclasses, the schema made of them, files and overrides, checks across fields."""
