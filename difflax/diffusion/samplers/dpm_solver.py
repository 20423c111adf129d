"""DPM-Solver++ (Lu et al., arXiv:2211.01095): exponential integrators of the ODE of x0 in the
half-log-SNR.
"""

import dataclasses

import jax.numpy as jnp

from difflax.diffusion.samplers.base import decay, half_log_snr_step, straight


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolver2M:
    """DPM-Solver++(2M), algorithm 2: second order from one evaluation a step and the memory of the last.

    The step extrapolates x0 to the step's middle: ``x' = DDIM + alpha' (1 - e^-h) h / (2 h_prev) (x0 -
    x0_prev)``. The first step and the step to the data, where h is infinite, are DDIM's.
    """

    evaluations = 1

    def init(self, x, keys):
        return jnp.zeros_like(x), jnp.full((), jnp.inf, jnp.result_type(float))

    def step(self, denoise, x, now, next, keys, state):
        x0_before, h_before = state
        prediction = denoise(x, now)
        h = half_log_snr_step(now, next)
        weight = jnp.where(jnp.isfinite(h), h / (2 * h_before), 0)
        correction = next.alpha * (1 - decay(now, next)) * weight * (prediction.x0 - x0_before)
        return straight(prediction, next) + correction, (prediction.x0, h)
