"""UniPC (Zhao et al., arXiv:2302.04867): a predictor and a corrector that shares its evaluation, in x0."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import half_log_snr_step, straight
from difflax.diffusion.samplers.exponential import phi

B_H: dict[str, Callable[[Float[Array, ""]], Float[Array, ""]]] = {
    "bh1": lambda h: -h,
    "bh2": lambda h: jnp.expm1(-h),
}
"""The paper's ``B(h)`` of each variant, for x0."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniPC:
    """UniPC-p with ``B(h)`` of ``variant`` (algorithms 5 and 7): order p + 1 with the corrector, one
    evaluation a step.

    The evaluation at a step's start first corrects the step before it, then predicts the next one.

    Attributes:
        order: p of the predictor, 1 to 3.
        variant: which ``B(h)``.
        corrector: whether the corrector runs.
    """

    order: int = 2
    variant: Literal["bh1", "bh2"] = "bh2"
    corrector: bool = True
    evaluations = 1

    def __post_init__(self):
        require(self.order in (1, 2, 3), f"sampler.order must be 1, 2 or 3, got {self.order}")

    def init(self, x, keys):
        past = jnp.zeros((self.order, *x.shape), x.dtype)
        zero = jnp.zeros((), jnp.result_type(float))
        # Past estimates and their half-log-SNR, how many there are, and the last step: its start, its
        # first-order part, alpha at its end, h, and the order it was taken with.
        last = (jnp.zeros_like(x), zero, jnp.full_like(zero, jnp.inf), jnp.zeros((), int))
        return past, jnp.zeros(self.order, zero.dtype), jnp.zeros((), int), last

    def step(self, denoise, x, now, next, keys, state):
        past, lams, count, (first_order, alpha, h_last, order_last) = state
        prediction = denoise(x, now)
        if self.corrector:
            change = self.change(past, lams, order_last, h_last, current=prediction.x0)
            corrected = first_order + (alpha * change).astype(x.dtype)
            allowed = True if now.plan is None or now.plan.corrector is None else now.plan.corrector > 0
            shift = jnp.where((order_last > 0) & jnp.isfinite(h_last) & allowed, corrected - x, 0)
        else:
            shift = jnp.zeros_like(x)
        # From pure noise there is no past to extrapolate: its half-log-SNR is -inf.
        usable = now.alpha > 0
        lam = jnp.where(usable, now.log_snr / 2, 0)
        past = jnp.concatenate([prediction.x0[None], past])[: self.order]
        lams = jnp.concatenate([lam[None], lams])[: self.order]
        count = jnp.where(usable, jnp.minimum(count + 1, self.order), 0)
        h = half_log_snr_step(now, next)
        order = jnp.where(jnp.isfinite(h), jnp.clip(count, 1, next.max_order), 1).astype(int)
        base = straight(prediction, next) + (next.sigma / now.sigma) * shift
        change = jnp.where(jnp.isfinite(h), self.change(past, lams, order, h, current=None), 0)
        order = jnp.where(usable, order, 0)
        x_next = (base + next.alpha * change).astype(x.dtype)
        return x_next, (past, lams, count, (base.astype(x.dtype), next.alpha, h, order))

    def change(self, past: Array, lams: Array, order: Array, h: Array, current: Array | None) -> Array:
        """The part of a step beyond first order, over alpha'; with ``current``, x0 at its end, the
        corrector's.
        """
        h = jnp.where(jnp.isfinite(h), h, 1)
        options = [self._change(past, lams, p, h, current) for p in range(1, self.order + 1)]
        return jnp.stack(options)[jnp.clip(order - 1, 0, self.order - 1)]

    def _change(
        self, past: Array, lams: Array, order: int, h: Float[Array, ""], current: Array | None
    ) -> Array:
        b_h = B_H[self.variant](h)
        ratios = [(lams[i] - lams[0]) / h for i in range(1, order)]
        # Slots of the past that are not filled yet: their result is not selected, but must not be NaN.
        ratios = [jnp.where(r == 0, -(i + 1.0), r) for i, r in enumerate(ratios)]
        differences = [(past[i + 1] - past[0]) / r for i, r in enumerate(ratios)]
        if current is not None:
            ratios, differences = [*ratios, jnp.ones_like(h)], [*differences, current - past[0]]
        if not ratios:
            return jnp.zeros_like(past[0])
        count = len(ratios)
        if count == 1:
            rhos = jnp.full(1, 0.5, h.dtype)
        else:
            matrix = jnp.stack([jnp.stack(ratios) ** k for k in range(count)])
            # h phi_(k + 1) k!: the paper's b, in a form that keeps its digits for small h.
            right = [-h * phi(k + 1, -h) * math.factorial(k) / b_h for k in range(1, count + 1)]
            rhos = jnp.linalg.solve(matrix, jnp.stack(right))
        weights = (-b_h * rhos).astype(past.dtype)
        return jnp.tensordot(weights, jnp.stack(differences), 1)
