"""How results look: grids, PNG files, trajectories, HTML pages and their style."""
