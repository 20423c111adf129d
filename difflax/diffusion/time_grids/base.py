"""Which times to sample at.

A grid gives the n times at which a sampler's steps start; ``sampling_levels`` appends where the last step
lands and turns them into noise levels, once, outside compiled code and in float64.
"""

import abc

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from difflax.diffusion.checks import require
from difflax.diffusion.predictions import PredictionType, determinant
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, as_time, noise_level
from difflax.diffusion.time_shift import TimeShift


class TimeGrid(abc.ABC):
    """``n -> t [n]``, strictly decreasing; runs eagerly under float64."""

    @abc.abstractmethod
    def times(self, schedule: NoiseSchedule, num_steps: int) -> np.ndarray | Array:
        """The times at which the steps start."""

    def levels(self, schedule: NoiseSchedule, num_steps: int, last: NoiseLevel) -> NoiseLevel:
        """The levels at which the steps start, and where the last one lands: those of the schedule, and
        ``last``, but for the schedulers of checkpoints, which round and step in ways of their own
        (`StepPlan`).
        """
        times = np.asarray(self.times(schedule, num_steps), np.float64)
        return jax.tree.map(jnp.append, noise_level(schedule, times), last)

    @property
    def time_shift(self) -> TimeShift | None:
        """How far a flow's times are moved, for the image that the grid is of; ``None``: it moves none."""
        return None

    def of_latent(self, latent: tuple[int, int]) -> "TimeGrid":
        """The grid of an image whose latent has that height and width; most are of all."""
        return self


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
            noise (noise prediction at zero SNR).
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
        last = noise_level(schedule, final_t) if final_t else data_level()
        levels = grid.levels(schedule, num_steps, last)
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
    starts = levels[:-1]
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
