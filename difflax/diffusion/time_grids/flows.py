"""Time grids of flows: equal steps of t, moved towards the noise."""

import abc
import dataclasses

import numpy as np

from difflax.diffusion.checks import require
from difflax.diffusion.schedules.base import NoiseSchedule
from difflax.diffusion.time_grids.base import TimeGrid
from difflax.diffusion.time_shift import ResolutionShift, TimeShift


class FlowGrid(TimeGrid):
    """A grid of moved times, for a flow whose schedule has no shift of its own."""

    @property
    @abc.abstractmethod
    def time_shift(self) -> TimeShift:
        """How far, for the image that the grid is of."""

    def steps(self, num_steps: int) -> np.ndarray:
        """The times before they are moved."""
        return np.arange(num_steps, 0, -1) / num_steps

    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray:
        return self.time_shift(self.steps(num_steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowShift(FlowGrid):
    """Equal steps of t, moved by a constant (SD3: 3).

    Attributes:
        shift: towards the noise; 1: none.
    """

    shift: float = 3.0

    def __post_init__(self):
        require(self.shift > 0, f"time_grid.shift must be positive, got {self.shift}")

    @property
    def time_shift(self) -> TimeShift:
        return TimeShift(shift=self.shift)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DynamicFlowShift(ResolutionShift, FlowGrid):
    """Equal steps of t, moved by the size of the image (FLUX)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointFlow(FlowGrid):
    """The grid of diffusers' FlowMatchEuler, with which SD3 checkpoints are sampled.

    Equal steps from the shifted first timestep to the shifted last, shifted once more: at the low end the
    shift counts twice.

    Attributes:
        shift: towards the noise; 1: none.
        num_timesteps: T of the discrete process.
    """

    shift: float = 3.0
    num_timesteps: int = 1000

    def __post_init__(self):
        require(self.shift > 0, f"time_grid.shift must be positive, got {self.shift}")
        require(
            self.num_timesteps >= 1, f"time_grid.num_timesteps must be positive, got {self.num_timesteps}"
        )

    @property
    def time_shift(self) -> TimeShift:
        return TimeShift(shift=self.shift)

    def steps(self, num_steps: int) -> np.ndarray:
        return np.linspace(1, self.time_shift(1 / self.num_timesteps), num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SizedFlow(FlowGrid):
    """FlowMatchEuler's with ``use_dynamic_shifting``: equal steps, moved once, by the size of the image.

    Attributes:
        shift: of any number of tokens.
        latent: height and width of the image, in latent pixels.
        patch_size: latent pixels a token, along one edge.
    """

    shift: TimeShift
    latent: tuple[int, int] = (128, 128)
    patch_size: int = 2
    num_timesteps: int = 1000

    @property
    def time_shift(self) -> TimeShift:
        rows, columns = (edge // self.patch_size for edge in self.latent)
        return self.shift.of(rows * columns)

    def steps(self, num_steps: int) -> np.ndarray:
        return np.linspace(1, 1 / self.num_timesteps, num_steps)

    def of_latent(self, latent: tuple[int, int]) -> "SizedFlow":
        return dataclasses.replace(self, latent=latent)
