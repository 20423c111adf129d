"""Guidance ablation: the sweep, its results, plots and report."""
