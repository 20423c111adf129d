"""Multistep sampling of consistency models (Song et al., arXiv:2303.01469, algorithm 1; LCM,
arXiv:2310.04378).
"""

import dataclasses

import jax.numpy as jnp

from difflax.core.streams import normal
from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import Stateless


@dataclasses.dataclass(frozen=True, kw_only=True)
class LCM(Stateless):
    """Jump to x0, then noise it afresh to the next level: ``x' = alpha' f(x) + sigma' z``.

    ``f = c_skip x + c_out x0`` with EDM's coefficients at ``10 x timestep`` (LCM, eq. 9 and appendix;
    timesteps 0 … 999) makes f the identity at the data; at the timesteps in use it is x0 to 1e-5.
    ``boundary=False`` takes x0 itself.

    Attributes:
        boundary: make f the identity at the data, as published.
        sigma_data: of the boundary's coefficients.
        timestep_scaling: factor on the timesteps in them.
        num_timesteps: of the discrete process.
    """

    boundary: bool = True
    sigma_data: float = 0.5
    timestep_scaling: float = 10.0
    num_timesteps: int = 1000
    evaluations = 1

    def __post_init__(self):
        require(self.sigma_data > 0, f"sampler.sigma_data must be positive, got {self.sigma_data}")

    def step(self, denoise, x, now, next, keys, state):
        x0 = denoise(x, now).x0
        if self.boundary:
            scaled = (now.t * self.num_timesteps - 1) * self.timestep_scaling
            c_skip = self.sigma_data**2 / (scaled**2 + self.sigma_data**2)
            c_out = scaled / jnp.sqrt(scaled**2 + self.sigma_data**2)
            x0 = c_skip * x + c_out * x0
        return next.alpha * x0 + next.sigma * normal(keys, x.shape[1:], x.dtype), state
