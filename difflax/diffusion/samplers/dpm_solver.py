"""DPM-Solver++ (Lu et al., arXiv:2211.01095): exponential integrators of the ODE and SDE of x0 in the
half-log-SNR.

Every step is ``noisy_straight`` (exact if x0 did not change along the step) plus what x0's change adds to it,
which needs derivatives of x0: from a second evaluation (singlestep) or from earlier steps (multistep). The
step from pure noise and the step to the data, where h is infinite, are of first order.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers.base import decay, half_log_snr_step
from difflax.diffusion.samplers.brownian import step_noise
from difflax.diffusion.samplers.exponential import phi
from difflax.diffusion.schedules.base import NoiseLevel, unscheduled_level


def noisy_straight(prediction: Prediction, now: NoiseLevel, next: NoiseLevel, eta: float, path_keys) -> Array:
    """The step that is exact for a constant x0, with its share of the SDE's noise."""
    if eta == 0:
        return next.alpha * prediction.x0 + next.sigma * prediction.eps
    r = decay(now, next) ** eta
    dtype, shape = prediction.x0.dtype, prediction.x0.shape[1:]
    u, u_next = eta * now.log_snr, eta * next.log_snr
    z = step_noise(path_keys, u, u_next, shape, dtype)
    return next.alpha * prediction.x0 + next.sigma * (r * prediction.eps + jnp.sqrt((1 - r) * (1 + r)) * z)


def over(a: Float[Array, ""], b: Float[Array, ""]) -> Float[Array, ""]:
    """``a / b`` where both are finite, else 0: no such step, no such derivative."""
    finite = jnp.isfinite(a) & jnp.isfinite(b)
    return jnp.where(finite, a / jnp.where(finite, b, 1), 0)


class _Multistep:
    """Remembers the last two estimates of x0 and the steps h between them; ``inf`` marks a step not taken.

    Attributes:
        eta: strength of the SDE's noise; 0 is the ODE.
    """

    eta: float

    def __post_init__(self):
        require(self.eta >= 0, f"sampler.eta must not be negative, got {self.eta}")

    def init(self, x, keys):
        never = jnp.full((), jnp.inf, jnp.result_type(float))
        return (jnp.zeros_like(x), never), (jnp.zeros_like(x), never), keys

    def step(self, denoise, x, now, next, keys, state):
        (x0_1, h_1), (x0_2, h_2), path_keys = state
        prediction = denoise(x, now)
        h = half_log_snr_step(now, next)
        h_1 = jnp.where(next.max_order >= 2, h_1, jnp.inf)
        h_2 = jnp.where(next.max_order >= 3, h_2, jnp.inf)
        first = over(h, h_1) * (prediction.x0 - x0_1)  # h x0' to first order
        second = over(h, h_2) * (x0_1 - x0_2)
        change = self.change(h, h_1, h_2, first, second)
        x_next = noisy_straight(prediction, now, next, self.eta, path_keys) + next.alpha * change
        return x_next, ((prediction.x0, h), (x0_1, state[0][1]), path_keys)

    def change(self, h, h_1, h_2, first, second):
        """The integral of x0's change along the step, over alpha'."""
        raise NotImplementedError


def linear_weight(h: Float[Array, ""], eta: float) -> Float[Array, ""]:
    """``int_0^h (1 + eta) e^(-(1 + eta)(h - s)) (s / h) ds``: what a linear change of size 1 adds."""
    total = (1 + eta) * jnp.where(jnp.isfinite(h), h, 0)
    return total * phi(2, -total)


def quadratic_weight(h: Float[Array, ""], eta: float) -> Float[Array, ""]:
    """The same for ``(s / h)^2``."""
    total = (1 + eta) * jnp.where(jnp.isfinite(h), h, 0)
    return 2 * total * phi(3, -total)


