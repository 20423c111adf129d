"""Noise levels, the forward process, and what a noise schedule is.

The forward process of every model here is

    x_t = alpha(t) x0 + sigma(t) eps,     eps ~ N(0, I),     t = 0: data,  t = 1: noise,

and a schedule is no more than ``t -> (alpha, sigma)`` and the inverse of its strictly decreasing

    log_snr(t) = log(alpha^2 / sigma^2).

Everything else (what the network predicts, which t it trains on, which t are sampled at, how much each t
counts) lives elsewhere. Time is computed in float32, or in float64 under ``jax_enable_x64``, whatever the
network uses.
"""

from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped


@flax.struct.dataclass
class StepPlan:
    """What a checkpoint's own scheduler fixes about one step, beside where it starts and ends.

    A level carries the plan of the step that ends there; only `shown` is of the level itself. ``None``: the
    sampler's own way.

    Attributes:
        shown: the time that the network is told at this level, where the scheduler rounds it.
        order: the highest order that the step is taken with; 0 is no step: the image at the level before is
            taken for one at this level.
        corrector: 1 where the step is corrected afterwards, 0 where it is not.
        tau: the strength of a stochastic step's noise.
        landing: the level that the step is made for, where the next one starts as if from another.
        via: the level of the step's second evaluation.
    """

    shown: Float[Array, "*n"] | None = None
    order: Float[Array, "*n"] | None = None
    corrector: Float[Array, "*n"] | None = None
    tau: Float[Array, "*n"] | None = None
    landing: "NoiseLevel | None" = None
    via: "NoiseLevel | None" = None


@flax.struct.dataclass
class NoiseLevel:
    """One point of the forward process, or an array of them.

    Attributes:
        t: time; NaN where the level did not come from a schedule, in which case the denoiser finds the time
            of its own schedule from the log-SNR.
        alpha: signal scale, >= 0.
        sigma: noise scale, >= 0.
        alpha_dot: d alpha / dt.
        sigma_dot: d sigma / dt.
        plan: of the step that ends at this level, where a checkpoint's scheduler makes one.
    """

    t: Float[Array, "*n"]
    alpha: Float[Array, "*n"]
    sigma: Float[Array, "*n"]
    alpha_dot: Float[Array, "*n"]
    sigma_dot: Float[Array, "*n"]
    plan: StepPlan | None = None

    @property
    def shown(self) -> Float[Array, "*n"]:
        """The time that a network is told at this level."""
        return self.t if self.plan is None or self.plan.shown is None else self.plan.shown

    @property
    def landed(self) -> "NoiseLevel":
        """The level that the step ending here is made for."""
        return self if self.plan is None or self.plan.landing is None else self.plan.landing

    @property
    def max_order(self) -> Float[Array, "*n"] | float:
        """The highest order of the step ending here."""
        return float("inf") if self.plan is None or self.plan.order is None else self.plan.order

    @property
    def log_snr(self) -> Float[Array, "*n"]:
        """``log(alpha^2 / sigma^2)``: +inf at the data, -inf where no signal is left."""
        return 2.0 * (jnp.log(self.alpha) - jnp.log(self.sigma))

    def __getitem__(self, index) -> "NoiseLevel":
        return jax.tree.map(lambda a: a[index], self)


@runtime_checkable
class NoiseSchedule(Protocol):
    """``t -> (alpha, sigma)`` and the inverse of its log-SNR; implementations are frozen dataclasses."""

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        """Signal and noise scale at time ``t``."""
        ...

    def t_from_log_snr(self, log_snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        """The time whose log-SNR is ``log_snr``."""
        ...


def as_time(t) -> Float[Array, "*n"]:
    """``t`` in the precision of all time arithmetic: float32, float64 under x64."""
    return jnp.asarray(t, jnp.result_type(float))


def noise_level(schedule: NoiseSchedule, t) -> NoiseLevel:
    """The level of ``schedule`` at time ``t`` (a number or an array of any shape), derivatives included."""
    t = as_time(t)
    (alpha, sigma), (alpha_dot, sigma_dot) = jax.jvp(schedule.alpha_sigma, (t,), (jnp.ones_like(t),))
    return NoiseLevel(t, alpha, sigma, alpha_dot, sigma_dot)


def log_snr(schedule: NoiseSchedule, t) -> Float[Array, "*n"]:
    """``log(alpha^2 / sigma^2)`` at time ``t``."""
    alpha, sigma = schedule.alpha_sigma(as_time(t))
    return 2.0 * (jnp.log(alpha) - jnp.log(sigma))


def unscheduled_level(alpha, sigma) -> NoiseLevel:
    """A level that came from no schedule (see ``NoiseLevel.t``): between two grid points, or of another
    path.
    """
    alpha, sigma = as_time(alpha), as_time(sigma)
    unknown = jnp.full_like(alpha, jnp.nan)
    return NoiseLevel(unknown, alpha, sigma, unknown, unknown)


def expand(a: Shaped[Array, "*n"], x: Float[Array, "..."]) -> Shaped[Array, "..."]:
    """``a`` (one number, or one an example) with trailing axes of size 1 to broadcast against ``x``."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def add_noise(x0: Float[Array, "..."], eps: Float[Array, "..."], level: NoiseLevel) -> Float[Array, "..."]:
    """The forward process ``x_t = alpha x0 + sigma eps``; ``level`` is one level or one an example."""
    return (expand(level.alpha, x0) * x0 + expand(level.sigma, x0) * eps).astype(x0.dtype)
