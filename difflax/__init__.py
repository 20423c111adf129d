"""difflax: config-driven text-to-image diffusion research in JAX."""

__version__ = "0.1.0"