def midpoint_weight(h: Float[Array, ""], eta: float) -> Float[Array, ""]:
    """The second-order approximation of ``linear_weight`` by the change at the middle."""
    return -jnp.expm1(-(1 + eta) * h) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver2M(_Multistep):
    """DPM-Solver++(2M), algorithm 2: second order from one evaluation a step.

    ``midpoint`` takes x0's change at the step's middle, as published; else it is integrated exactly ("heun"
    in other libraries). ``eta`` > 0 gives the 2M SDE solver.

    Attributes:
        midpoint: take x0's change at the middle, as published.
    """

    eta: float = 0.0
    midpoint: bool = True
    evaluations = 1

    def change(self, h, h_1, h_2, first, second):
        return (midpoint_weight if self.midpoint else linear_weight)(h, self.eta) * first


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver2MSDE(DPMSolver2M):
    """The SDE of 2M with eta 1 and Brownian-consistent noise (arXiv:2211.01095, section 5.2)."""

    eta: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver3M(_Multistep):
    """DPM-Solver++(3M): x0 is the parabola through the last three estimates, integrated exactly.

    The authors' code and its descendants (diffusers, k-diffusion) count the parabola's second derivative
    half, which leaves a second-order method; ``published=True`` reproduces them. ``midpoint`` is for the
    second step, where only two estimates are there.

    Attributes:
        midpoint: take x0's change at the middle, in the second step.
        published: count the curvature half, as the authors' code does.
    """

    eta: float = 0.0
    midpoint: bool = False
    published: bool = False
    evaluations = 1

    def change(self, h, h_1, h_2, first, second):
        have_three = jnp.isfinite(h_2) & jnp.isfinite(h_1)
        span = jnp.where(have_three, h_1 + h_2, 1)
        curvature = jnp.where(have_three, jnp.where(jnp.isfinite(h), h, 0) / span, 0) * (first - second)
        slope = first + jnp.where(have_three, h_1 / span, 0) * (first - second)
        two = (midpoint_weight if self.midpoint else linear_weight)(h, self.eta) * first
        three = linear_weight(h, self.eta) * slope + self.curvature_weight(h) * curvature
        return jnp.where(have_three, three, two)

    def curvature_weight(self, h: Float[Array, ""]) -> Float[Array, ""]:
        """Of the parabola's curvature."""
        return quadratic_weight(h, self.eta) / (2 if self.published else 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver3MSDE(DPMSolver3M):
    """The SDE of 3M with eta 1 and Brownian-consistent noise."""

    eta: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver2S:
    """DPM-Solver++(2S), algorithm 1: second order from a second evaluation at ``fraction`` of the step in
    log-SNR.

    ``eta`` > 0 gives DPM-Solver++ SDE (k-diffusion's ``dpmpp_sde``).

    Attributes:
        fraction: of the step, in log-SNR, where the second evaluation is.
        eta: strength of the SDE's noise; 0 is the ODE.
    """

    fraction: float = 0.5
    eta: float = 0.0
    evaluations = 2

    def __post_init__(self):
        require(0 < self.fraction <= 1, f"sampler.fraction must lie in (0, 1], got {self.fraction}")
        require(self.eta >= 0, f"sampler.eta must not be negative, got {self.eta}")

    def init(self, x, keys):
        return keys

    def step(self, denoise, x, now, next, keys, state):
        prediction = denoise(x, now)
        middle = between_log_snr(now, next, self.fraction)
        x_middle = noisy_straight(prediction, now, middle, self.eta, state)
        inside = (now.alpha > 0) & (next.sigma > 0)
        second = denoise.when(inside, x_middle, middle, otherwise=prediction)
        weight = -jnp.expm1(-(1 + self.eta) * half_log_snr_step(now, next)) / (2 * self.fraction)
        change = weight * (second.x0 - prediction.x0)
        return noisy_straight(prediction, now, next, self.eta, state) + next.alpha * change, state


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverSDE(DPMSolver2S):
    """DPM-Solver++ SDE: 2S with eta 1 and Brownian-consistent noise."""

    eta: float = 1.0


def between_log_snr(now: NoiseLevel, next: NoiseLevel, fraction: float) -> NoiseLevel:
    """The level at ``fraction`` of the step in log-SNR; alpha and sigma interpolated in logarithms.

    Where the step starts or ends at an infinite log-SNR there is no such level, and the answer is ``now``.
    """
    inside = (now.alpha > 0) & (next.sigma > 0)
    mix = lambda a, b: jnp.where(inside, a ** (1 - fraction) * b**fraction, a)  # noqa: E731
    return unscheduled_level(mix(now.alpha, next.alpha), mix(now.sigma, next.sigma))
