"""Discrete processes of T steps (DDPM, Stable Diffusion, any table) as functions of continuous time."""

import dataclasses
import functools
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.core.bounds import Range
from difflax.diffusion.checks import require


class TableSchedule:
    """A discrete process of T steps as a function of continuous time.

    ``t = (i + 1) / T`` is the table's entry i exactly and ``t = 0`` the data; between entries the variance
    ``sigma^2`` is linear in t, which keeps every interval valid, also the last one of a process whose
    terminal SNR is zero.

    A subclass gives ``betas()``. ``zero_terminal_snr`` rescales sqrt(alpha_bar) to end at 0 (Lin et al.,
    "Common diffusion noise schedules and sample steps are flawed", arXiv:2305.08891, algorithm 1).

    Attributes:
        zero_terminal_snr: whether no signal is left at the end.
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
    """DDPM: betas linear from ``beta_start`` to ``beta_end`` (Ho et al., arXiv:2006.11239, section 4).

    Attributes:
        beta_start: of the first step.
        beta_end: of the last step.
        num_timesteps: T.
    """

    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_timesteps: Annotated[int, Range(1, 1_000_000)] = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self):
        _check_betas(self)

    def betas(self) -> np.ndarray:
        return np.linspace(self.beta_start, self.beta_end, self.num_timesteps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaledLinear(TableSchedule):
    """Stable Diffusion: sqrt(beta) linear (Rombach et al., arXiv:2112.10752; CompVis
    ``make_beta_schedule``).

    Attributes:
        beta_start: of the first step.
        beta_end: of the last step.
        num_timesteps: T.
    """

    beta_start: float = 0.00085
    beta_end: float = 0.012
    num_timesteps: Annotated[int, Range(1, 1_000_000)] = 1000
    zero_terminal_snr: bool = False

    def __post_init__(self):
        _check_betas(self)

    def betas(self) -> np.ndarray:
        return np.linspace(self.beta_start**0.5, self.beta_end**0.5, self.num_timesteps) ** 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine(TableSchedule):
    """The cosine schedule as published (Nichol & Dhariwal, arXiv:2102.09672, eq. 17): T steps, betas
    clipped.

    Attributes:
        offset: s of eq. 17.
        max_beta: where betas are clipped.
        num_timesteps: T.
    """

    offset: float = 0.008
    max_beta: float = 0.999
    num_timesteps: Annotated[int, Range(1, 1_000_000)] = 1000
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class BetaTable(TableSchedule):
    """Any table of forward variances (a checkpoint's ``trained_betas``).

    Attributes:
        table: the betas, one a timestep.
    """

    table: tuple[float, ...]
    zero_terminal_snr: bool = False

    def __post_init__(self):
        require(len(self.table) >= 2, "schedule.table needs at least two betas")
        inside = all(0 < beta <= 1 for beta in self.table)
        require(inside, "schedule.table must hold betas in (0, 1]")

    def betas(self) -> np.ndarray:
        return np.asarray(self.table, np.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlphaBarTable(TableSchedule):
    """Any table of ``alpha_bar = alpha^2``, one entry a timestep, decreasing from below 1 to 0 or above.

    Attributes:
        table: ``alpha_bar``, one a timestep.
    """

    table: tuple[float, ...]
    zero_terminal_snr: bool = False

    def __post_init__(self):
        require(len(self.table) >= 2, "schedule.table needs at least two entries")
        falls = bool(np.all(np.diff([1.0, *self.table]) < 0)) and self.table[-1] >= 0
        require(falls, "schedule.table must decrease strictly from below 1 to 0 or above")

    def betas(self) -> np.ndarray:
        alpha_bar = np.asarray([1.0, *self.table], np.float64)
        return 1 - alpha_bar[1:] / alpha_bar[:-1]


def _check_betas(schedule) -> None:
    start, end = schedule.beta_start, schedule.beta_end
    require(0 < start <= end < 1, f"schedule needs 0 < beta_start <= beta_end < 1, got {start} and {end}")
    require(
        schedule.num_timesteps >= 2,
        f"schedule.num_timesteps must be at least 2, got {schedule.num_timesteps}",
    )
