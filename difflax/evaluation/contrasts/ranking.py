"""Which arm is best, and which arms nobody beats in everything, each with how sure that is.

Prompts are drawn again, the same ones for every arm and every measure, and the question is asked anew: the
share of resamples in which an arm is best, or on the Pareto front, is what the data say of it. Such a share
is no probability that the arm is best in truth; it says how much the answer hangs on these prompts.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from difflax.evaluation import statistics as st

Objective = tuple[Float[np.ndarray, "a _"], Int[np.ndarray, " _"]]
"""A measure in which higher is better: one value an arm and image (or prompt), and the prompt of each. Some
have a value for each image and some for each prompt, so their lengths differ.
"""


def resampled_means(objective: Objective, prompts: Int[np.ndarray, " k"]) -> Float[np.ndarray, "r a"]:
    """The mean of every arm under every resample of ``prompts``, equal draws for every objective; NaN where
    none of the drawn prompts has a value.
    """
    values, clusters = objective
    asked = ~np.isnan(values)
    index = np.searchsorted(prompts, clusters)
    sums = np.zeros((2, len(values), len(prompts)))
    np.add.at(sums, (0, slice(None), index), np.where(asked, values, 0.0).T)
    np.add.at(sums, (1, slice(None), index), asked.T.astype(np.float64))
    totals = st.resampled(sums)
    with np.errstate(invalid="ignore"):
        return totals[:, 0] / totals[:, 1]


def _means(objective: Objective) -> Float[np.ndarray, " a"]:
    counts = np.count_nonzero(~np.isnan(objective[0]), axis=1)
    return np.where(counts > 0, np.nansum(objective[0], axis=1) / np.maximum(counts, 1), np.nan)


def best_shares(
    values: Float[np.ndarray, "a n"], clusters: Int[np.ndarray, " n"], sign: int
) -> Float[np.ndarray, " a"]:
    """In which share of the resamples each arm is best; arms that tie share it.

    Args:
        sign: 1 where high values are good, -1 where low ones are.
    """
    means = resampled_means((sign * values, clusters), np.unique(clusters))
    means = np.where(np.isnan(means), -np.inf, means)
    # Sums of equal values in another order differ in their last digits.
    top = means >= means.max(1, keepdims=True) - 1e-12
    return (top / top.sum(1, keepdims=True)).mean(0)


def pareto_front(points: Float[np.ndarray, "... a o"]) -> Bool[np.ndarray, "... a"]:
    """Which arms no other arm beats: nobody is as good in every objective and better in one. Higher is
    better; an arm with a NaN is on no front.
    """
    known = ~np.isnan(points).any(-1)
    ours, theirs = points[..., :, None, :], points[..., None, :, :]
    with np.errstate(invalid="ignore"):
        beaten = (theirs >= ours).all(-1) & (theirs > ours).any(-1)
    return known & ~beaten.any(-1)


def front_shares(objectives: Sequence[Objective]) -> tuple[Bool[np.ndarray, " a"], Float[np.ndarray, " a"]]:
    """Which arms are on the Pareto front of the means, and in which share of the resamples each one is."""
    prompts = np.unique(np.concatenate([clusters for _, clusters in objectives]))
    means = np.stack([resampled_means(each, prompts) for each in objectives], axis=-1)
    # Some hundred at a time: the comparison of all arms with all others is large.
    on = [pareto_front(part) for part in np.array_split(means, max(1, len(means) // 200))]
    front = pareto_front(np.stack([_means(each) for each in objectives], axis=-1))
    return front, np.concatenate(on).mean(0)
