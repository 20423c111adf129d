"""Noise schedules: the signal scale alpha and the noise scale sigma as functions of time.

The forward process of every model here is

    x_t = alpha(t) x0 + sigma(t) eps,     eps ~ N(0, I),     t = 0: data,  t = 1: noise,

and a schedule is no more than ``t -> (alpha, sigma)`` and the inverse of its strictly decreasing

    log_snr(t) = log(alpha^2 / sigma^2).

Everything else (what the network predicts, which t it trains on, which t are sampled at, how much each t
counts) lives elsewhere. Time is computed in float32, or in float64 under ``jax_enable_x64``, whatever the
network uses.
"""

import dataclasses
import functools
from typing import Protocol, runtime_checkable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.diffusion.checks import require


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
    """

    t: Float[Array, "*n"]
    alpha: Float[Array, "*n"]
    sigma: Float[Array, "*n"]
    alpha_dot: Float[Array, "*n"]
    sigma_dot: Float[Array, "*n"]

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


def expand(a: Float[Array, "*n"], x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``a`` (one number, or one an example) with trailing axes of size 1 to broadcast against ``x``."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def add_noise(x0: Float[Array, "..."], eps: Float[Array, "..."], level: NoiseLevel) -> Float[Array, "..."]:
    """The forward process ``x_t = alpha x0 + sigma eps``; ``level`` is one level or one an example."""
    return (expand(level.alpha, x0) * x0 + expand(level.sigma, x0) * eps).astype(x0.dtype)


def vp_from_log_snr(log_snr: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
    """The variance-preserving pair, ``alpha^2 + sigma^2 = 1``, of a log-SNR (VDM, arXiv:2107.00630, eq.
    3).
    """
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


# Tables: the discrete processes of DDPM and Stable Diffusion.


class TableSchedule:
    """A discrete process of T steps as a function of continuous time.

    ``t = (i + 1) / T`` is the table's entry i exactly and ``t = 0`` the data; between entries the variance
    ``sigma^2`` is linear in t, which keeps every interval valid, also the last one of a process whose
    terminal SNR is zero.

    A subclass gives ``betas()``. ``zero_terminal_snr`` rescales sqrt(alpha_bar) to end at 0 (Lin et al.,
    "Common diffusion noise schedules and sample steps are flawed", arXiv:2305.08891, algorithm 1).
    """

    zero_terminal_snr: bool = False

    def betas(self) -> np.ndarray:
        """The T variances of the forward steps, float64."""
        raise NotImplementedError

    @functools.cached_property
    def alphas_cumprod(self) -> np.ndarray:
        """The table ``alpha_bar`` ``[T]``, float64."""
        signal = np.sqrt(np.cumprod(1.0 - self.betas()))
        if self.zero_terminal_snr:
            first, last = signal[0], signal[-1]
            signal = (signal - last) * first / (first - last)
        return signal**2

    @functools.cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        alpha_bar = np.concatenate([[1.0], self.alphas_cumprod])
        return alpha_bar, np.diff(alpha_bar)

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        alpha_bar, difference = self._tables
        # Both tables are rounded from float64: 1 - alpha_bar in float32 has no digits left near the data.
        variance = jnp.asarray(1.0 - alpha_bar, t.dtype)
        alpha_bar, difference = jnp.asarray(alpha_bar, t.dtype), jnp.asarray(difference, t.dtype)
        position = t * len(difference)
        i = jnp.clip(jnp.floor(position), 0, len(difference) - 1).astype(int)
        step = (position - i) * difference[i]
        return jnp.sqrt(jnp.maximum(alpha_bar[i] + step, 0)), jnp.sqrt(jnp.maximum(variance[i] - step, 0))

    def t_from_log_snr(self, log_snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        alpha_bar, difference = self._tables
        with np.errstate(divide="ignore"):
            knots = jnp.asarray(np.log1p(-alpha_bar) - np.log(alpha_bar), log_snr.dtype)  # increasing in t
        i = jnp.clip(jnp.searchsorted(knots, -log_snr, side="right") - 1, 0, len(difference) - 1)
        # Solve on the smaller of the two scales, the one that keeps its digits.
        signal = jax.nn.sigmoid(log_snr) - jnp.asarray(alpha_bar, log_snr.dtype)[i]
        noise = jnp.asarray(1.0 - alpha_bar, log_snr.dtype)[i] - jax.nn.sigmoid(-log_snr)
        step = jnp.where(log_snr < 0, signal, noise)
        return (i + step / jnp.asarray(difference, log_snr.dtype)[i]) / len(difference)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(TableSchedule):
    """DDPM: betas linear from ``beta_start`` to ``beta_end`` (Ho et al., arXiv:2006.11239, section 4)."""

    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_timesteps: int = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self):
        _check_betas(self)

    def betas(self) -> np.ndarray:
        return np.linspace(self.beta_start, self.beta_end, self.num_timesteps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledLinear(TableSchedule):
    """Stable Diffusion: sqrt(beta) linear (Rombach et al., arXiv:2112.10752; CompVis
    ``make_beta_schedule``).
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_timesteps: int = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self):
        _check_betas(self)

    def betas(self) -> np.ndarray:
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_timesteps) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(TableSchedule):
    """The cosine schedule as published (Nichol & Dhariwal, arXiv:2102.09672, eq. 17): T steps, betas
    clipped.
    """

    offset: float = 0.008
    max_beta: float = 0.999
    num_timesteps: int = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self):
        require(
            self.num_timesteps >= 1, f"schedule.num_timesteps must be at least 1, got {self.num_timesteps}"
        )
        require(self.offset >= 0, f"schedule.offset must not be negative, got {self.offset}")
        require(0 < self.max_beta <= 1, f"schedule.max_beta must lie in (0, 1], got {self.max_beta}")

    def betas(self) -> np.ndarray:
        t = np.linspace(0.0, 1.0, self.num_timesteps + 1)
        alpha_bar = np.cos((t + self.offset) / (1 + self.offset) * np.pi / 2) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], self.max_beta)


def _check_betas(schedule) -> None:
    start, end = schedule.beta_start, schedule.beta_end
    require(0 < start <= end < 1, f"schedule needs 0 < beta_start <= beta_end < 1, got {start} and {end}")
    require(
        schedule.num_timesteps >= 2,
        f"schedule.num_timesteps must be at least 2, got {schedule.num_timesteps}",
    )


# Closed forms.


@dataclasses.dataclass(frozen=True, kw_only=True)
class RectifiedFlow:
    """The straight path ``x_t = (1 - t') x0 + t' eps`` (Liu et al., arXiv:2209.03003, eq. 1).

    ``t' = shift t / (1 + (shift - 1) t)`` moves time towards the noise when ``shift > 1`` (Esser et al., SD3,
    arXiv:2403.03206, eq. 23); it adds ``-2 log(shift)`` to the log-SNR at every t.
    """

    shift: float = 1.0

    def __post_init__(self):
        require(0 < self.shift < np.inf, f"schedule.shift must be positive, got {self.shift}")

    def alpha_sigma(self, t: Float[Array, "*n"]) -> tuple[Float[Array, "*n"], Float[Array, "*n"]]:
        scale = 1 + (self.shift - 1) * t
        return (1 - t) / scale, self.shift * t / scale

    def t_from_log_snr(self, log_snr: Float[Array, "*n"]) -> Float[Array, "*n"]:
        return jax.nn.sigmoid(-log_snr / 2 - np.log(self.shift))


SCHEDULES = {
    "linear": Linear,
    "scaled_linear": ScaledLinear,
    "cosine": Cosine,
    "rectified_flow": RectifiedFlow,
}
