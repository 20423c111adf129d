"""Which times to sample at.

A grid gives the n times at which a sampler's steps start; ``sampling_levels`` appends where the last step
lands and turns them into noise levels, once, outside compiled code and in float64.
"""

import dataclasses
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array

from difflax.diffusion.checks import require
from difflax.diffusion.levels import NoiseLevel, NoiseSchedule, as_time, log_snr, noise_level
from difflax.diffusion.predictions import PredictionType, determinant
from difflax.diffusion.schedules import ResolutionFlow
from difflax.diffusion.spacings import Distilled, Leading, Linspace, Trailing


@runtime_checkable
class TimeGrid(Protocol):
    """``n -> t [n]``, strictly decreasing; runs eagerly under float64."""

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray | Array:
        """The times at which the steps start."""
        ...


def sampling_levels(
    schedule: NoiseSchedule,
    grid: TimeGrid,
    num_steps: int,
    *,
    prediction_type: PredictionType | None = None,
    final_t: float = 0.0,
) -> NoiseLevel:
    """The ``num_steps + 1`` levels of a sampling run, from noise to data.

    Args:
        schedule: the schedule that the network was trained under.
        grid: where the steps start.
        num_steps: at least 1.
        prediction_type: if given, the grid is refused where the network's output cannot tell x0 from the
        noise
            (noise prediction at zero SNR).
        final_t: where the last step lands: 0, the data (alpha 1, sigma 0), or a time before it (Stable
            Diffusion's ``set_alpha_to_one = false``: 1 / 1000).

    Raises:
        ValueError: in one line, for fewer than one step, a grid that does not decrease, or a singular
            prediction.
    """
    require(num_steps >= 1, f"num_steps must be at least 1, got {num_steps}")
    require(0 <= final_t < 1, f"final_t must lie in [0, 1), got {final_t}")
    dtype = as_time(0.0).dtype
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        times = np.asarray(grid.times(schedule, num_steps), np.float64)
        levels = noise_level(schedule, times)
        last = noise_level(schedule, final_t) if final_t else data_level()
        levels = jax.tree.map(jnp.append, levels, last)
        check_levels(levels, prediction_type)
    return jax.tree.map(lambda a: jnp.asarray(a, dtype), levels)


def data_level() -> NoiseLevel:
    """The data itself, where every run ends: alpha 1, sigma 0."""
    zero, one = as_time(0.0), as_time(1.0)
    return NoiseLevel(zero, one, zero, zero, zero)


def check_levels(levels: NoiseLevel, prediction_type: PredictionType | None = None) -> None:
    """Refuses levels that do not go from noise to data, and predictions that are singular on them."""
    with np.errstate(divide="ignore"):
        snr = 2 * (np.log(np.asarray(levels.alpha)) - np.log(np.asarray(levels.sigma)))
    require(not np.isnan(snr).any(), "the time grid leaves the schedule: a noise level is not a number")
    # The last level may repeat its predecessor: "leading" grids without an offset end on the first timestep.
    falls = np.all(snr[1:-1] > snr[:-2]) and snr[-1] >= snr[-2]
    require(bool(falls), "the time grid must go from noise to data: its times are not strictly decreasing")
    if prediction_type is None:
        return
    starts = jax.tree.map(lambda a: jnp.asarray(a)[:-1], levels)
    det = np.asarray(determinant(prediction_type, starts))
    singular = ~np.isfinite(det) | (det == 0)
    if singular.any():
        t = float(np.asarray(levels.t)[:-1][singular][0])
        raise ValueError(
            f"{type(prediction_type).__name__} prediction is singular at t = {t:g} of the time grid "
            "(no signal or no noise is left there): predict v or x0, or start the grid later"
        )


def pad_levels(levels: NoiseLevel, length: int) -> NoiseLevel:
    """The levels of a run with its last one repeated up to ``length`` entries.

    ``sample`` skips the added steps at no cost, so runs of different step counts share one compilation.
    """
    missing = length - levels.t.shape[0]
    require(missing >= 0, f"cannot pad {levels.t.shape[0]} levels to {length}")
    return jax.tree.map(lambda a: jnp.concatenate([a, jnp.repeat(a[-1:], missing)]), levels)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Even:
    """Equal steps of t from ``t_max`` to 0: the natural grid of flows."""

    t_max: float = 1.0

    def __post_init__(self):
        require(0 < self.t_max <= 1, f"time_grid.t_max must lie in (0, 1], got {self.t_max}")

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        return self.t_max * np.arange(num_steps, 0, -1) / num_steps


