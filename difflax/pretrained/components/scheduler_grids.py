"""The steps of diffusers' schedulers: noise levels, and the times that networks are told.

diffusers keeps its tables in float32, rounds times in some classes and not in others, and steps by fixed
strides where the times are not equally far apart. A network that reads its time shows all of it, so here the
same arithmetic makes `NoiseLevel`s with a `StepPlan`; the samplers stay those of the papers. Every formula is
diffusers' own convention (version 0.42), which has no other source.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import scipy.stats
from jaxtyping import Float

from difflax.diffusion.checks import require
from difflax.diffusion.schedules import Linear, ScaledLinear
from difflax.diffusion.schedules.base import NoiseLevel, NoiseSchedule, StepPlan
from difflax.diffusion.schedules.discrete import TableSchedule
from difflax.diffusion.time_grids import CheckpointFlow, SizedFlow, TimeGrid
from difflax.diffusion.time_shift import TimeShift
from difflax.pretrained.components.scheduler_plans import NoPlan, Planner, Points, Steps, timesteps_of

Respacing = Literal["karras", "exponential", "beta", "lu", "log_linear"]
"""Other spacings of ``sigma / alpha`` than that of the times."""


def _linspace(start: float, end: float, count: int) -> Float[np.ndarray, " t"]:
    """PyTorch's float32 ``linspace``: from both ends, each product and sum rounded once."""
    low, high = np.float32(start), np.float32(end)
    step = np.float64((high - low) / np.float32(count - 1))
    i = np.arange(count)
    return np.where(i < count // 2, low + step * i, high - step * (count - 1 - i)).astype(np.float32)


_BETAS: dict[type, Callable[[Any], np.ndarray]] = {
    Linear: lambda s: _linspace(s.beta_start, s.beta_end, s.num_timesteps),
    ScaledLinear: lambda s: _linspace(s.beta_start**0.5, s.beta_end**0.5, s.num_timesteps) ** 2,
}


def _cumprod(alphas: np.ndarray) -> np.ndarray:
    return np.cumprod(alphas.astype(np.float64)).astype(np.float32)


def rounded_table(schedule: TableSchedule) -> Float[np.ndarray, " t"]:
    """``alpha_bar`` of the T timesteps as float32 arithmetic has it."""
    plain = dataclasses.replace(schedule, zero_terminal_snr=False)
    betas = _BETAS.get(type(schedule), lambda s: s.betas())(plain).astype(np.float32)
    one = np.float32(1)
    alphas = one - betas
    if schedule.zero_terminal_snr:
        signal = np.sqrt(_cumprod(alphas))
        first, last = signal[0], signal[-1]
        bar = ((signal - last) * (first / (first - last))) ** 2
        alphas = np.concatenate([bar[:1], bar[1:] / bar[:-1]])
        alphas = one - (one - alphas)
    return _cumprod(alphas)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conventions:
    """How a class of schedulers spaces its steps.

    Attributes:
        endpoint: the lowest time is among them; else one more time is made and the lowest left out.
        fractional: ``linspace`` is not rounded.
        truncated: all times are cut to whole timesteps.
        rounded: respacings whose times are rounded to whole timesteps.
        over_steps: respacings go between the first and last step's level; else over the whole table.
        repeats: respacings that end at the least sigma end with their own last one.
        in_sigma: steps are made in ``sigma / alpha``, and zero terminal SNR is a large one.
    """

    endpoint: bool = True
    fractional: bool = False
    truncated: bool = False
    rounded: frozenset[str] = frozenset()
    over_steps: bool = True
    repeats: bool = False
    in_sigma: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class SchedulerGrid(TimeGrid):
    """The steps of one of diffusers' schedulers over a discrete process.

    Attributes:
        num_timesteps: T of the process.
        spacing: of the times.
        steps_offset: timesteps that "leading" moves all times up by.
        respacing: of ``sigma / alpha``, if another.
        ends: least and greatest ``sigma / alpha`` of a respacing, where the config gives them.
        clipped: the least ``log(alpha / sigma)`` that the times may have.
        conventions, planner: of the class.
    """

    num_timesteps: int
    spacing: Literal["linspace", "leading", "trailing"]
    steps_offset: int = 0
    respacing: Respacing | None = None
    ends: tuple[float | None, float | None] = (None, None)
    clipped: float = -np.inf
    conventions: Conventions = dataclasses.field(default_factory=Conventions)
    planner: Planner = dataclasses.field(default_factory=NoPlan)

    def times(self, schedule: NoiseSchedule, num_steps: int) -> Float[np.ndarray, " n"]:
        """The times that a network is told."""
        _, shown, _ = self.steps(self._table(schedule), num_steps)
        return (shown + 1) / self.num_timesteps

    def levels(self, schedule: NoiseSchedule, num_steps: int, last: NoiseLevel) -> NoiseLevel:
        """Levels of the steps and where the last one lands; see `TimeGrid`.

        Raises:
            ValueError: in one line, for a number of steps that diffusers cannot make.
        """
        table = self._table(schedule)
        timesteps, shown, ratio = self.steps(table, num_steps)
        if ratio is None:
            bar = table[timesteps.astype(int)].astype(np.float64)
            alpha, sigma = np.sqrt(bar), np.sqrt(1 - bar)
        else:
            ratio = ratio.astype(np.float32).astype(np.float64)
            alpha = 1 / np.sqrt(1 + ratio[: len(timesteps)] ** 2)
            sigma = ratio[: len(timesteps)] * alpha
        end = self._end(table, ratio, len(timesteps), float(last.sigma) == 0)
        alpha, sigma = np.append(alpha, end[0]), np.append(sigma, end[1])
        run = Steps(timesteps=timesteps, shown=shown, alpha=alpha, sigma=sigma, table=table, end=end)
        return self._planned(run)

    def _planned(self, run: Steps) -> NoiseLevel:
        total, end_t = run.total, 0.0 if run.end[1] == 0 else 1 / run.total
        t = np.append((run.timesteps + 1) / total, end_t)
        if self._repeats(run):
            t[-1] = 0.0
        plan = self.planner.plan(run)
        alpha, sigma = run.alpha.copy(), run.sigma.copy()
        if "landing" in plan:
            alpha[-1], sigma[-1] = plan["landing"].alpha[-1], plan["landing"].sigma[-1]
        levels = Points(t, alpha, sigma).level(plan)
        if np.array_equal(run.shown, run.timesteps):
            return levels
        shown = jnp.asarray(np.append((run.shown + 1) / total, end_t))
        return levels.replace(plan=(levels.plan or StepPlan()).replace(shown=shown))

    def _repeats(self, run: Steps) -> bool:
        """The last step goes nowhere, and is taken all the same: its evaluation corrects the step before."""
        return self.conventions.repeats and bool(run.sigma[-1] == run.sigma[-2])

    def _table(self, schedule: NoiseSchedule) -> Float[np.ndarray, " t"]:
        table = rounded_table(schedule)
        if self.conventions.in_sigma and schedule.zero_terminal_snr:
            table = np.append(table[:-1], np.float32(2.0**-24))
        return table

    def _end(self, table: np.ndarray, ratio: np.ndarray | None, n: int, to_data: bool) -> tuple[float, float]:
        if ratio is not None and len(ratio) > n:
            least = ratio[n]
        elif to_data:
            return 1.0, 0.0
        elif ratio is not None and self.respacing is not None and self.conventions.repeats:
            least = ratio[-1]
        else:
            bar = np.float64(table[0])
            if ratio is None:
                return float(np.sqrt(bar)), float(np.sqrt(1 - bar))
            least = np.sqrt((np.float32(1) - table[0]) / table[0]).astype(np.float64)
            # A respacing that goes down to the table's own end misses it by rounding.
            least = ratio[-1] if abs(least / ratio[-1] - 1) < 1e-6 else least
        # As the steps' own levels are made, so that one of the same ratio is equal to the last bit.
        alpha = 1 / np.sqrt(1 + least**2)
        return float(alpha), float(least * alpha)

    def steps(
        self, table: Float[np.ndarray, " t"], num_steps: int
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " m"] | None]:
        """Timesteps, timesteps as they are shown, and ``sigma / alpha`` (one more where that says where the
        last step lands; ``None``: the table's at the timesteps).
        """
        total = self.num_timesteps
        require(
            num_steps + (not self.conventions.endpoint) <= total,
            f"the scheduler has only {total} timesteps for {num_steps} steps",
        )
        timesteps = self._spaced(table, num_steps)
        # Rounding errors of the stride may add a step below the process; an offset may leave it above.
        inside = len(timesteps) >= 1 and timesteps.min() >= 0 and timesteps.max() <= total - 1
        require(
            inside,
            f"diffusers' {self.spacing!r} spacing leaves the process of {total} timesteps at this number of"
            " steps: take another one",
        )
        with np.errstate(divide="ignore"):
            sigmas = np.sqrt((np.float32(1) - table) / table)
        if not self.conventions.in_sigma and self.respacing is None:
            return timesteps, timesteps, None
        ratio = np.interp(timesteps, np.arange(total), sigmas)
        if self.respacing is None:
            return timesteps, timesteps, ratio
        ratio = self._respaced(sigmas, ratio, num_steps)
        if self.respacing == "log_linear":
            return timesteps, timesteps, ratio
        timesteps = timesteps_of(ratio, sigmas)
        shown = np.round(timesteps) if self.respacing in self.conventions.rounded else timesteps
        return timesteps, np.trunc(shown) if self.conventions.truncated else shown, ratio

    def _spaced(self, table: np.ndarray, num_steps: int) -> Float[np.ndarray, " n"]:
        skipped = 0 if self.conventions.endpoint else 1
        usable = len(table)
        if np.isfinite(self.clipped):
            alpha, sigma = np.sqrt(table), np.sqrt(np.float32(1) - table)
            usable -= int(np.searchsorted((np.log(alpha) - np.log(sigma))[::-1], self.clipped))
        if self.spacing == "linspace":
            kind = np.float32 if self.conventions.fractional else np.float64
            points = np.linspace(0, usable - 1, num_steps + skipped, dtype=kind)
            points = points if self.conventions.fractional else np.round(points)
            return points[::-1][:num_steps].astype(np.float64)
        if self.spacing == "leading":
            stride = usable // (num_steps + skipped)
            return (np.arange(num_steps)[::-1] + skipped) * float(stride) + self.steps_offset
        return np.round(np.arange(usable, 0, -(len(table) / num_steps))) - 1

    def _respaced(self, sigmas: np.ndarray, spaced: np.ndarray, num_steps: int) -> Float[np.ndarray, " m"]:
        if self.respacing == "log_linear":
            return np.exp(_linspace(*(float(np.log(s)) for s in (sigmas[-1], sigmas[0])), num_steps + 1))
        over = spaced if self.conventions.over_steps else sigmas[::-1]
        low, high = self.ends
        low = float(over[-1]) if low is None else low
        high = float(over[0]) if high is None else high
        return RESPACINGS[self.respacing](low, high, num_steps)


