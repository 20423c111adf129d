"""What a sampler is, and the one loop that runs every sampler.

A sampler sees a denoiser and noise levels, nothing else. It steps with the pair ``(x0, eps)`` that the
denoiser returns; most steps are the exact move along the straight line through that pair,

    x' = alpha' x0 + sigma' eps                                                            (DDIM, eta = 0)

plus a correction. In this form a step is finite where no signal is left (alpha = 0) and lands exactly on x0
at the data (sigma' = 0).
"""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from difflax.core.streams import normal
from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Denoiser, MemoryDenoiser, with_memory
from difflax.diffusion.predictions import Prediction
from difflax.diffusion.schedules.base import NoiseLevel, unscheduled_level


class BoundDenoiser:
    """``denoise(x, level)`` during one step: the conditioning and the memory of guidance already in it.

    Memory advances once a step: all evaluations of a step start from the memory that the step began with, and
    the first one's is kept. So within a step the guided denoiser is one fixed function, as a solver of higher
    order needs it.
    """

    def __init__(self, denoise: MemoryDenoiser, conditioning: Any, memory: Any):
        self._denoise, self._conditioning, self._before = denoise, conditioning, memory
        self.first: Prediction | None = None
        self.memory = memory

    def __call__(self, x: Array, level: NoiseLevel) -> Prediction:
        """The prediction at ``x``."""
        outcome = self._denoise.advance(x, level, self._conditioning, self._before)
        if self.first is None:
            self.first, self.memory = outcome.guided, outcome.memory
        return jax.tree.map(lambda a: a.astype(x.dtype), outcome.guided)

    def when(self, needed: Array, x: Array, level: NoiseLevel, otherwise: Prediction) -> Prediction:
        """The prediction at ``x`` where the scalar ``needed`` holds, else ``otherwise``, without
        evaluating.
        """
        if self.first is None:
            raise RuntimeError("the first evaluation of a step cannot be conditional")
        return jax.lax.cond(needed, lambda: self(x, level), lambda: otherwise)


@runtime_checkable
class Sampler(Protocol):
    """One step from a noise level to a lower one; implementations are frozen dataclasses.

    ``evaluations`` is the number of network evaluations a step.
    """

    evaluations: int

    def init(self, x: Float[Array, "b ..."], keys: Key[Array, " b"]) -> Any:
        """The state before the first step; ``keys`` for randomness that spans steps."""
        ...

    def step(
        self,
        denoise: BoundDenoiser,
        x: Array,
        now: NoiseLevel,
        next: NoiseLevel,
        keys: Key[Array, " b"],
        state: Any,
    ) -> tuple[Array, Any]:
        """``x`` at ``now`` to x at ``next``; ``keys`` are this step's, one a sample."""
        ...


class Stateless:
    """A sampler that keeps nothing from step to step."""

    def init(self, x: Float[Array, "b ..."], keys: Key[Array, " b"]) -> tuple[()]:
        return ()


def sample(
    denoise: Denoiser,
    sampler: Sampler,
    levels: NoiseLevel,
    x_init: Float[Array, "b ..."],
    keys: Key[Array, " b"],
    *,
    conditioning: Any,
    return_trajectory: bool = False,
) -> Array | tuple[Array, Array]:
    """Runs ``sampler`` down ``levels`` in one scan.

    Args:
        denoise: a denoiser, guided or not.
        sampler: static settings.
        levels: ``[n + 1]`` levels from ``sampling_levels``. A level that repeats its predecessor costs
            nothing (``pad_levels``), nor does one whose `StepPlan` has order 0. A level noisier than its
            predecessor is a jump back by the exact forward process (``restart_levels``,
            ``repaint_levels``), after which the sampler and guidance start afresh.
        x_init: ``[b, ...]`` at ``levels[0]``; from pure noise ``sigma * normal`` (``initial_noise``).
        keys: one a sample. A sample depends on its own key, not on the batch around it.
        conditioning: what ``denoise`` takes, ``Guided`` under a guidance.
        return_trajectory: also return the estimate of x0 that every step made, ``[n, b, ...]``.

    Returns:
        The samples at ``levels[n]``, or ``(samples, estimates)``.
    """
    require(levels.t.ndim == 1 and levels.t.shape[0] >= 2, "sampling needs at least two noise levels")
    denoise = with_memory(denoise)

    def step(carry, now, next, step_keys):
        x, state, memory, _ = carry
        bound = BoundDenoiser(denoise, conditioning, memory)
        x_next, state = sampler.step(bound, x, now, next, step_keys, state)
        return x_next.astype(x.dtype), state, bound.memory, bound.first.x0.astype(x.dtype)

    def jump_back(carry, now, next, step_keys):
        x, _, _, estimate = carry
        x = renoise(x, now, next, step_keys).astype(x.dtype)
        return x, sampler.init(x, step_keys), denoise.begin(x), estimate

    def stay(carry, now, next, step_keys):
        return carry

    def body(carry, inputs):
        index, now, next = inputs
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        # Compared crosswise: sigma / alpha is infinite where no signal is left.
        gain = next.alpha * now.sigma - now.alpha * next.sigma
        same = (next.alpha == now.alpha) & (next.sigma == now.sigma) & ~(next.t < now.t)
        branch = jnp.where(same | (next.max_order == 0), 0, jnp.where(gain < 0, 1, 2))
        carry = jax.lax.switch(branch, [stay, jump_back, step], carry, now, next, step_keys)
        return carry, carry[3] if return_trajectory else None

    start = (x_init, sampler.init(x_init, keys), denoise.begin(x_init), x_init)
    inputs = (jnp.arange(levels.t.shape[0] - 1), levels[:-1], levels[1:])
    (x, *_), estimates = jax.lax.scan(body, start, inputs)
    return (x, estimates) if return_trajectory else x


