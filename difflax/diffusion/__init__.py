"""The mathematics of Gaussian diffusion: frozen dataclasses and pure functions, no networks, no I/O."""
