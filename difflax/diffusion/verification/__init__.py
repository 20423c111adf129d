"""Exact oracles and the measured orders of the samplers."""
