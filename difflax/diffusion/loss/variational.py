"""The variational bound, which trains the variance that a network predicts beside its mean.

Of an ancestral step from time t to t - 1/T the network predicts the log-variance, between the two that are
right for data of no spread and for data of unit variance (Nichol & Dhariwal, arXiv:2102.09672, eq. 15):

    log Sigma = v log beta + (1 - v) log beta~,        v = (out + 1) / 2.

The bound's term is the divergence of that step from the true posterior,

    L_t = KL( q(x_s | x_t, x0)  ||  N(mu, Sigma) ),        s = t - 1/T,

two normal distributions (Ho et al., arXiv:2006.11239, eq. 5). The mean is trained by the simple loss, so mu
stands still here (Nichol & Dhariwal, section 3.1).
"""

import dataclasses
from typing import Annotated

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.bounds import Range
from difflax.diffusion.checks import require
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers.ddpm import posterior
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, expand, noise_level


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariationalBound:
    """``weight`` times the sum of the bound's terms over all steps, of which each example gives one.

    Attributes:
        schedule: of the levels.
        weight: lambda of the hybrid loss, 0.001 in the paper.
        steps: T.
    """

    schedule: NoiseSchedule
    weight: float = 1e-3
    steps: Annotated[int, Range(2, 1_000_000)] = 1000

    def __post_init__(self):
        require(self.steps >= 2, f"steps must be at least 2, got {self.steps}")

    def __call__(
        self, prediction: Prediction, x0: Float[Array, "b ..."], eps: Float[Array, "b ..."], level: NoiseLevel
    ) -> Float[Array, "b ..."]:
        """The weighted bound in bits, element by element; one level an example.

        The step to the data adds no noise, so its term, and that of the part of a step before it, is 0.
        """
        counts = level.t >= 2 / self.steps
        now = noise_level(self.schedule, jnp.where(counts, level.t, 2 / self.steps))
        down, small, large = posterior(now, noise_level(self.schedule, now.t - 1 / self.steps))
        share = prediction.variance
        true, largest = (expand(2 * jnp.log(deviation), x0) for deviation in (small, large))
        made = share * largest + (1 - share) * true
        mean = lambda x0, eps: expand(down.alpha, x0) * x0 + expand(down.sigma, x0) * eps  # noqa: E731
        gap = mean(x0, eps) - jax.lax.stop_gradient(mean(prediction.x0, prediction.eps))
        divergence = _divergence(gap, true, made)
        return jnp.where(expand(counts, x0), self.weight * self.steps / jnp.log(2) * divergence, 0)


def _divergence(
    gap: Float[Array, "..."], log_variance: Float[Array, "..."], other: Float[Array, "..."]
) -> Float[Array, "..."]:
    """``KL(N(gap, exp(log_variance)) || N(0, exp(other)))`` in nats."""
    return (other - log_variance + jnp.exp(log_variance - other) + gap**2 * jnp.exp(-other) - 1) / 2
