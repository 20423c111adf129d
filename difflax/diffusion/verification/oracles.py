"""Data whose ideal denoiser is closed-form, and whose probability flow is known: what samplers are held to.

For Gaussian data and for mixtures of Gaussians a sampler's error is its own, not a network's. For a Gaussian
the flow is closed-form too; for a mixture scipy's DOP853 gives it to 1e-12. Exactness wants
``jax.enable_x64``.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import scipy.integrate
from jaxtyping import Array, Float

from difflax.diffusion.predictions import Prediction
from difflax.diffusion.schedules.base import NoiseLevel, expand, unscheduled_level


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """``x0 ~ N(mean, std^2)`` in every coordinate independently.

    Attributes:
        mean: one number a coordinate, or ``[b, d]``: one mean an example.
        std: one number a coordinate.
    """

    mean: tuple[float, ...] | Float[Array, "b d"] = (0.7, -0.4, 0.2)
    std: tuple[float, ...] = (0.5, 1.2, 0.9)

    def denoise(self, x: Float[Array, "b d"], level: NoiseLevel, conditioning=None) -> Prediction:
        """The posterior mean of x0, and the noise that goes with it; finite at both ends of time."""
        mean, std = jnp.asarray(self.mean, x.dtype), jnp.asarray(self.std, x.dtype)
        alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
        scaled = (x - alpha * mean) / ((alpha * std) ** 2 + sigma**2)
        return Prediction(mean + alpha * std**2 * scaled, sigma * scaled)

    def flow(self, x: Float[Array, "b d"], now: NoiseLevel, next: NoiseLevel) -> Float[Array, "b d"]:
        """The exact probability-flow solution: the standardised coordinate is constant."""
        mean = jnp.asarray(self.mean, x.dtype)
        return next.alpha * mean + (x - now.alpha * mean) * self.std_at(next) / self.std_at(now)

    def std_at(self, level: NoiseLevel) -> Float[Array, " d"]:
        """The standard deviation of ``x_t``."""
        return jnp.hypot(level.alpha * jnp.asarray(self.std), level.sigma)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Isotropic Gaussians of one width; the responsibilities make the denoiser nonlinear in x."""

    means: tuple[tuple[float, ...], ...] = ((1.0, -0.5, 0.3), (-0.8, 0.6, -0.2))
    weights: tuple[float, ...] = (0.6, 0.4)
    std: float = 0.4

    def denoise(self, x: Float[Array, "b d"], level: NoiseLevel, conditioning=None) -> Prediction:
        """The posterior mean of x0, and the noise that goes with it."""
        means = jnp.asarray(self.means, x.dtype)
        alpha, sigma = expand(level.alpha, x), expand(level.sigma, x)
        variance = (alpha * self.std) ** 2 + sigma**2
        offset = x[:, None, :] - alpha[..., None] * means
        log_weights = jnp.log(jnp.asarray(self.weights, x.dtype)) - (offset**2).sum(-1) / (2 * variance)
        share = jax.nn.softmax(log_weights, axis=-1)[..., None]
        scaled, mean = (share * offset).sum(1) / variance, (share * means).sum(1)
        return Prediction(mean + alpha * self.std**2 * scaled, sigma * scaled)

    def flow(self, x: Float[Array, "b d"], now: NoiseLevel, next: NoiseLevel) -> Float[np.ndarray, "b d"]:
        """The probability-flow solution to 1e-12, along the circle ``alpha = cos(phi), sigma = sin(phi)``."""
        start, end = (float(jnp.arctan2(level.sigma, level.alpha)) for level in (now, next))
        first, last = (float(jnp.hypot(level.sigma, level.alpha)) for level in (now, next))

        @jax.jit
        def slope(phi, flat):
            pair = self.denoise(flat.reshape(x.shape), unscheduled_level(jnp.cos(phi), jnp.sin(phi)))
            return (jnp.cos(phi) * pair.eps - jnp.sin(phi) * pair.x0).ravel()

        solution = scipy.integrate.solve_ivp(
            lambda phi, flat: np.asarray(slope(phi, flat)),
            (start, end),
            np.asarray(x).ravel() / first,
            method="DOP853",
            rtol=1e-12,
            atol=1e-13,
        )
        return solution.y[:, -1].reshape(x.shape) * last