class _SigmaGrid:
    """Shared by the grids over ``sigma / alpha``: their ends, and the way back to t.

    ``sigma_max`` defaults to the schedule's at t = 1 and ``sigma_min`` to the schedule's at t = 1 / 1000.
    """

    sigma_min: float | None
    sigma_max: float | None

    def __post_init__(self):
        low, high = self.sigma_min, self.sigma_max
        require(low is None or low > 0, f"time_grid.sigma_min must be positive, got {low}")
        require(high is None or high > (low or 0), f"time_grid.sigma_max must exceed sigma_min, got {high}")

    def ends(self, schedule: NoiseSchedule) -> tuple[float, float]:
        low = float(np.exp(-log_snr(schedule, 1e-3) / 2)) if self.sigma_min is None else self.sigma_min
        high = float(np.exp(-log_snr(schedule, 1.0) / 2)) if self.sigma_max is None else self.sigma_max
        require(np.isfinite(high), "this schedule ends without signal: set time_grid.sigma_max")
        require(low < high, f"time_grid.sigma_min {low:g} must be below sigma_max {high:g}")
        return low, high

    def sigmas(self, low: float, high: float, num_steps: int) -> np.ndarray:
        raise NotImplementedError

    def times(self, schedule: NoiseSchedule, num_steps: int) -> Array:
        sigmas = self.sigmas(*self.ends(schedule), num_steps)
        return schedule.t_from_log_snr(-2 * jnp.log(jnp.asarray(sigmas)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformLogSNR(_SigmaGrid):
    """Equal steps of log-SNR (DPM-Solver, arXiv:2206.00927, section 3.4); k-diffusion's "exponential"."""

    sigma_min: float | None = None
    sigma_max: float | None = None

    def sigmas(self, low: float, high: float, num_steps: int) -> np.ndarray:
        return np.exp(np.linspace(np.log(high), np.log(low), num_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Karras(_SigmaGrid):
    """``sigma^(1/rho)`` linear (Karras et al., EDM, arXiv:2206.00364, eq. 5)."""

    rho: float = 7.0
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self):
        super().__post_init__()
        require(self.rho > 0, f"time_grid.rho must be positive, got {self.rho}")

    def sigmas(self, low: float, high: float, num_steps: int) -> np.ndarray:
        return np.linspace(high ** (1 / self.rho), low ** (1 / self.rho), num_steps) ** self.rho


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beta(_SigmaGrid):
    """Quantiles of a Beta distribution, dense at both ends (Lee et al., "Beta sampling", arXiv:2407.12173).

    Over t as the paper has it, or over ``sigma / alpha`` as diffusers has it.
    """

    a: float = 0.6
    b: float = 0.6
    over: Literal["t", "sigma"] = "t"
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self):
        super().__post_init__()
        require(self.a > 0 and self.b > 0, f"time_grid.a and b must be positive, got {self.a} and {self.b}")
        require(self.over in ("t", "sigma"), f"time_grid.over must be t or sigma, got {self.over!r}")

    def shares(self, num_steps: int) -> np.ndarray:
        return scipy.stats.beta.ppf(1 - np.linspace(0, 1, num_steps), self.a, self.b)

    def sigmas(self, low: float, high: float, num_steps: int) -> np.ndarray:
        return low + self.shares(num_steps) * (high - low)

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray | Array:
        if self.over == "sigma":
            return super().times(schedule, num_steps)
        low, high = (schedule.t_from_log_snr(-2 * jnp.log(jnp.asarray(s))) for s in self.ends(schedule))
        return low + self.shares(num_steps) * (high - low)


_ALIGN_YOUR_STEPS = {
    "sd15": (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029),
    "sdxl": (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029),
    "svd": (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignYourSteps:
    """The optimised ``sigma / alpha`` of Sabour et al., arXiv:2404.14507, for ten steps of a named model.

    Other step counts interpolate in the logarithm, as the authors do.
    """

    model: Literal["sd15", "sdxl", "svd"] = "sd15"

    def __post_init__(self):
        known = tuple(_ALIGN_YOUR_STEPS)
        require(self.model in known, f"time_grid.model must be one of {', '.join(known)}, got {self.model!r}")

    def times(self, schedule: NoiseSchedule, num_steps: int) -> Array:
        table = np.log(_ALIGN_YOUR_STEPS[self.model])
        position = np.linspace(0, 1, num_steps + 1)[:-1]
        log_sigmas = np.interp(position, np.linspace(0, 1, len(table)), table)
        return schedule.t_from_log_snr(-2 * jnp.asarray(log_sigmas))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quadratic:
    """``sqrt(t)`` in equal steps (DDIM's "quadratic" sub-sequence, Song et al., arXiv:2010.02502, appendix
    D.2).
    """

    t_max: float = 1.0

    def __post_init__(self):
        require(0 < self.t_max <= 1, f"time_grid.t_max must lie in (0, 1], got {self.t_max}")

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        return self.t_max * (np.arange(num_steps, 0, -1) / num_steps) ** 2


def shifted(t: float | np.ndarray | Array, shift: float) -> float | np.ndarray | Array:
    """``shift t / (1 + (shift - 1) t)`` (SD3, arXiv:2403.03206, eq. 23)."""
    return shift * t / (1 + (shift - 1) * t)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowShift:
    """Equal steps of t, moved towards the noise by ``shift``; for a flow whose schedule has no shift of
    its own.
    """

    shift: float = 3.0

    def __post_init__(self):
        require(0 < self.shift < np.inf, f"time_grid.shift must be positive, got {self.shift}")

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        return shifted(np.arange(num_steps, 0, -1) / num_steps, self.shift)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicFlowShift:
    """``FlowShift`` by the size of the image: ``exp(mu)``, mu linear in the number of tokens.

    The defaults are FLUX's (see ``ResolutionFlow``).
    """

    tokens: int = 1024
    base_tokens: int = 256
    max_tokens: int = 4096
    base_mu: float = 0.5
    max_mu: float = 1.15

    def __post_init__(self):
        require(self.tokens > 0, f"time_grid.tokens must be positive, got {self.tokens}")
        require(self.base_tokens < self.max_tokens, "time_grid.base_tokens must be below max_tokens")

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        settings = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return FlowShift(shift=ResolutionFlow(**settings).shift).times(schedule, num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFlow:
    """The grid of diffusers' FlowMatchEuler, with which SD3 checkpoints are sampled.

    Equal steps from the shifted first timestep to the shifted last, shifted once more: at the low end the
    shift counts twice.
    """

    shift: float = 3.0
    num_timesteps: int = 1000

    def __post_init__(self):
        require(0 < self.shift < np.inf, f"time_grid.shift must be positive, got {self.shift}")
        require(
            self.num_timesteps >= 1, f"time_grid.num_timesteps must be positive, got {self.num_timesteps}"
        )

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        return shifted(np.linspace(1, shifted(1 / self.num_timesteps, self.shift), num_steps), self.shift)


TIME_GRIDS = {
    "trailing": Trailing,
    "leading": Leading,
    "linspace": Linspace,
    "distilled": Distilled,
    "even": Even,
    "quadratic": Quadratic,
    "uniform_log_snr": UniformLogSNR,
    "exponential": UniformLogSNR,
    "karras": Karras,
    "beta": Beta,
    "align_your_steps": AlignYourSteps,
    "flow_shift": FlowShift,
    "dynamic_flow_shift": DynamicFlowShift,
    "checkpoint_flow": CheckpointFlow,
}

__all__ = [
    "TIME_GRIDS",
    "AlignYourSteps",
    "Beta",
    "CheckpointFlow",
    "Distilled",
    "DynamicFlowShift",
    "Even",
    "FlowShift",
    "Karras",
    "Leading",
    "Linspace",
    "Quadratic",
    "TimeGrid",
    "Trailing",
    "UniformLogSNR",
    "check_levels",
    "data_level",
    "pad_levels",
    "sampling_levels",
    "shifted",
]
