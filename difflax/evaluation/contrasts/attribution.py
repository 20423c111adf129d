"""What each of several causes has to do with a gap between two settings, of which every mixture was measured.

A mixture takes some causes as the second setting has them and the rest as the first one does. The share of a
cause is what swapping it changes, averaged over all orders in which the causes can be swapped (Shapley 1953):

    φ_i = Σ_S |S|! (k - |S| - 1)! / k! · (v(S + i) - v(S))

over the sets S of the other causes. The shares add up to the gap exactly. They are taken image by image,
since every mixture draws the same prompts and seeds, and have the bands of a paired difference. Of more than
four causes only the two ends are measured: a cause swapped first and swapped last, averaged; what the causes
do together beyond that is left over and said.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation import statistics as st

ALL_ORDERS = 4
"""The most causes whose every mixture is measured."""

Mixture = frozenset[int]


def mixtures(causes: int) -> list[Mixture]:
    """Which sets of swapped causes are to be measured; the first setting is the empty set."""
    everything = range(causes)
    if causes <= ALL_ORDERS:
        sizes = range(causes + 1)
        return [frozenset(s) for size in sizes for s in itertools.combinations(everything, size)]
    ends = [frozenset({cause}) for cause in everything]
    return [frozenset(), *ends, *(frozenset(everything) - end for end in ends), frozenset(everything)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attribution:
    """A gap and its parts.

    Attributes:
        gap: the second setting less the first.
        shares: what each cause has to do with it, in the order of the causes.
        together: what only the causes together do; exactly 0 where all orders were measured.
        orders: how the order of swapping was averaged out, in words.
    """

    gap: st.Estimate
    shares: tuple[st.Estimate, ...]
    together: st.Estimate
    orders: str


def attribute(
    values: Mapping[Mixture, Float[np.ndarray, " n"]], clusters: Int[np.ndarray, " n"], causes: int
) -> Attribution:
    """The parts of the gap between the first and the second setting.

    Args:
        values: of each of `mixtures` one value an image, or a prompt; an image that some mixture lacks (NaN)
            is left out.
        clusters: the prompt of each image.
    """
    kept = ~np.isnan(np.stack(list(values.values()))).any(0)
    measured = {mixture: column[kept] for mixture, column in values.items()}
    gap = measured[frozenset(range(causes))] - measured[frozenset()]
    shares = [_share(measured, cause, causes) for cause in range(causes)]
    rest = gap - np.sum(shares, axis=0) if shares else gap
    every = causes <= ALL_ORDERS

    def estimate(column) -> st.Estimate:
        return st.mean(column, clusters[kept]) if kept.any() else st.NOTHING

    return Attribution(
        gap=estimate(gap),
        shares=tuple(estimate(share) for share in shares),
        # Rounding would show as a band around nothing.
        together=estimate(np.zeros_like(rest) if every else rest),
        orders=f"mean over all {math.factorial(causes)} orders (Shapley)"
        if every
        else "mean of the cause swapped first and swapped last",
    )


def _share(
    measured: Mapping[Mixture, Float[np.ndarray, " n"]], cause: int, causes: int
) -> Float[np.ndarray, " n"]:
    others: Sequence[int] = [other for other in range(causes) if other != cause]
    if causes > ALL_ORDERS:
        everything = frozenset(range(causes))
        first = measured[frozenset({cause})] - measured[frozenset()]
        return (first + measured[everything] - measured[everything - {cause}]) / 2
    total = np.zeros_like(measured[frozenset()])
    for size in range(causes):
        weight = 1 / (causes * math.comb(causes - 1, size))
        for chosen in map(frozenset, itertools.combinations(others, size)):
            total += weight * (measured[chosen | {cause}] - measured[chosen])
    return total
