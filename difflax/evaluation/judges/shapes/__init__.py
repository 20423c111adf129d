"""The judge of the shapes world: analysis of a picture by synthesis, see `reading`."""
