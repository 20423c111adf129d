"""Strategic stochastic sampling of trajectory consistency models (Zheng et al., TCD, arXiv:2402.19159)."""

import dataclasses

import jax.numpy as jnp

from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import Stateless, renoise, straight
from difflax.diffusion.schedules.base import NoiseLevel, unscheduled_level


@dataclasses.dataclass(frozen=True, kw_only=True)
class TCD(Stateless):
    """Jump along the trajectory to a level below the next one, and noise back up to it (algorithm 4).

    ``x_s = alpha_s x0 + sigma_s eps``, then the forward process from s to the next level; s is ``1 - gamma``
    times the next level's time, counted in the angle ``arctan(sigma / alpha)``, which the cosine schedule's
    time is. ``gamma`` = 0 is DDIM, 1 is the sampling of consistency models.

    Attributes:
        gamma: how much noise is made anew, in [0, 1].
    """

    gamma: float = 0.3
    evaluations = 1

    def __post_init__(self):
        require(0 <= self.gamma <= 1, f"sampler.gamma must lie in [0, 1], got {self.gamma}")

    def step(self, denoise, x, now, next, keys, state):
        prediction = denoise(x, now)
        if self.gamma == 0:
            return straight(prediction, next), state
        below = self.below(next)
        made = renoise(straight(prediction, below), below, next, keys).astype(x.dtype)
        return made, state

    def below(self, next: NoiseLevel) -> NoiseLevel:
        """The level that the step to ``next`` jumps to."""
        length, angle = jnp.hypot(next.alpha, next.sigma), jnp.arctan2(next.sigma, next.alpha)
        return unscheduled_level(
            length * jnp.cos((1 - self.gamma) * angle), length * jnp.sin((1 - self.gamma) * angle)
        )
