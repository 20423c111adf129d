"""DPM-Solver++ over blocks of steps (Lu et al., arXiv:2211.01095, appendix; DPM-Solver, arXiv:2206.00927,
algorithms 1 and 2 with its times on a grid).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.samplers.base import half_log_snr_step
from difflax.diffusion.samplers.dpm_solver import (
    linear_weight,
    midpoint_weight,
    noisy_straight,
    over,
    quadratic_weight,
)
from difflax.diffusion.schedules.base import NoiseLevel, unscheduled_level


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPMSolverSinglestep:
    """Blocks of ``order`` steps, each step of a block from the block's start, of order 1, 2, … up to it.

    Every step evaluates the network once, so a block costs what a singlestep solver costs whose middle
    evaluations lie on the grid. What a step knows beyond its block's start is x0 at the steps before it.
    Blocks begin with the run, so one whose steps leave a single one over ends with a step of first order:
    with ``order`` 3 such a run converges with order 2.

    Attributes:
        order: steps of a block, 1 to 3.
        midpoint: as published, of the differences of x0 only those that the highest order needs; else the
            polynomial through all of them, integrated exactly.
        eta: strength of the SDE's noise; 0 is the ODE.
    """

    order: int = 2
    midpoint: bool = True
    eta: float = 0.0
    evaluations = 1

    def __post_init__(self):
        require(self.order in (1, 2, 3), f"sampler.order must be 1, 2 or 3, got {self.order}")
        require(self.eta >= 0, f"sampler.eta must not be negative, got {self.eta}")

    def init(self, x, keys):
        one = jnp.ones((), jnp.result_type(float))
        # The block's start: its prediction and level; x0 and the level of the step before; how many steps.
        start = (jnp.zeros_like(x), jnp.zeros_like(x), one, one)
        return start, (jnp.zeros_like(x), one, one), jnp.zeros((), int), keys

    def step(self, denoise, x, now, next, keys, state):
        start, before, count, path_keys = state
        prediction = denoise(x, now)
        planned = count % self.order + 1 if next.plan is None or next.plan.order is None else next.plan.order
        order = jnp.minimum(planned, count + 1)
        # From pure noise and to the data a step is of first order.
        order = jnp.where((start[2] > 0) & (next.sigma > 0), order, 1)
        begins = order == 1
        fresh = (prediction.x0, prediction.eps, now.alpha, now.sigma)
        x0, eps, alpha, sigma = (jnp.where(begins, a, b) for a, b in zip(fresh, start, strict=True))
        level = unscheduled_level(alpha, sigma)
        h = half_log_snr_step(level, next)
        last = over(h, half_log_snr_step(level, now)) * (prediction.x0 - x0)
        middle = over(h, half_log_snr_step(level, unscheduled_level(*before[1:]))) * (before[0] - x0)
        change = jnp.where(order >= 3, self.third(h, level, now, before, last, middle), self.second(h, last))
        change = jnp.where(begins, 0, change)
        made = noisy_straight(Prediction(x0, eps), level, next, self.eta, path_keys) + next.alpha * change
        kept = (prediction.x0, now.alpha, now.sigma)
        return made, ((x0, eps, alpha, sigma), kept, count + 1, path_keys)

    def second(self, h: Float[Array, ""], last: Array) -> Array:
        """What x0's change adds to a step of length h from the block's start, over alpha'.

        Args:
            last: h times the slope of x0 from the block's start to now.
        """
        return (midpoint_weight if self.midpoint else linear_weight)(h, self.eta) * last

    def third(
        self, h: Array, start: NoiseLevel, now: NoiseLevel, before: tuple, last: Array, middle: Array
    ) -> Array:
        """The same from two differences.

        Args:
            middle: h times the slope of x0 from the block's start to the step before now.
        """
        if self.midpoint:
            return linear_weight(h, self.eta) * last
        r_now = half_log_snr_step(start, now) / h
        r_before = half_log_snr_step(start, unscheduled_level(*before[1:])) / h
        spread = jnp.where(r_now == r_before, 1, r_now - r_before)
        slope = (r_now * middle - r_before * last) / spread
        curvature = 2 * (last - middle) / spread
        return linear_weight(h, self.eta) * slope + quadratic_weight(h, self.eta) / 2 * curvature
