"""What checkpoints in one file, in the original layout of CompVis' and Stability's code, have in common."""
