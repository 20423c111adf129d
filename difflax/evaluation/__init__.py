"""Metrics, judges, the guidance ablation, statistics, plots and the report."""
