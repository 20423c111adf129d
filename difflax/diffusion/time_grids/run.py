"""What a sampling run does with its time grid."""

import dataclasses
from typing import Literal

import jax

from difflax.diffusion.checks import require
from difflax.diffusion.predictions import PredictionType
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, noise_level
from difflax.diffusion.time_grids import TimeGrid, check_levels, sampling_levels
from difflax.diffusion.time_grids.sequences import (
    repaint_levels,
    restart_levels,
    variance_exploding,
    without_times,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restart:
    """Restart sampling between two steps of the run; see `restart_levels`.

    Attributes:
        low: the step to go back to.
        high: the step after which the run goes back.
        repeats: how often.
    """

    low: int
    high: int
    repeats: int = 1

    def __post_init__(self):
        require(0 <= self.low < self.high, f"restart needs 0 <= low < high, got {self.low} and {self.high}")
        require(self.repeats >= 0, f"restart.repeats must not be negative, got {self.repeats}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repaint:
    """Jumps back of a run that makes a part of an image anew; see `repaint_levels`.

    Attributes:
        jump: steps that are gone back at once.
        repeats: how often each stretch is gone, the first time included.
    """

    jump: int = 10
    repeats: int = 10

    def __post_init__(self):
        for name in ("jump", "repeats"):
            value = getattr(self, name)
            require(value >= 1, f"repaint.{name} must be at least 1, got {value}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Attributes:
    schedule: the schedule to sample under, if not the one that the network was trained under; the network
        finds its own times from the log-SNR.
    variance_exploding: step in ``x / alpha``, the coordinates of EDM and k-diffusion; solvers that go along
        straight segments (Heun, DPM-2, RK4) differ by it.
    restart: goes back up and down again.
    repaint: the same all along a run that makes a part of an image anew; other runs do not read it.
    final_t: where the last step lands: 0 is the data.
    known_noise: of the kept part of an image whose other part is made anew by a network that reads no mask:
        "fresh" at every step (Song et al., arXiv:2011.13456, section 5), or "start", the run's own at all
        steps, as diffusers' pipelines have it.
    """

    schedule: NoiseSchedule | None = None
    variance_exploding: bool = False
    restart: Restart | None = None
    repaint: Repaint | None = None
    final_t: float = 0.0
    known_noise: Literal["fresh", "start"] = "fresh"

    def __post_init__(self):
        require(self.restart is None or self.repaint is None, "restart and repaint exclude each other")
        require(
            self.repaint is None or self.known_noise == "fresh",
            "repaint goes back up with noise of its own: it needs known_noise='fresh'",
        )

    def levels(
        self,
        schedule: NoiseSchedule,
        grid: TimeGrid,
        num_steps: int,
        prediction_type: PredictionType | None = None,
    ) -> NoiseLevel:
        """The levels of a run of ``num_steps`` steps, repeated ones of a restart not counted.

        Raises:
            ValueError: in one line, for a number of steps or a grid that does not go.
        """
        own = self.schedule is None or self.schedule == schedule
        levels = sampling_levels(
            schedule if own else self.schedule,
            grid,
            num_steps,
            prediction_type=prediction_type if own else None,
            final_t=self.final_t,
        )
        if not own:
            with jax.ensure_compile_time_eval():
                trained = noise_level(schedule, schedule.t_from_log_snr(levels.log_snr))
                check_levels(trained, prediction_type)
            levels = without_times(levels)
        if self.restart is not None:
            levels = restart_levels(levels, **dataclasses.asdict(self.restart))
        return variance_exploding(levels) if self.variance_exploding else levels

    def repainting(self, levels: NoiseLevel) -> NoiseLevel:
        """The levels of a run that makes a part of an image anew, from those of any other."""
        if self.repaint is None:
            return levels
        return repaint_levels(levels, **dataclasses.asdict(self.repaint))
