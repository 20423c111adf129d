"""Adams-Bashforth methods on the noise: LMS, DEIS, and PNDM's constant coefficients (PLMS).

In ``rho = sigma / alpha`` the probability-flow ODE is ``d(x / alpha) / d rho = eps``, so with eps
extrapolated by a polynomial through earlier steps, ``x' = DDIM + alpha' sum_j c_j (eps_j - eps_0)``. The step
from pure noise, where rho is infinite, is DDIM's, and its eps is not remembered; the step to the data is
DDIM's but for LMS, whose polynomial in rho reaches to 0.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers.base import Segment, decay, straight
from difflax.diffusion.samplers.dpm_solver import between_log_snr
from difflax.diffusion.samplers.exponential import ramped_weights
from difflax.diffusion.schedules.base import NoiseLevel


class _AdamsBashforth:
    """Remembers ``order - 1`` noises, the log ratio ``log rho`` at each, and how many there are."""

    order: int
    reaches_data = False

    def init(self, x, keys):
        past = self.order - 1
        return (
            jnp.zeros((past, *x.shape), x.dtype),
            jnp.zeros(past, jnp.result_type(float)),
            jnp.zeros((), int),
        )

    def step(self, denoise, x, now, next, keys, state):
        noises, log_rhos, count = state
        prediction = denoise(x, now)
        inside = (now.alpha > 0) & ((next.sigma > 0) | self.reaches_data)
        log_rho = jnp.where(now.alpha > 0, -now.log_snr / 2, 0)
        share = jnp.where(inside, decay(now, next), 0.5)  # rho at the end, in units of rho now
        # Distances in log rho, the latest first; rho is measured in units of its value now.
        nodes = jnp.concatenate([jnp.zeros(1, log_rhos.dtype), log_rhos - log_rho])
        available = jnp.minimum(jnp.minimum(count, self.order - 1) + 1, next.max_order).astype(int)
        weights = self.weights(nodes, available, share)[1:]
        scale = next.alpha * now.sigma / jnp.where(now.alpha > 0, now.alpha, 1)
        weights = jnp.where(inside, scale * weights, 0).astype(x.dtype)
        change = jnp.tensordot(weights, noises - prediction.eps, 1) if self.order > 1 else 0
        kept = jnp.concatenate([prediction.eps[None], noises])[: self.order - 1]
        log_rhos = jnp.concatenate([log_rho[None], log_rhos])[: self.order - 1]
        count = jnp.where(now.alpha > 0, count + 1, count)
        return straight(prediction, next) + change, (kept, log_rhos, count)

    def weights(self, nodes, available, share) -> Float[Array, " k"]:
        """``int eps-polynomial d rho`` from 1 to ``share``, rho in units of rho now."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, kw_only=True)
class LMS(_AdamsBashforth):
    """Linear multistep: a polynomial in rho (Katherine Crowson, k-diffusion; order 4).

    Attributes:
        order: steps that the polynomial goes through, 1 to 4.
    """

    order: int = 4
    evaluations = 1
    reaches_data = True

    def __post_init__(self):
        require(1 <= self.order <= 4, f"sampler.order must lie in 1..4, got {self.order}")

    def weights(self, nodes, available, share):
        return ramped_weights(jnp.exp(nodes), available, 1.0, share, jnp.ones_like)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DEIS(_AdamsBashforth):
    """DEIS, log-rho AB: a polynomial in log rho (Zhang & Chen, arXiv:2204.13902, eq. 15 and appendix H).

    Attributes:
        order: steps that the polynomial goes through, 1 to 4.
    """

    order: int = 3
    evaluations = 1

    def __post_init__(self):
        require(1 <= self.order <= 4, f"sampler.order must lie in 1..4, got {self.order}")

    def weights(self, nodes, available, share):
        return ramped_weights(nodes, available, 0.0, jnp.log(share), jnp.exp)


_PLMS = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


