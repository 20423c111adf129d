"""DDIM with any eta (Song et al., arXiv:2010.02502, eq. 12 and 16), for any alpha and sigma."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers.base import Stateless, decay
from difflax.diffusion.schedules import NoiseLevel
from difflax.streams import normal


def posterior(
    prediction: Prediction, now: NoiseLevel, next: NoiseLevel, eta: float = 1.0
) -> tuple[Array, Float[Array, ""]]:
    """Mean and standard deviation of the step with noise ``eta``; 1 is the posterior ``q(x_next | x_now,
    x0)``.

    With ``r = exp(-h)`` the posterior's deviation is ``sigma' sqrt(1 - r^2)``, and what it takes of the noise
    is taken from the direction ``eps``.
    """
    r = decay(now, next)
    share = eta**2 * (1 - r) * (1 + r)
    mean = next.alpha * prediction.x0 + next.sigma * jnp.sqrt(1 - share) * prediction.eps
    return mean, next.sigma * jnp.sqrt(share)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DDIM(Stateless):
    """eta = 0: deterministic, first order; eta = 1: DDPM's posterior; first weak order."""

    eta: float = 0.0
    evaluations = 1

    def __post_init__(self):
        require(0 <= self.eta <= 1, f"sampler.eta must lie in [0, 1], got {self.eta}")

    def step(self, denoise, x, now, next, keys, state):
        mean, std = posterior(denoise(x, now), now, next, self.eta)
        if self.eta == 0:
            return mean, state
        return mean + std * normal(keys, x.shape[1:], x.dtype), state