def initial_noise(
    keys: Key[Array, " b"], shape: tuple[int, ...], levels: NoiseLevel
) -> Float[Array, "b ..."]:
    """Where a run from nothing starts: ``sigma * normal``, each sample from its own key; ``shape`` of one
    sample.
    """
    return levels.sigma[0].astype(jnp.float32) * normal(keys, shape)


def renoise(x: Array, now: NoiseLevel, next: NoiseLevel, keys: Key[Array, " b"]) -> Array:
    """The forward process from ``now`` up to ``next``: exact in distribution."""
    ratio = next.alpha / now.alpha
    std = jnp.sqrt(jnp.maximum(next.sigma**2 - (ratio * now.sigma) ** 2, 0))
    return ratio * x + std * normal(keys, x.shape[1:], x.dtype)


def straight(prediction: Prediction, next: NoiseLevel) -> Array:
    """The DDIM move: the point at ``next`` of the line through the prediction's two ends."""
    return next.alpha * prediction.x0 + next.sigma * prediction.eps


def decay(now: NoiseLevel, next: NoiseLevel) -> Float[Array, "*n"]:
    """``exp(-h)`` for a step of half-log-SNR h: in [0, 1), and 0 from pure noise or to the data."""
    return now.alpha * next.sigma / (next.alpha * now.sigma)


def half_log_snr_step(now: NoiseLevel, next: NoiseLevel) -> Float[Array, ""]:
    """``h = log(alpha' sigma / (alpha sigma'))``; infinite from pure noise or to the data."""
    return -jnp.log(decay(now, next))


def ancestral(now: NoiseLevel, next: NoiseLevel, eta: float) -> tuple[NoiseLevel, Float[Array, "*n"]]:
    """The level to step down to and the noise to add there, for a step to ``next`` of strength ``eta``.

    DDIM's eta (Song et al., arXiv:2010.02502, eq. 16) for any alpha and sigma: the noise is
    ``eta sigma' sqrt(1 - r^2)`` with ``r = exp(-h)``; eta = 1 is the posterior ``q(x_next | x_now, x0)``.
    """
    if eta == 0:
        return next, jnp.zeros_like(next.sigma)
    r = decay(now, next)
    # What stays, 1 - eta^2 (1 - r^2), as a sum: as a difference it may round to below zero.
    down = unscheduled_level(next.alpha, next.sigma * jnp.sqrt((1 - eta) * (1 + eta) + (eta * r) ** 2))
    return down, next.sigma * eta * jnp.sqrt((1 - r) * (1 + r))


def between(now: NoiseLevel, next: NoiseLevel, fraction: float | Array) -> NoiseLevel:
    """The level at ``fraction`` of the straight segment from ``now`` to ``next`` in the (alpha, sigma)
    plane.
    """
    return unscheduled_level(
        now.alpha + fraction * (next.alpha - now.alpha), now.sigma + fraction * (next.sigma - now.sigma)
    )


@dataclasses.dataclass(frozen=True)
class Segment:
    """The probability-flow ODE on the straight segment between two levels in the (alpha, sigma) plane.

    The flow is ``dx/ds = alpha_dot x0 + sigma_dot eps`` along any path of levels, and its solution depends on
    the path's ends only. On the segment both rates are constant: with alpha = 1 this is the ODE of EDM in
    sigma, on rectified flow the ODE in t, and it is finite at alpha = 0.
    """

    now: NoiseLevel
    next: NoiseLevel

    def slope(self, prediction: Prediction) -> Array:
        """``dx/ds`` with s from 0 to 1."""
        return (self.next.alpha - self.now.alpha) * prediction.x0 + (
            self.next.sigma - self.now.sigma
        ) * prediction.eps

    def transfer(self, x: Array, eps: Array) -> Array:
        """DDIM's transfer of ``x`` along the segment by a noise that is not its own; needs alpha > 0."""
        ratio = self.next.alpha / jnp.where(self.now.alpha > 0, self.now.alpha, 1)
        return ratio * x + (self.next.sigma - ratio * self.now.sigma) * eps
