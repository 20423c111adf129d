"""Time grids on the timesteps of a discrete process (Lin et al., arXiv:2305.08891, table 2), as diffusers
rounds them.

Timestep i of T is ``t = (i + 1) / T``. Where diffusers' schedulers disagree, a field says whose spacing is
meant: those of DPM-Solver, UniPC and DEIS leave out the last point (``endpoint=False``), those of the Euler
family take fractional timesteps (``rounded=False``).
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from difflax.diffusion.checks import require
from difflax.diffusion.schedules.base import NoiseSchedule, log_snr
from difflax.diffusion.time_grids.base import TimeGrid


class _Spacing(TimeGrid):
    """A grid on ``num_timesteps`` timesteps.

    Attributes:
        num_timesteps: T of the discrete process.
    """

    num_timesteps: int

    def __post_init__(self):
        require(
            self.num_timesteps >= 1, f"time_grid.num_timesteps must be positive, got {self.num_timesteps}"
        )

    def check_steps(self, num_steps: int) -> None:
        require(
            num_steps <= self.num_timesteps,
            f"num_steps is {num_steps}, but the grid has only {self.num_timesteps} timesteps",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trailing(_Spacing):
    """Every (T/n)-th timestep counted from the end: the first step starts at pure noise."""

    num_timesteps: int = 1000

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        self.check_steps(num_steps)
        return np.round(np.arange(num_steps, 0, -1) * self.num_timesteps / num_steps) / self.num_timesteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Leading(_Spacing):
    """Every (T/n)-th timestep counted from the start, moved up by ``steps_offset`` (Stable Diffusion: 1).

    With ``endpoint=False`` every T/(n+1)-th, without the first timestep.

    Attributes:
        steps_offset: timesteps that all are moved up by.
        endpoint: whether the first timestep is among them.
    """

    num_timesteps: int = 1000
    steps_offset: int = 0
    endpoint: bool = True

    def __post_init__(self):
        super().__post_init__()
        require(
            self.steps_offset >= 0, f"time_grid.steps_offset must not be negative, got {self.steps_offset}"
        )

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        skipped = 0 if self.endpoint else 1
        self.check_steps(num_steps + skipped)
        stride = self.num_timesteps // (num_steps + skipped)
        index = (np.arange(num_steps)[::-1] + skipped) * stride + self.steps_offset
        return (index + 1) / self.num_timesteps


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linspace(_Spacing):
    """n timesteps evenly from T - 1 to 0; with ``endpoint=False`` the first n of n + 1.

    ``rounded`` to whole timesteps; else ``sigma / alpha`` is linear between the neighbours, as the Euler
    family has it.

    Attributes:
        rounded: to whole timesteps.
        endpoint: whether timestep 0 is among them.
    """

    num_timesteps: int = 1000
    rounded: bool = True
    endpoint: bool = True

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray | Array:
        skipped = 0 if self.endpoint else 1
        self.check_steps(num_steps + skipped)
        index = np.linspace(0, self.num_timesteps - 1, num_steps + skipped)[::-1][:num_steps]
        if self.rounded:
            return (np.round(index) + 1) / self.num_timesteps
        low, high = (np.exp(-log_snr(schedule, (i + 1) / self.num_timesteps) / 2) for i in _neighbours(index))
        ratio = low + (index - np.floor(index)) * (high - low)
        return schedule.t_from_log_snr(-2 * jnp.log(jnp.asarray(ratio)))


def _neighbours(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.floor(index), np.ceil(index)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distilled(_Spacing):
    """Evenly from the timesteps that a consistency model was distilled on, every T/k-th from the end.

    Luo et al., LCM, arXiv:2310.04378, section 4.3; k is ``distilled_steps``.

    Attributes:
        distilled_steps: k, steps that the model was distilled on.
    """

    num_timesteps: int = 1000
    distilled_steps: int = 50

    def __post_init__(self):
        super().__post_init__()
        inside = 1 <= self.distilled_steps <= self.num_timesteps
        require(
            inside,
            f"time_grid.distilled_steps must lie in [1, {self.num_timesteps}], got {self.distilled_steps}",
        )

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        known = self.distilled_steps
        require(num_steps <= known, f"num_steps is {num_steps}, but the model was distilled on {known} steps")
        taken = np.arange(known, 0, -1)[np.arange(num_steps) * known // num_steps]
        return taken * (self.num_timesteps // known) / self.num_timesteps
