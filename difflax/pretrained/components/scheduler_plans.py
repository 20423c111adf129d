"""What is special about single steps of diffusers' schedulers: orders, landings, second evaluations.

A `Planner` says it of the steps of a `Steps`; the grids of `scheduler_grids` put it into the levels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from difflax.diffusion.checks import require
from difflax.diffusion.schedules.base import NoiseLevel, StepPlan

_SHORT = 15
"""Runs of fewer steps end with lower orders."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
    """The steps of a run before anything is special about them.

    Attributes:
        timesteps: of the steps' starts, as they are.
        shown: the same as networks are told them.
        alpha, sigma: of the steps' starts and the end, ``n + 1``.
        table: ``alpha_bar``.
        end: alpha and sigma where the last step lands if nothing else is said.
    """

    timesteps: Float[np.ndarray, " n"]
    shown: Float[np.ndarray, " n"]
    alpha: Float[np.ndarray, " n1"]
    sigma: Float[np.ndarray, " n1"]
    table: Float[np.ndarray, " t"]
    end: tuple[float, float]

    @property
    def count(self) -> int:
        return len(self.timesteps)

    @property
    def total(self) -> int:
        return len(self.table)

    @property
    def stride(self) -> int:
        return self.total // self.count

    def levels_at(self, timesteps: np.ndarray) -> "Points":
        """The levels of whole timesteps; those below zero are the end."""
        inside = timesteps >= 0
        bar = self.table[np.clip(timesteps, 0, self.total - 1).astype(int)].astype(np.float64)
        alpha = np.where(inside, np.sqrt(bar), self.end[0])
        sigma = np.where(inside, np.sqrt(1 - bar), self.end[1])
        return Points(np.maximum(timesteps + 1, 0) / self.total, alpha, sigma)


class Points(NamedTuple):
    """Noise levels in NumPy, each ``[n]``."""

    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray

    def level(self, plan: Mapping[str, Any] | None = None) -> NoiseLevel:
        """A `NoiseLevel` whose rates of change nobody asks for, with the plans of the steps."""
        t, alpha, sigma = (jnp.asarray(a, jnp.float64) for a in self)
        unknown = jnp.full_like(alpha, jnp.nan)
        fields = {name: _as_jax(_after_first(value)) for name, value in (plan or {}).items()}
        return NoiseLevel(t, alpha, sigma, unknown, unknown, StepPlan(**fields) if fields else None)


def _after_first(values: Any) -> Any:
    """``n`` values (or points) with the first repeated before them: no step ends at the first level."""
    if isinstance(values, Points):
        return Points(*map(_after_first, values))
    return np.concatenate([values[:1], values]).astype(np.float64)


def _as_jax(values: Any) -> Any:
    return values.level() if isinstance(values, Points) else jnp.asarray(values)


@runtime_checkable
class Planner(Protocol):
    """What is special about the steps of a class."""

    def plan(self, run: Steps) -> Mapping[str, Any]:
        """Fields of the `StepPlan` of the n levels that the steps end at."""
        ...


@dataclasses.dataclass(frozen=True)
class NoPlan:
    """Nothing is."""

    def plan(self, run: Steps) -> Mapping[str, Any]:
        return {}


