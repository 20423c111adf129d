"""Euler and Heun steps of the probability-flow ODE, with EDM's optional churn (arXiv:2206.00364, algorithms
1, 2).
"""

import dataclasses

import jax.numpy as jnp

from difflax.core.streams import normal
from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import Segment, Stateless, straight
from difflax.diffusion.schedules.base import unscheduled_level


class _Churned(Stateless):
    """Adds a little noise before each step, and steps from the higher level.

    On the noise ratio ``rho = sigma / alpha``: ``rho_hat = (1 + gamma) rho`` with
    ``gamma = min(churn / n, sqrt(2) - 1)`` for ``rho`` in ``[churn_min, churn_max]``.

    Attributes:
        churn: gamma, how much noise a step adds first; 0: none.
        churn_min: from which ``sigma / alpha`` on it is added.
        churn_max: up to which ``sigma / alpha`` it is added.
        churn_noise: factor on its standard deviation.
    """

    churn: float
    churn_min: float
    churn_max: float
    churn_noise: float

    def __post_init__(self):
        require(self.churn >= 0, f"sampler.churn must not be negative, got {self.churn}")
        require(self.churn_min <= self.churn_max, "sampler.churn_min must not exceed churn_max")
        require(self.churn_noise > 0, f"sampler.churn_noise must be positive, got {self.churn_noise}")

    def raise_noise(self, x, now, keys):
        """``x`` and its level after the churn; ``churn`` is a share a step (EDM's S_churn / n)."""
        if self.churn == 0:
            return x, now
        rho = now.sigma / now.alpha
        active = (rho >= self.churn_min) & (rho <= self.churn_max) & (now.alpha > 0)
        gamma = jnp.where(active, min(self.churn, 2**0.5 - 1), 0.0)
        added = now.sigma * jnp.sqrt(gamma * (2 + gamma)) * self.churn_noise
        raised = unscheduled_level(now.alpha, now.sigma * (1 + gamma))
        raised = raised.replace(t=jnp.where(gamma > 0, raised.t, now.t))
        return x + added * normal(keys, x.shape[1:], x.dtype), raised


@dataclasses.dataclass(frozen=True, kw_only=True)
class Euler(_Churned):
    """One slope a step: first order. Without churn the same map as DDIM with eta 0."""

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = float("inf")
    churn_noise: float = 1.0
    evaluations = 1

    def step(self, denoise, x, now, next, keys, state):
        x, now = self.raise_noise(x, now, keys)
        return straight(denoise(x, now), next), state


@dataclasses.dataclass(frozen=True, kw_only=True)
class Heun(_Churned):
    """The mean of the slopes at both ends: second order; the step to the data is Euler's."""

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = float("inf")
    churn_noise: float = 1.0
    evaluations = 2

    def step(self, denoise, x, now, next, keys, state):
        x, now = self.raise_noise(x, now, keys)
        first = denoise(x, now)
        x_euler = straight(first, next)
        second = denoise.when(next.sigma > 0, x_euler, next, otherwise=first)
        segment = Segment(now, next)
        return x_euler + (segment.slope(second) - segment.slope(first)) / 2, state
