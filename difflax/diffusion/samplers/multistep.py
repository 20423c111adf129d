"""Adams-Bashforth methods on the noise: LMS, DEIS, and PNDM's constant coefficients (PLMS).

In ``rho = sigma / alpha`` the probability-flow ODE is ``d(x / alpha) / d rho = eps``, so with eps
extrapolated by a polynomial through earlier steps, ``x' = DDIM + alpha' sum_j c_j (eps_j - eps_0)``. The step
from pure noise, where rho is infinite, is DDIM's, and its eps is not remembered; the step to the data is
DDIM's but for LMS, whose polynomial in rho reaches to 0.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import Segment, decay, straight
from difflax.diffusion.samplers.dpm_solver import between_log_snr
from difflax.diffusion.samplers.exponential import ramped_weights


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
        weights = self.weights(nodes, jnp.minimum(count, self.order - 1) + 1, share)[1:]
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
    """

    def init(self, x, keys):
        return jnp.zeros((3, *x.shape), x.dtype), jnp.zeros((), int)

    def step(self, denoise, x, now, next, keys, state):
        noises, count = state
        prediction = denoise(x, now)
        inside = (now.alpha > 0) & (next.sigma > 0)
        warming = inside & (count < self.warm_steps)
        noise = self.warm_noise(denoise, x, now, next, prediction, warming)
        row = jnp.asarray(_PLMS, x.dtype)[jnp.clip(count, 0, 3)]
        extrapolated = row[0] * prediction.eps + jnp.tensordot(row[1:], noises, 1)
        noise = jnp.where(warming, noise, extrapolated)
        step = next.sigma - now.sigma * next.alpha / jnp.where(now.alpha > 0, now.alpha, 1)
        change = jnp.where(inside, step, 0) * (noise - prediction.eps)
        kept = jnp.concatenate([prediction.eps[None], noises])[:3]
        return straight(prediction, next) + change, (kept, jnp.where(now.alpha > 0, count + 1, count))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PLMS(_Pseudo):
    """PNDM without Runge-Kutta steps, as Stable Diffusion uses it: the first step is Heun's.

    Liu et al., arXiv:2202.09778; CompVis ``plms.py``. Second order in general: its coefficients assume equal
    steps of the ODE's own variable, which no schedule has.
    """

    evaluations = 1
    warm_steps = 1

    def warm_noise(self, denoise, x, now, next, prediction, warming):
        second = denoise.when(warming, straight(prediction, next), next, otherwise=prediction)
        return (prediction.eps + second.eps) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class PNDM(_Pseudo):
    """PNDM: three pseudo Runge-Kutta steps (four evaluations each, the middle in log-SNR), then PLMS."""

    evaluations = 1
    warm_steps = 3

    def warm_noise(self, denoise, x, now, next, prediction, warming):
        middle = between_log_snr(now, next, 0.5)
        to_middle, to_next = Segment(now, middle), Segment(now, next)
        e1 = prediction
        e2 = denoise.when(warming, to_middle.transfer(x, e1.eps), middle, otherwise=e1)
        e3 = denoise.when(warming, to_middle.transfer(x, e2.eps), middle, otherwise=e1)
        e4 = denoise.when(warming, to_next.transfer(x, e3.eps), next, otherwise=e1)
        return (e1.eps + 2 * e2.eps + 2 * e3.eps + e4.eps) / 6
