"""Ancestral sampling of DDPM (Ho et al., arXiv:2006.11239, algorithm 2), for any alpha and sigma."""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import Stateless
from difflax.diffusion.samplers.ddim import posterior
from difflax.streams import normal


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDPM(Stateless):
    """Posterior mean plus noise.

    ``variance="small"`` is the posterior's (right for data of no spread), ``"large"`` the forward step's beta
    (right for data of unit variance); the step to the data adds none.
    """

    variance: Literal["small", "large"] = "small"
    evaluations = 1

    def __post_init__(self):
        known = ("small", "large")
        require(
            self.variance in known,
            f"sampler.variance must be one of {', '.join(known)}, got {self.variance!r}",
        )

    def step(self, denoise, x, now, next, keys, state):
        mean, std = posterior(denoise(x, now), now, next)
        if self.variance == "large":
            ratio = now.alpha / next.alpha
            forward = jnp.sqrt(jnp.maximum(now.sigma**2 - (ratio * next.sigma) ** 2, 0))
            std = jnp.where(next.sigma > 0, forward, 0)
        return mean + std * normal(keys, x.shape[1:], x.dtype), state
