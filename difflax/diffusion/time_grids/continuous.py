"""Time grids without timesteps: even in some function of the noise level."""

import dataclasses
from typing import Literal

import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Array

from difflax.diffusion.checks import require
from difflax.diffusion.schedules.base import NoiseSchedule, log_snr
from difflax.diffusion.time_grids.base import TimeGrid


@dataclasses.dataclass(frozen=True, kw_only=True)
class Even(TimeGrid):
    """Equal steps of t from ``t_max`` to 0: the natural grid of flows.

    Attributes:
        t_max: the first time, in (0, 1].
    """

    t_max: float = 1.0

    def __post_init__(self):
        require(0 < self.t_max <= 1, f"time_grid.t_max must lie in (0, 1], got {self.t_max}")

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        return self.t_max * np.arange(num_steps, 0, -1) / num_steps


class _SigmaGrid(TimeGrid):
    """Shared by the grids over ``sigma / alpha``: their ends, and the way back to t.

    ``sigma_max`` defaults to the schedule's at t = 1 and ``sigma_min`` to the schedule's at t = 1 / 1000.

    Attributes:
        sigma_min: of the last step's start; ``None``: the schedule's at t = 1 / 1000.
        sigma_max: of the first step's start; ``None``: the schedule's at t = 1.
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
    """``sigma^(1/rho)`` linear (Karras et al., EDM, arXiv:2206.00364, eq. 5).

    Attributes:
        rho: the exponent; 1 is linear in sigma.
    """

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

    Attributes:
        a: of the distribution; small is dense at the noise.
        b: of the distribution; small is dense at the data.
        over: what is distributed, ``t`` or ``sigma``.
    """

    a: float = 0.6
    b: float = 0.6
    over: Literal["t", "sigma"] = "t"
    sigma_min: float | None = None
    sigma_max: float | None = None

    def __post_init__(self):
        super().__post_init__()
        require(self.a > 0 and self.b > 0, f"time_grid.a and b must be positive, got {self.a} and {self.b}")

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
class AlignYourSteps(TimeGrid):
    """The optimised ``sigma / alpha`` of Sabour et al., arXiv:2404.14507, for ten steps of a named model.

    Other step counts interpolate in the logarithm, as the authors do.

    Attributes:
        model: whose optimised levels are taken.
    """

    model: Literal["sd15", "sdxl", "svd"] = "sd15"

    def times(self, schedule: NoiseSchedule, num_steps: int) -> Array:
        table = np.log(_ALIGN_YOUR_STEPS[self.model])
        position = np.linspace(0, 1, num_steps + 1)[:-1]
        log_sigmas = np.interp(position, np.linspace(0, 1, len(table)), table)
        return schedule.t_from_log_snr(-2 * jnp.asarray(log_sigmas))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quadratic(TimeGrid):
    """``sqrt(t)`` in equal steps (DDIM's "quadratic" sub-sequence, Song et al., arXiv:2010.02502, appendix
    D.2).

    Attributes:
        t_max: the first time, in (0, 1].
    """

    t_max: float = 1.0

    def __post_init__(self):
        require(0 < self.t_max <= 1, f"time_grid.t_max must lie in (0, 1], got {self.t_max}")

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        return self.t_max * (np.arange(num_steps, 0, -1) / num_steps) ** 2