def timesteps_of(sigma: Float[np.ndarray, " n"], table: Float[np.ndarray, " t"]) -> Float[np.ndarray, " n"]:
    """The timesteps whose ``sigma / alpha`` is ``sigma``, linear in logarithms between entries."""
    knots, wanted = np.log(table), np.log(np.maximum(sigma, 1e-10))
    i = np.clip(np.searchsorted(knots, wanted, side="right") - 1, 0, len(knots) - 2)
    share = np.clip((knots[i] - wanted) / (knots[i] - knots[i + 1]), 0, 1)
    return (1 - share) * i + share * (i + 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orders:
    """The order of every step of a solver that takes lower orders towards the end.

    Attributes:
        order: the highest.
        rule: of the class, see `_RULES`.
        lower: take lower orders at the end (``lower_order_final``).
        first_at_last: the last step is of first order in any case.
        divides: from which order on the solver divides by the length of a step.
        uncorrected: steps that are not corrected.
    """

    order: int
    rule: Literal["short", "remaining"]
    lower: bool = True
    first_at_last: bool = False
    divides: int = 3
    uncorrected: tuple[int, ...] = ()

    def plan(self, run: Steps) -> Mapping[str, Any]:
        highest = _RULES[self.rule](self, run.count)
        # Rounding decides whether two such levels are equal, and everything beyond first order with it.
        stays = abs(run.sigma[-1] / run.sigma[-2] - 1) < 1e-6
        require(
            not (stays and highest[-1] >= self.divides),
            "the last step goes nowhere, and of that order diffusers makes no image of it: set"
            " final_sigmas_type to 'zero', lower_order_final to true or solver_order to 1",
        )
        fields: dict[str, Any] = {"order": highest}
        if self.uncorrected:
            fields["corrector"] = ~np.isin(np.arange(run.count), self.uncorrected)
        return fields


def _short(orders: Orders, n: int) -> np.ndarray:
    """Short runs end with second and first order."""
    highest = np.full(n, orders.order)
    lower = orders.lower and n < _SHORT
    if lower:
        highest[-2:] = np.minimum(highest[-2:], 2)
    if lower or orders.first_at_last:
        highest[-1] = 1
    return highest


def _remaining(orders: Orders, n: int) -> np.ndarray:
    """No step has a higher order than steps are left."""
    left = np.arange(n, 0, -1)
    return np.minimum(orders.order, left) if orders.lower else np.full(n, orders.order)


_RULES = {"short": _short, "remaining": _remaining}


@dataclasses.dataclass(frozen=True)
class Strided:
    """DDIM: every step goes T // n timesteps down, wherever the next one starts."""

    def plan(self, run: Steps) -> Mapping[str, Any]:
        landing = run.timesteps - run.stride
        if np.array_equal(landing[:-1], run.timesteps[1:]) and landing[-1] < 0:
            return {}
        return {"landing": run.levels_at(landing)}


@dataclasses.dataclass(frozen=True)
class StridedMultistep:
    """PLMS: the same, and the first step is corrected as if it came from one stride above its end."""

    def plan(self, run: Steps) -> Mapping[str, Any]:
        if run.count == 1:
            return {"order": np.ones(1)}
        strided = Strided().plan(run)
        if not strided:
            return {}
        above = np.append(run.timesteps[1:], 0) + run.stride
        require(
            above[0] < run.total,
            "the first step of diffusers' PNDM starts above the process: take more steps",
        )
        return {**strided, "via": run.levels_at(np.minimum(above, run.total - 1))}


@dataclasses.dataclass(frozen=True)
class RungeKuttaMultistep:
    """PNDM: three steps of four evaluations, two of them half a stride above the step's end."""

    def plan(self, run: Steps) -> Mapping[str, Any]:
        require(run.count >= 4, "PNDM with Runge-Kutta steps (skip_prk_steps = false) takes at least 4 steps")
        half = run.stride // 2
        early = np.arange(run.count) < 3
        landing = run.timesteps - np.where(early, half, run.stride)
        via = np.append(run.timesteps[1:], -half) + half
        return {"landing": run.levels_at(landing), "via": run.levels_at(via)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halfway:
    """DPM-2: the second evaluation at the geometric mean of ``sigma / alpha``.

    Attributes:
        ancestral: the step goes to the lower level from which noise leads back up.
    """

    ancestral: bool = False

    def plan(self, run: Steps) -> Mapping[str, Any]:
        ratio = (run.sigma / run.alpha).astype(np.float32)
        now, end = ratio[:-1], ratio[1:]
        if self.ancestral:
            # A difference of nearly equal numbers, in float32 as diffusers takes it.
            added = np.sqrt(end**2 * (now**2 - end**2) / now**2)
            end = np.sqrt(np.maximum(end**2 - added**2, 0))
        middle = np.sqrt(now.astype(np.float64) * np.where(end > 0, end, now))
        knots = np.sqrt((np.float32(1) - run.table) / run.table)
        alpha = 1 / np.sqrt(1 + middle**2)
        return {"via": Points((timesteps_of(middle, knots) + 1) / run.total, alpha, middle * alpha)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SingleOrders:
    """The orders of a singlestep solver's steps: blocks of 1, 2, … up to the highest.

    Attributes:
        order: the highest.
        lower: end with lower orders, so that any number of steps is whole blocks and such an end.
        to_data: the last step is of first order.
    """

    order: int
    lower: bool
    to_data: bool

    def plan(self, run: Steps) -> Mapping[str, Any]:
        n, p = run.count, self.order
        orders = np.arange(n) % p + 1
        # Blocks that do not come out even, and steps to the data, take the lower end in any case.
        if p > 1 and n % p == 0 and (self.lower or self.to_data):
            orders[-1] = 1
        if self.to_data:
            orders[-1] = 1
        return {"order": orders}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stochastic:
    """SA-Solver: orders, and noise in the middle of the process alone.

    Attributes:
        orders: of the predictor.
    """

    orders: Orders

    def plan(self, run: Steps) -> Mapping[str, Any]:
        middle = (run.shown >= 200) & (run.shown <= 800)
        return {**self.orders.plan(run), "tau": middle.astype(np.float64)}