def _karras(low: float, high: float, n: int, rho: float = 7.0) -> np.ndarray:
    ramp = np.linspace(0, 1, n)
    return (high ** (1 / rho) + ramp * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def _exponential(low: float, high: float, n: int) -> np.ndarray:
    return np.exp(np.linspace(np.log(high), np.log(low), n))


def _beta(low: float, high: float, n: int) -> np.ndarray:
    return low + scipy.stats.beta.ppf(1 - np.linspace(0, 1, n), 0.6, 0.6) * (high - low)


RESPACINGS = {"karras": _karras, "exponential": _exponential, "beta": _beta, "lu": _exponential}
"""``(least, greatest, n) -> sigmas``, from the greatest to the least."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DistilledSteps(SchedulerGrid):
    """Evenly from every T/k-th timestep, on which a consistency model was distilled.

    Attributes:
        distilled_steps: k.
    """

    distilled_steps: int = 50

    def _spaced(self, table: np.ndarray, num_steps: int) -> Float[np.ndarray, " n"]:
        known = self.distilled_steps
        require(num_steps <= known, f"the model was distilled on {known} steps: take no more")
        taken = np.arange(known, 0, -1) * (len(table) // known) - 1
        return taken[np.floor(np.linspace(0, known, num_steps, endpoint=False)).astype(int)].astype(float)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EDMSteps(TimeGrid):
    """The steps of schedulers that work in sigma alone.

    Attributes:
        sigma_min, sigma_max, rho: of the respacing.
        respacing: "karras" or "exponential".
        repeats: where the last step lands if not at the data: on its start; else on ``sigma_min``.
        planner: of the class.
    """

    sigma_min: float
    sigma_max: float
    rho: float
    respacing: Literal["karras", "exponential"]
    repeats: bool
    planner: Planner = dataclasses.field(default_factory=NoPlan)

    def times(self, schedule: NoiseSchedule, num_steps: int) -> Float[np.ndarray, " n"]:
        """``sigma / sigma_max``, the time of EDM's schedule."""
        return self._sigmas(num_steps) / self.sigma_max

    def levels(self, schedule: NoiseSchedule, num_steps: int, last: NoiseLevel) -> NoiseLevel:
        """Levels of the steps and where the last one lands; see `TimeGrid`."""
        sigma = self._sigmas(num_steps)
        least = sigma[-1] if self.repeats else self.sigma_min
        least = sigma[-1] if abs(least / sigma[-1] - 1) < 1e-6 else least
        sigma = np.append(sigma, 0.0 if float(last.sigma) == 0 else least)
        alpha, steps = np.ones_like(sigma), np.arange(float(num_steps))
        run = Steps(timesteps=steps, shown=steps, alpha=alpha, sigma=sigma, table=alpha, end=(1.0, sigma[-1]))
        return Points(sigma / self.sigma_max, alpha, sigma).level(self.planner.plan(run))

    def _sigmas(self, num_steps: int) -> Float[np.ndarray, " n"]:
        kinds = {"exponential": _exponential, "karras": functools.partial(_karras, rho=self.rho)}
        return kinds[self.respacing](self.sigma_min, self.sigma_max, num_steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShapedFlow(TimeGrid):
    """A flow's grid stretched to end at a time, and with other spacings.

    Attributes:
        inner: before that.
        terminal: the last step's start.
        respacing: of the times.
        ends: least and greatest time of the respacing, where the config gives them.
    """

    inner: CheckpointFlow | SizedFlow
    terminal: float | None = None
    respacing: Respacing | None = None
    ends: tuple[float | None, float | None] = (None, None)

    @property
    def time_shift(self) -> TimeShift:
        return self.inner.time_shift

    def of_latent(self, latent: tuple[int, int]) -> "ShapedFlow":
        return dataclasses.replace(self, inner=self.inner.of_latent(latent))

    def times(self, schedule: NoiseSchedule, num_steps: int) -> Float[np.ndarray, " n"]:
        times = np.asarray(self.inner.times(schedule, num_steps), np.float64)
        if self.terminal is not None:
            times = 1 - (1 - times) * ((1 - self.terminal) / (1 - times[-1]))
        if self.respacing is not None:
            low, high = self.ends
            low, high = float(times[-1]) if low is None else low, float(times[0]) if high is None else high
            times = RESPACINGS[self.respacing](low, high, num_steps)
        return times
