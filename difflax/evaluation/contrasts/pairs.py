"""Differences between arms, taken image by image, and whether one arm may be called the winner.

Every arm draws the same prompts with the same seeds, so a difference is taken before anything is averaged,
and prompts are drawn again as whole clusters (see `difflax.evaluation.statistics`). A band that leaves 0 out
is not enough to name a winner among many arms, of which one leads by luck: `winner` widens the bands until
all pairs hold together (the largest studentised difference of each resample, as in Romano and Wolf 2005).

Where few prompts move at all, a bootstrap is too sure of itself: with k of them, all in one direction, chance
alone does as well with probability ``2^(1-k)`` (the sign test). So a difference is decided by no fewer than
six prompts that moved.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation import statistics as st

LEAST_MOVED = 6
"""The fewest prompts whose sign test reaches 95 %: 2^(1 - 6) = 0.03."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairDifference:
    """What the arm ``second`` measures beyond the arm ``first``.

    Attributes:
        first, second: the numbers of the arms.
        estimate: the mean of the differences with its band; NaN where no image was measured in both.
        moved: how many prompts differ at all.
    """

    first: int
    second: int
    estimate: st.Estimate
    moved: int

    @property
    def decided(self) -> bool:
        """Whether the band leaves out 0, and enough prompts moved."""
        # A NaN fails both comparisons.
        outside = self.estimate.low > 0 or self.estimate.high < 0
        return outside and self.moved >= LEAST_MOVED


def differences_to(
    values: Float[np.ndarray, "a n"], clusters: Int[np.ndarray, " n"], base: int
) -> list[PairDifference]:
    """Every other arm against the arm ``base``, each with a 95 % band of its own.

    Args:
        values: one value an arm and image (or an arm and prompt), NaN where it was not measured.
        clusters: the prompt of each image.
    """
    return [
        _difference(values[base], values[other], clusters, base, other)
        for other in range(len(values))
        if other != base
    ]


def all_differences(
    values: Float[np.ndarray, "a n"], clusters: Int[np.ndarray, " n"]
) -> Iterator[PairDifference]:
    """Every pair of arms once, the earlier arm as the first."""
    for first in range(len(values)):
        for second in range(first + 1, len(values)):
            yield _difference(values[first], values[second], clusters, first, second)


def _difference(one, other, clusters, first: int, second: int) -> PairDifference:
    both = ~np.isnan(one) & ~np.isnan(other)
    if not both.any():
        return PairDifference(first=first, second=second, estimate=st.NOTHING, moved=0)
    estimate = st.paired_difference(one[both], other[both], clusters[both])
    sums, _ = st.cluster_sums((other - one)[both], clusters[both])
    return PairDifference(first=first, second=second, estimate=estimate, moved=int(np.count_nonzero(sums)))


def winner(
    values: Float[np.ndarray, "a n"], clusters: Int[np.ndarray, " n"], sign: int
) -> tuple[int, bool] | None:
    """The leading arm, and whether it may be named: its lead over every other arm is decided by bands that
    hold for all pairs of arms together.

    Args:
        sign: 1 where high values are good, -1 where low ones are.

    Returns:
        ``None`` where nothing was measured.
    """
    means = _means(values)
    if np.all(np.isnan(means)):
        return None
    lead = int(np.nanargmax(sign * means))
    others = [pair for pair in differences_to(values, clusters, lead) if pair.estimate.count]
    if not others or not all(pair.decided for pair in others):
        return lead, False
    reach = critical_value(values, clusters)
    return lead, all(_beyond(values[pair.second] - values[lead], clusters, reach) for pair in others)


def leads_over(
    values: Float[np.ndarray, "a n"], clusters: Int[np.ndarray, " n"], lead: int, base: int
) -> bool:
    """Whether two arms differ by bands that hold for all pairs of arms together."""
    return _beyond(values[lead] - values[base], clusters, critical_value(values, clusters))


def _means(values: Float[np.ndarray, "a n"]) -> Float[np.ndarray, " a"]:
    counts = np.count_nonzero(~np.isnan(values), axis=1)
    return np.where(counts > 0, np.nansum(values, axis=1) / np.maximum(counts, 1), np.nan)


def _beyond(differences: Float[np.ndarray, " n"], clusters, reach: float) -> bool:
    """Whether the mean is more than ``reach`` standard errors away from 0."""
    kept = ~np.isnan(differences)
    totals = st.resampled(np.stack(st.cluster_sums(differences[kept], clusters[kept])))
    return bool(abs(differences[kept].mean()) > reach * np.std(totals[:, 0] / totals[:, 1]))


def critical_value(values: Float[np.ndarray, "a n"], clusters: Int[np.ndarray, " n"]) -> float:
    """How many bootstrap standard errors the 95 % bands of all pairs of arms reach, so that they hold
    together.

    The quantile of the largest ``|d* - d| / se`` over the pairs, widened for few prompts as a t interval is.
    Arms without any value are left out, and images that another arm lacks. Infinite for a single prompt.
    """
    values = values[~np.isnan(values).all(1)]
    complete = ~np.isnan(values).any(0)
    if not complete.any() or len(np.unique(clusters[complete])) < 2:
        return np.inf
    values, clusters = values[:, complete], clusters[complete]
    sums, sizes = st.cluster_sums(values, clusters)
    totals = st.resampled(np.concatenate([sums, sizes[None]]))
    moved = totals[:, :-1] / totals[:, -1:] - values.mean(1)  # [r, a]
    largest = np.zeros(len(moved))
    for first in range(len(values) - 1):
        away = np.abs(moved[:, first + 1 :] - moved[:, first : first + 1])
        spread = np.sqrt(np.mean(away**2, axis=0))
        with np.errstate(invalid="ignore", divide="ignore"):
            largest = np.fmax(largest, np.nanmax(np.where(spread > 0, away / spread, 0.0), axis=1))
    return float(np.quantile(largest, st.CONFIDENCE)) * st.expansion(len(sizes))
