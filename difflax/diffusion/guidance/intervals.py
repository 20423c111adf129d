"""When a guidance acts, and how its strength changes along a run.

Both are functions of the noise angle ``arctan2(sigma, alpha)`` in [0, pi/2], which is finite at both ends of
time and does not depend on the schedule; the units that people think in are converted to it once.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from difflax.diffusion.checks import require
from difflax.diffusion.denoisers import Outcome
from difflax.diffusion.guidance.base import Guidance, positive_of
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, noise_level

Unit = Literal["sigma", "log_snr", "t", "step"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounds:
    """Where a guidance acts; see `interval`.

    Attributes:
        low: the smaller bound, included.
        high: the larger bound, included.
        unit: of both, ``sigma``, ``log_snr``, ``t`` or ``step``.
    """

    low: float | int
    high: float | int
    unit: Unit = "sigma"

    def __post_init__(self):
        require(self.low <= self.high, f"low {self.low} must not exceed high {self.high}")


def noise_angle(level: NoiseLevel) -> Float[Array, "*n"]:
    """``arctan2(sigma, alpha)``: 0 at the data, pi / 2 where no signal is left."""
    return jnp.arctan2(level.sigma, level.alpha)


@flax.struct.dataclass
class Interval(Guidance):
    """``guidance`` at noise angles in ``[low, high]``, elsewhere the conditional model, evaluated alone.

    Kynkäänniemi et al., arXiv:2404.07724. Make it with ``interval``. Outside the interval the other
    evaluations are skipped (a real branch, as levels are scalars in sampling), and the guidance's memory
    rests.
    """

    guidance: Any
    low: float | Float[Array, ""]
    high: float | Float[Array, ""]

    def with_scale(self, scale):
        return self.replace(guidance=self.guidance.with_scale(scale))

    def begin(self, x):
        return self.guidance.begin(x)

    def evaluate(self, denoise, x, level, conditioning, memory):
        require(level.t.ndim == 0, "a guidance interval needs one noise level for the whole batch")
        angle = noise_angle(level)

        def plain() -> Outcome:
            prediction = denoise(x, level, positive_of(conditioning))
            return Outcome(prediction, prediction, memory)

        def guided() -> Outcome:
            return self.guidance.evaluate(denoise, x, level, conditioning, memory)

        return jax.lax.cond((angle >= self.low) & (angle <= self.high), guided, plain)


def interval(
    guidance: Guidance,
    low: float | int,
    high: float | int,
    unit: Unit,
    *,
    schedule: NoiseSchedule | None = None,
    levels: NoiseLevel | None = None,
) -> Interval:
    """``guidance`` between two bounds, both included.

    Args:
        guidance: what acts inside.
        low: the smaller bound.
        high: the larger bound.
        unit: ``"sigma"`` (``sigma / alpha``), ``"log_snr"``, ``"t"`` (needs ``schedule``), or ``"step"``:
            indices of the run's steps, 0 the noisiest (needs ``levels``).
        schedule: for ``"t"``.
        levels: the run's levels, for ``"step"``.

    Raises:
        ValueError: for an unknown unit, bounds upside down or not numbers, or a missing schedule or levels.
    """
    require(unit in UNITS, f"interval.unit must be one of {', '.join(UNITS)}, got {unit!r}")
    require(low <= high, f"interval.low {low} must not exceed interval.high {high}")  # also refuses NaN
    first, last = UNITS[unit](low, high, schedule, levels)
    return Interval(guidance, float(first), float(last))


_SLACK = 1e-6 * np.array([-1, 1])
"""On both angles, so that rounding cannot drop a level that lies on a bound."""


def _of_sigma(low: float | int, high: float | int, schedule: Any, levels: Any) -> Float[np.ndarray, "2"]:
    return np.arctan2([low, high], 1.0) + _SLACK


def _of_log_snr(low: float | int, high: float | int, schedule: Any, levels: Any) -> Float[np.ndarray, "2"]:
    return np.arctan(np.exp(-np.array([high, low]) / 2)) + _SLACK


def _of_time(
    low: float | int, high: float | int, schedule: NoiseSchedule | None, levels: Any
) -> Float[np.ndarray, "2"]:
    require(schedule is not None, "an interval in t needs the schedule")
    return np.asarray(noise_angle(noise_level(schedule, np.array([low, high]))), float) + _SLACK


def _of_steps(
    low: float | int, high: float | int, schedule: Any, levels: NoiseLevel | None
) -> Float[np.ndarray, "2"]:
    require(levels is not None, "an interval in steps needs the run's levels")
    angles = np.asarray(noise_angle(levels))
    last = len(angles) - 2
    first_step, last_step = int(np.clip(low, 0, last)), int(np.clip(high, 0, last))
    # Half-way to the neighbours, so that rounding cannot drop a step.
    above = np.pi if first_step == 0 else (angles[first_step - 1] + angles[first_step]) / 2
    return np.array([(angles[last_step] + angles[last_step + 1]) / 2, above])


UNITS: dict[str, Callable[..., Float[np.ndarray, "2"]]] = {
    "sigma": _of_sigma,
    "log_snr": _of_log_snr,
    "t": _of_time,
    "step": _of_steps,
}
"""The lower and the upper noise angle of two bounds in each `Unit`, of ``(low, high, schedule, levels)``."""


@flax.struct.dataclass
class ScaleSchedule:
    """A strength that changes along the run: linear interpolation of ``values`` over the noise angle.

    Attributes:
        angles: noise angles, increasing.
        values: the strength at each.
    """

    angles: Float[Array, " n"]
    values: Float[Array, " n"]

    def __call__(self, level: NoiseLevel) -> Float[Array, "*n"]:
        """The strength at ``level``."""
        return jnp.interp(noise_angle(level), self.angles, self.values)


SCALE_SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "constant": lambda p: np.ones_like(p),
    "linear": lambda p: p,
    "cosine": lambda p: (1 - np.cos(np.pi * p)) / 2,
    "triangle": lambda p: 1 - np.abs(2 * p - 1),
}
"""Shapes over a run's progress from 0 to 1 (Wang et al., arXiv:2404.13040, section 3)."""


