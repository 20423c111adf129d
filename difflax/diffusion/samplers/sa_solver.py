"""SA-Solver: stochastic Adams methods for the diffusion SDE (Xue et al., arXiv:2309.05019)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.streams import normal
from difflax.diffusion.checks import require
from difflax.diffusion.samplers.base import half_log_snr_step, straight
from difflax.diffusion.samplers.exponential import ramped_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class SASolver:
    """Predictor and corrector of the SDE of strength ``eta = tau^2``, in x0 (eq. 14 and 17, algorithm 1).

    A step is ``(sigma' / sigma) e^(-tau^2 h) x + alpha' int k e^(-k (h - s)) x0(s) ds + sigma' sqrt(1 -
    e^(-2 tau^2 h)) z`` with ``k = 1 + tau^2`` and x0 the polynomial through earlier estimates. The evaluation
    at a step's start first corrects the step before it, under the noise that it was made with.

    Attributes:
        predictor_order, corrector_order: estimates that the polynomials go through, 1 to 3.
        tau: strength of the noise; 0 is the ODE.
        published: integrate a linear change as the authors' code does, by ``k h^2 / 2`` in place of the
            exact weight.
    """

    predictor_order: int = 2
    corrector_order: int = 2
    tau: float = 1.0
    published: bool = False
    evaluations = 1

    def __post_init__(self):
        for name in ("predictor_order", "corrector_order"):
            require(getattr(self, name) in (1, 2, 3), f"sampler.{name} must be 1, 2 or 3")
        require(self.tau >= 0, f"sampler.tau must not be negative, got {self.tau}")

    @property
    def _kept(self) -> int:
        return max(self.predictor_order, self.corrector_order - 1)

    def init(self, x, keys):
        zero = jnp.zeros((), jnp.result_type(float))
        # The step before: the part of it that does not depend on estimates, alpha at its end, h, tau.
        last = (jnp.zeros_like(x), zero, zero, zero)
        past = jnp.zeros((self._kept, *x.shape), x.dtype)
        return past, jnp.zeros(self._kept, zero.dtype), jnp.zeros((), int), last

    def step(self, denoise, x, now, next, keys, state):
        past, lams, count, (fixed, alpha, h_last, tau_last) = state
        prediction = denoise(x, now)
        lam = jnp.where(now.alpha > 0, now.log_snr / 2, 0)
        # Distances in lam from the start of the step that is corrected.
        nodes = jnp.concatenate([h_last[None], lams - lams[0]])[: self.corrector_order]
        estimates = jnp.concatenate([prediction.x0[None], past])[: self.corrector_order]
        available = jnp.minimum(count + 1, self.corrector_order)
        corrected = fixed + (alpha * self.integral(nodes, estimates, available, h_last, tau_last)).astype(
            x.dtype
        )
        x = jnp.where(count > 0, corrected, x)

        past = jnp.concatenate([prediction.x0[None], past])[: self._kept]
        lams = jnp.concatenate([lam[None], lams])[: self._kept]
        count = jnp.where(now.alpha > 0, jnp.minimum(count + 1, self._kept), 0)
        tau = jnp.asarray(
            self.tau if next.plan is None or next.plan.tau is None else next.plan.tau, lam.dtype
        )
        h = half_log_snr_step(now, next)
        inside = jnp.isfinite(h)
        h = jnp.where(inside, h, 1)
        z = normal(keys, x.shape[1:], x.dtype)
        kept = (next.sigma / now.sigma) * jnp.exp(-(tau**2) * h)
        noise = next.sigma * jnp.sqrt(-jnp.expm1(-2 * tau**2 * h))
        fixed = (kept * x + noise * z).astype(x.dtype)
        order = jnp.minimum(jnp.clip(count, 1, self.predictor_order), next.max_order).astype(int)
        change = self.integral(
            lams[: self.predictor_order] - lam, past[: self.predictor_order], order, h, tau
        )
        made = jnp.where(inside, fixed + (next.alpha * change).astype(x.dtype), straight(prediction, next))
        count = jnp.where(inside, count, 0)
        return made, (past, lams, count, (fixed, next.alpha, h, tau))

    def integral(
        self,
        nodes: Float[Array, " k"],
        estimates: Float[Array, "k ..."],
        available: Array,
        h: Float[Array, ""],
        tau: Float[Array, ""],
    ) -> Array:
        """``int_0^h k e^(-k (h - s)) x0(s) ds`` of a polynomial through ``available`` of the estimates."""
        k = 1 + tau**2
        weights = ramped_weights(nodes, available, 0.0, h, lambda s: k * jnp.exp(-k * (h - s)))
        if self.published and len(nodes) > 1:
            total = -jnp.expm1(-k * h)
            # The polynomial's slope is that between the two nodes, and starts at the step's start.
            width = nodes[0] - nodes[1]
            slope = jnp.where(width != 0, k * h**2 / 2 / jnp.where(width != 0, width, 1), 0)
            at_start = jnp.where(nodes[0] == 0, 0, 1)
            pair = jnp.stack([(1 - at_start) * total + slope, at_start * total - slope])
            pair = jnp.concatenate([pair, jnp.zeros(len(nodes) - 2, pair.dtype)])
            weights = jnp.where(available == 2, pair, weights)
        return jnp.tensordot(weights.astype(estimates.dtype), estimates, 1)
