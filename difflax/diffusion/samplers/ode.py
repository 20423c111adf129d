"""Runge-Kutta methods of the probability-flow ODE: DPM-2, classical RK4, and an adaptive embedded pair."""

import dataclasses

import jax
import jax.numpy as jnp

from difflax.core.streams import normal
from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import Segment, Stateless, ancestral, between, straight
from difflax.diffusion.schedules.base import NoiseLevel, expand, unscheduled_level


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPM2(Stateless):
    """The midpoint rule with the middle at the geometric mean of ``sigma / alpha``: second order.

    Karras et al., arXiv:2206.00364, algorithm 2 as k-diffusion's ``sample_dpm_2`` has it. With ``eta`` > 0
    ancestral: the step goes below the next level and noise leads back up.

    Attributes:
        eta: share of the posterior's noise that is added anew, in [0, 1].
    """

    eta: float = 0.0
    evaluations = 2

    def __post_init__(self):
        require(0 <= self.eta <= 1, f"sampler.eta must lie in [0, 1], got {self.eta}")

    def step(self, denoise, x, now, next, keys, state):
        down, std = ancestral(now, next, self.eta)
        first = denoise(x, now)
        planned = None if next.plan is None else next.plan.via
        middle = geometric_middle(now, down) if planned is None else planned
        second = denoise.when(down.sigma > 0, straight(first, middle), middle, otherwise=first)
        segment = Segment(now, down)
        x_next = straight(first, down) + segment.slope(second) - segment.slope(first)
        if self.eta > 0:
            x_next = x_next + std * normal(keys, x.shape[1:], x.dtype)
        return x_next, state


def geometric_middle(now: NoiseLevel, down: NoiseLevel) -> NoiseLevel:
    """The level of the segment at which sigma / alpha is its ends' geometric mean; half way from pure noise
    or to the data.
    """
    rise = now.sigma * jnp.sqrt(now.alpha * down.alpha) - now.alpha * jnp.sqrt(now.sigma * down.sigma)
    fall = down.alpha * jnp.sqrt(now.sigma * down.sigma) - down.sigma * jnp.sqrt(now.alpha * down.alpha)
    inside = (now.alpha > 0) & (down.sigma > 0)
    return between(now, down, jnp.where(inside, rise / jnp.where(inside, rise + fall, 1), 0.5))


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPM2Ancestral(DPM2):
    """DPM-2 with eta 1."""

    eta: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RK4(Stateless):
    """The classical Runge-Kutta method on the segment: fourth order; the step to the data is Euler's."""

    evaluations = 4

    def step(self, denoise, x, now, next, keys, state):
        segment, middle, go = Segment(now, next), between(now, next, 0.5), next.sigma > 0
        first = denoise(x, now)
        k1 = segment.slope(first)
        k2 = segment.slope(denoise.when(go, x + k1 / 2, middle, otherwise=first))
        k3 = segment.slope(denoise.when(go, x + k2 / 2, middle, otherwise=first))
        k4 = segment.slope(denoise.when(go, x + k3, next, otherwise=first))
        # As a correction of Euler's step, which keeps the pair's own form at both ends.
        return straight(first, next) + (2 * (k2 - k1) + 2 * (k3 - k1) + (k4 - k1)) / 6, state


# Bogacki & Shampine, "A 3(2) pair of Runge-Kutta formulas", 1989.
_NODES = (0.5, 0.75)
_THIRD = (2 / 9, 1 / 3, 4 / 9)
# Third minus second order.
_ERROR = (2 / 9 - 7 / 24, 1 / 3 - 1 / 4, 4 / 9 - 1 / 3, -1 / 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adaptive(Stateless):
    """Bogacki-Shampine 3(2) with step control, each sample with steps of its own.

    Works along the circle ``alpha = cos(phi), sigma = sin(phi)``, where the ODE is ``dx/dphi = cos(phi) eps -
    sin(phi) x0``: smooth and bounded from pure noise to the data. Goes from level to level of the grid, so
    two levels and the data suffice. ``evaluations`` counts one attempt; a step takes as many as ``rtol`` asks
    for, at most ``max_attempts``. The step to the data is Euler's.

    Attributes:
        rtol: allowed error of a step, relative to the image.
        atol: allowed error of a step.
        max_attempts: of steps between two levels of the grid.
    """

    rtol: float = 1e-3
    atol: float = 1e-4
    max_attempts: int = 1000
    evaluations = 3

    def __post_init__(self):
        require(self.rtol > 0 and self.atol > 0, "sampler.rtol and atol must be positive")
        require(self.max_attempts >= 1, f"sampler.max_attempts must be at least 1, got {self.max_attempts}")

    def step(self, denoise, x, now, next, keys, state):
        first = denoise(x, now)
        integrated = jax.lax.cond(
            next.sigma > 0,
            lambda: self.integrate(denoise, x, now, next, first),
            lambda: straight(first, next),
        )
        return integrated, state

    def integrate(self, denoise, x, now, next, first):
        start, end = jnp.arctan2(now.sigma, now.alpha), jnp.arctan2(next.sigma, next.alpha)

        def slope(prediction, phi):
            return expand(jnp.cos(phi), x) * prediction.eps - expand(jnp.sin(phi), x) * prediction.x0

        def slope_at(x, phi):
            return slope(denoise(x, unscheduled_level(jnp.cos(phi), jnp.sin(phi))), phi).astype(x.dtype)

        def attempt(carry):
            x, phi, h, k1, tries = carry
            h = jnp.maximum(h, end - phi)  # both negative
            step = expand(h, x)
            k2 = slope_at(x + _NODES[0] * step * k1, phi + _NODES[0] * h)
            k3 = slope_at(x + _NODES[1] * step * k2, phi + _NODES[1] * h)
            x_new = x + step * (_THIRD[0] * k1 + _THIRD[1] * k2 + _THIRD[2] * k3)
            k4 = slope_at(x_new, phi + h)
            error = step * (_ERROR[0] * k1 + _ERROR[1] * k2 + _ERROR[2] * k3 + _ERROR[3] * k4)
            scale = self.atol + self.rtol * jnp.maximum(jnp.abs(x), jnp.abs(x_new))
            size = jnp.sqrt(jnp.mean((error / scale).reshape(len(x), -1) ** 2, axis=1))
            good = expand(size <= 1, x)
            factor = jnp.clip(0.9 * jnp.maximum(size, 1e-8) ** (-1 / 3), 0.2, 5.0)
            # A finished sample has h = 0 and stays where it is.
            done = phi <= end
            phi = jnp.where((size <= 1) | done, jnp.maximum(phi + h, end), phi)
            phi = jnp.where(phi - end < 1e-7, end, phi)
            x, k1 = jnp.where(good, x_new, x).astype(x.dtype), jnp.where(good, k4, k1)
            return x, phi, jnp.where(done, h, h * factor.astype(h.dtype)), k1, tries + 1

        def unfinished(carry):
            return jnp.any(carry[1] > end) & (carry[-1] < self.max_attempts)

        # On the circle the image is x / length.
        length = jnp.hypot(now.alpha, now.sigma)
        phi = jnp.full(len(x), start)
        h = jnp.full(len(x), (end - start) / 10)
        carry = ((x / length).astype(x.dtype), phi, h, slope(first, phi).astype(x.dtype), 0)
        x_circle = jax.lax.while_loop(unfinished, attempt, carry)[0]
        return (x_circle * jnp.hypot(next.alpha, next.sigma)).astype(x.dtype)