def scale_schedule(shape: str, levels: NoiseLevel, start: float, end: float) -> ScaleSchedule:
    """A strength from ``start`` to ``end`` along the steps of a run, in a shape of ``SCALE_SHAPES``.

    "triangle" goes from ``start`` to ``end`` in the middle and back.
    """
    require(shape in SCALE_SHAPES, f"scale.shape must be one of {', '.join(SCALE_SHAPES)}, got {shape!r}")
    require(
        bool(np.isfinite([start, end]).all()), f"scale.start and end must be finite, got {start} and {end}"
    )
    count = levels.t.shape[0] - 1
    progress = np.linspace(0, 1, count) if count > 1 else np.zeros(1)
    share = SCALE_SHAPES[shape](progress)
    # In this form the ends are exact.
    return scale_table(levels, (1 - share) * start + share * end)


TABLE_LENGTH = 50
"""Tables are filled up to whole multiples of this, so that other numbers of steps compile nothing."""


def scale_table(levels: NoiseLevel, values: np.ndarray | Sequence[float | int]) -> ScaleSchedule:
    """A strength given step by step."""
    values = np.asarray(values, float)
    count = levels.t.shape[0] - 1
    require(values.shape == (count,), f"scale.values must have one entry for each of the {count} steps")
    require(bool(np.isfinite(values).all()), "scale.values must be finite")
    angles = np.asarray(noise_angle(levels))[:-1]
    order = np.argsort(angles, kind="stable")  # a run that goes back up has some levels twice
    filled = np.concatenate([order, np.full(-count % TABLE_LENGTH, order[-1])])
    dtype = levels.alpha.dtype
    return ScaleSchedule(jnp.asarray(angles[filled], dtype), jnp.asarray(values[filled], dtype))
