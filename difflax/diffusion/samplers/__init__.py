"""Samplers: one file a family, each stepping with the pair (x0, eps) that a denoiser returns."""
