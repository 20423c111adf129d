"""Data whose ideal denoiser is known: the exact answers that schedules, predictions and samplers are held
to.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from difflax.diffusion.predictions import Prediction, target
from difflax.diffusion.schedules import expand, noise_level


@dataclasses.dataclass(frozen=True)
class Gaussian:
    """``x0 ~ N(mean, std^2)`` in every coordinate independently."""

    mean: np.ndarray = dataclasses.field(default_factory=lambda: np.array([0.7, -0.4, 0.2]))
    std: np.ndarray = dataclasses.field(default_factory=lambda: np.array([0.5, 1.2, 0.9]))

    def denoise(self, x, level, conditioning=None) -> Prediction:
        level = jax.tree.map(lambda a: expand(a, x), level)
        variance = level.alpha**2 * self.std**2 + level.sigma**2
        centred = (x - level.alpha * self.mean) / variance
        return Prediction(self.mean + level.alpha * self.std**2 * centred, level.sigma * centred)

    def flow(self, x, now, next):
        """The exact probability-flow solution: the standardised coordinate is constant."""
        scale = lambda level: jnp.hypot(level.alpha * self.std, level.sigma)  # noqa: E731
        return next.alpha * self.mean + (x - now.alpha * self.mean) * scale(next) / scale(now)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Two isotropic Gaussians; posterior responsibilities make the denoiser nonlinear in x."""

    means: tuple = ((1.0, -0.5, 0.3), (-0.8, 0.6, -0.2))
    weights: tuple = (0.6, 0.4)
    std: float = 0.4

    def denoise(self, x, level, conditioning=None) -> Prediction:
        means = jnp.asarray(self.means, x.dtype)
        level = jax.tree.map(lambda a: expand(a, x[..., None]), level)
        variance = level.alpha**2 * self.std**2 + level.sigma**2
        offset = x[..., None, :] - level.alpha * means
        log_weights = jnp.log(jnp.asarray(self.weights, x.dtype)) - ((offset**2) / (2 * variance)).sum(-1)
        responsibility = jax.nn.softmax(log_weights, axis=-1)[..., None]
        scaled = (responsibility * offset / variance).sum(-2)
        mean = (responsibility * means).sum(-2)
        alpha, sigma = (a[..., 0] if a.ndim else a for a in (level.alpha, level.sigma))
        return Prediction(mean + alpha * self.std**2 * scaled, sigma * scaled)


def as_network(oracle, schedule, prediction_type, time_scale=1000.0):
    """The network that a perfectly trained one would be: it sees only ``x`` and its time."""

    def network(params, x, time, conditioning):
        level = noise_level(schedule, time / time_scale)
        prediction = oracle.denoise(x, level)
        return target(prediction_type, prediction.x0, prediction.eps, level)

    return network