class _Pseudo:
    """The constant Adams-Bashforth coefficients of equal time steps, moved by DDIM's transfer (eq. 11 and
    12).

    Attributes:
        extrapolates: what the coefficients are for: the noise, as published, or v.
        reaches_data: also in the step to the data; else that is DDIM's.
    """

    extrapolates: Literal["eps", "v"]
    reaches_data: bool

    def init(self, x, keys):
        return jnp.zeros((3, *x.shape), x.dtype), jnp.zeros((), int)

    def step(self, denoise, x, now, next, keys, state):
        outputs, count = state
        prediction = denoise(x, now)
        inside = (now.alpha > 0) & ((next.sigma > 0) | self.reaches_data) & (next.max_order > 1)
        warming = inside & (next.sigma > 0) & (count < self.warm_steps)
        out = self.output(prediction, now)
        row = jnp.asarray(_PLMS, x.dtype)[jnp.clip(count, 0, 3)]
        extrapolated = row[0] * out + jnp.tensordot(row[1:], outputs, 1)
        start, warm = self.warm(denoise, x, now, next, prediction, warming)
        usual = self.moved(x, now, next.landed, extrapolated)
        x_next = jnp.where(warming, self.moved(x, start, next, warm), usual)
        x_next = jnp.where(inside, x_next, straight(prediction, next.landed))
        kept = jnp.concatenate([out[None], outputs])[:3]
        return x_next, (kept, jnp.where(now.alpha > 0, count + 1, count))

    def output(self, prediction: Prediction, level: NoiseLevel) -> Array:
        """What is extrapolated, of a prediction at ``level``."""
        return _OUTPUTS[self.extrapolates](prediction, *_unit(level)[:2])

    def moved(self, x: Array, start: NoiseLevel, end: NoiseLevel, out: Array) -> Array:
        """``x`` from one level to another by an output that is not its own; needs alpha > 0."""
        alpha, sigma, length = _unit(start)
        eps = _NOISES[self.extrapolates](out, x / length, alpha, sigma)
        return Segment(start, end).transfer(x, eps)


_OUTPUTS = {
    "eps": lambda prediction, alpha, sigma: prediction.eps,
    "v": lambda prediction, alpha, sigma: alpha * prediction.eps - sigma * prediction.x0,
}
_NOISES = {
    "eps": lambda out, x, alpha, sigma: out,
    "v": lambda out, x, alpha, sigma: alpha * out + sigma * x,
}
"""The noise that an output says of the image ``x`` of unit length."""


def _unit(level: NoiseLevel) -> tuple[Array, Array, Array]:
    """``alpha`` and ``sigma`` over their length, and the length."""
    length = jnp.hypot(level.alpha, level.sigma)
    return level.alpha / length, level.sigma / length, length


@dataclasses.dataclass(frozen=True, kw_only=True)
class PLMS(_Pseudo):
    """PNDM without Runge-Kutta steps, as Stable Diffusion uses it: the first step is Heun's.

    Liu et al., arXiv:2202.09778; CompVis ``plms.py``. Second order in general: its coefficients assume equal
    steps of the ODE's own variable, which no schedule has.
    """

    extrapolates: Literal["eps", "v"] = "eps"
    reaches_data: bool = False
    evaluations = 1
    warm_steps = 1

    def warm(self, denoise, x, now, next, prediction, warming):
        second = denoise.when(warming, straight(prediction, next.landed), next, otherwise=prediction)
        start = now if next.plan is None or next.plan.via is None else next.plan.via
        return start, (self.output(prediction, now) + self.output(second, next)) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDM(_Pseudo):
    """PNDM: three pseudo Runge-Kutta steps (four evaluations each, the middle in log-SNR), then PLMS."""

    extrapolates: Literal["eps", "v"] = "eps"
    reaches_data: bool = False
    evaluations = 1
    warm_steps = 3

    def warm(self, denoise, x, now, next, prediction, warming):
        planned = next.plan is not None and next.plan.via is not None
        middle = next.plan.via if planned else between_log_snr(now, next, 0.5)
        e1 = self.output(prediction, now)
        x1 = self.moved(x, now, next.landed if planned else middle, e1)
        e2 = self.output(denoise.when(warming, x1, middle, otherwise=prediction), middle)
        x2 = self.moved(x, now, middle, e2)
        e3 = self.output(denoise.when(warming, x2, middle, otherwise=prediction), middle)
        x3 = self.moved(x, now, next, e3)
        e4 = self.output(denoise.when(warming, x3, next, otherwise=prediction), next)
        return now, (e1 + 2 * e2 + 2 * e3 + e4) / 6
