"""What a paired design can see: the smallest difference that it would have found, and what would decide one.

A paired difference of prompt p and seed s is ``d = δ + a_p + e_ps``: the prompt's own (an interaction of arm
and prompt) and what is left between its seeds. The variances come from the one-way random-effects analysis of
variance (Searle, Casella and McCulloch 1992, section 3.6; for a pair of arms the same as the arm × prompt and
the residual line of the two-way table, doubled). With P prompts of S seeds the mean has the variance

    (σ²_prompt + σ²_seed / S) / P

and the test on P - 1 degrees of freedom has the power of the noncentral t distribution (Cohen 1988).
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation import statistics as st
from difflax.evaluation.contrasts.pairs import LEAST_MOVED

POWER = 0.8
FAR = 30.0
"""Standard errors beyond which the power is 1 (0.98 with two prompts, whose t distribution has no end)."""
MOST_NEEDED = 10_000_000
"""The largest number of prompts or seeds that is worth saying."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Components:
    """The variances of paired differences.

    Attributes:
        between: between prompts, ``σ²_prompt`` ≥ 0.
        within: between the seeds of a prompt, ``σ²_seed`` ≥ 0; 0 where a prompt has one value.
        prompts: how many prompts they were taken from, 2 or more.
        seeds: how many values a prompt has, on average where they differ.
    """

    between: float | int
    within: float | int
    prompts: int
    seeds: float | int

    def standard_error(self, prompts: float | int | None = None, seeds: float | int | None = None) -> float:
        """The standard error of the mean difference, of this design or of another size."""
        prompts, seeds = prompts or self.prompts, seeds or self.seeds
        return math.sqrt((self.between + self.within / seeds) / prompts)


def components(differences: Float[np.ndarray, " n"], clusters: Int[np.ndarray, " n"]) -> Components | None:
    """The variance components of paired differences, NaN where there is none; ``None`` for a single prompt.

    A negative component is set to 0 and its share kept in the other, so that the standard error of the design
    as it is stays that of the data.
    """
    kept = ~np.isnan(differences)
    sums, sizes = st.cluster_sums(differences[kept], clusters[kept])
    prompts, count = len(sizes), float(sizes.sum())
    if prompts < 2:
        return None
    means = sums / sizes
    across = np.sum(sizes * (means - sums.sum() / count) ** 2) / (prompts - 1)
    seeds = (count - np.sum(sizes**2) / count) / (prompts - 1)
    if count == prompts:
        return Components(between=float(across), within=0.0, prompts=prompts, seeds=1.0)
    inside = (np.sum(differences[kept] ** 2) - np.sum(sums**2 / sizes)) / (count - prompts)
    between = (across - inside) / seeds
    if between < 0:
        between, inside = 0.0, across
    return Components(
        between=float(between), within=float(max(inside, 0.0)), prompts=prompts, seeds=float(seeds)
    )


def power(difference: float | int, standard_error: float | int, prompts: float | int) -> float:
    """How likely a two-sided paired t test at 5 % finds a true ``difference``, on ``prompts`` - 1 degrees of
    freedom; in [0.05, 1].
    """
    from scipy.special import nctdtr, stdtrit

    freedom = prompts - 1
    reach = stdtrit(freedom, (1 + st.CONFIDENCE) / 2)
    shift = abs(difference) / standard_error if standard_error else math.inf
    if shift > FAR:
        return 1.0
    # Where a tail is too small for it, nctdtr gives NaN.
    below, beyond = np.nan_to_num([nctdtr(freedom, shift, reach), nctdtr(freedom, shift, -reach)])
    return float(1 - below + beyond)


def detectable(
    parts: Components, prompts: float | int | None = None, seeds: float | int | None = None
) -> float:
    """The smallest true difference that this design, or one of another size, finds with 80 % power."""
    from scipy.optimize import brentq

    prompts = prompts or parts.prompts
    error = parts.standard_error(prompts, seeds)
    if not error:
        return 0.0
    return error * float(brentq(lambda shift: power(shift, 1.0, prompts) - POWER, 0.0, FAR, xtol=1e-9))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Needed:
    """What finds a true difference with 80 % power.

    Attributes:
        prompts: how many prompts with as many seeds as now, six or more; ``None`` beyond ten million.
        seeds: how many seeds with as many prompts as now; ``None`` where those are too few, or differ too
            much for any number of seeds.
    """

    prompts: int | None
    seeds: int | None


def needed(parts: Components, difference: float | int) -> Needed:
    """How many prompts, or how many seeds, in all decide a true ``difference`` with 80 % power."""
    size = abs(difference)
    if not size:
        return Needed(prompts=None, seeds=None)
    # One value a prompt (a measure of all its images together) says nothing of more seeds.
    by_seeds = parts.within and parts.prompts >= LEAST_MOVED
    return Needed(
        prompts=_smallest(lambda count: detectable(parts, prompts=count) <= size, LEAST_MOVED),
        seeds=_smallest(lambda count: detectable(parts, seeds=count) <= size, 1) if by_seeds else None,
    )


def _smallest(enough, start: int) -> int | None:
    """The smallest whole number from ``start`` on that is enough, more being enough too."""
    if enough(start):
        return start
    low, high = start, 2 * start
    while not enough(high):
        low, high = high, 2 * high
        if high > MOST_NEEDED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
