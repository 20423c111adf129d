"""What each of several causes has to do with a gap between two settings, of which every mixture was measured.

A mixture takes some causes as the second setting has them and the rest as the first one does. The share of a
cause is what swapping it changes, averaged over all orders in which the causes can be swapped (Shapley 1953):

    φ_i = Σ_S |S|! (k - |S| - 1)! / k! · (v(S + i) - v(S))

over the sets S of the other causes. The shares add up to the gap exactly. Where some mixtures cannot be (no
set of images has more of them than there are), the orders that come through one are left out of the mean
(Faigle and Kern 1992), and the shares still add up. Of more than four causes only the two ends are measured:
a cause swapped first and swapped last, averaged; what the causes do together beyond that is left over and
said.

A metric with a value for each image is taken image by image, since every mixture draws the same prompts and
seeds, and a share has the band of a paired difference. One with a value for a whole set of images alone is
measured again with each group of images left out, the same ones in every mixture: a share is a sum of its
values, so it is left out in the same way and has the jackknife's band.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation import statistics as st

ALL_ORDERS = 4
"""The most causes whose every mixture is measured."""

Mixture = frozenset[int]


def everything_can_be(mixture: Mixture) -> bool:
    """What tells of mixtures that all of them can be."""
    return True


def mixtures(causes: int, possible: Callable[[Mixture], bool] = everything_can_be) -> list[Mixture]:
    """Which sets of swapped causes are to be measured; the first setting is the empty set.

    Args:
        possible: whether a mixture can be; both settings can.
    """
    everything = range(causes)
    if causes <= ALL_ORDERS:
        sizes = range(causes + 1)
        asked = [frozenset(s) for size in sizes for s in itertools.combinations(everything, size)]
    else:
        ends = [frozenset({cause}) for cause in everything]
        asked = [frozenset(), *ends, *(frozenset(everything) - end for end in ends), frozenset(everything)]
    return [mixture for mixture in asked if possible(mixture)]


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

    def estimate(column: Float[np.ndarray, " m"]) -> st.Estimate:
        return st.mean(column, clusters[kept]) if kept.any() else st.NOTHING

    return _parts({mixture: column[kept] for mixture, column in values.items()}, causes, estimate)


def attribute_sets(
    values: Mapping[Mixture, Float[np.ndarray, " v"]], causes: int, *, count: int, clusters: int
) -> Attribution:
    """The same of a metric that has one value for a whole set of images.

    Args:
        values: of each of `mixtures` the value of the whole set, and then with each of ``g`` groups of images
            left out; without groups there are no bands.
        count: of the images, the fewest of a mixture.
        clusters: that the groups are made of: images, or prompts.
    """

    def estimate(column: Float[np.ndarray, " v"]) -> st.Estimate:
        if len(column) < 3:
            no_band = {"low": np.nan, "high": np.nan, "method": "no band"}
            return st.Estimate(value=float(column[0]), count=count, clusters=clusters, **no_band)
        return st.jackknife(float(column[0]), column[1:], count=count, clusters=clusters, of="images")

    return _parts(values, causes, estimate)


def _parts(
    values: Mapping[Mixture, Float[np.ndarray, " n"]],
    causes: int,
    estimate: Callable[[Float[np.ndarray, " n"]], st.Estimate],
) -> Attribution:
    gap = values[frozenset(range(causes))] - values[frozenset()]
    ways = _ways(values, causes)
    shares = [
        np.mean([values[before | {cause}] - values[before] for before in ways[cause]], axis=0)
        for cause in range(causes)
    ]
    rest = gap - np.sum(shares, axis=0) if shares else gap
    every = causes <= ALL_ORDERS
    return Attribution(
        gap=estimate(gap),
        shares=tuple(estimate(share) for share in shares),
        # Rounding would show as a band around nothing.
        together=estimate(np.zeros_like(rest) if every else rest),
        orders=_in_words(len(ways[0]) if ways else 1, causes),
    )


def _in_words(orders: int, causes: int) -> str:
    if causes > ALL_ORDERS:
        return "mean of the cause swapped first and swapped last"
    if orders == math.factorial(causes):
        return f"mean over all {orders} orders (Shapley)"
    return f"mean over the {orders} orders that can be (Shapley)"


def _ways(values: Mapping[Mixture, Float[np.ndarray, " n"]], causes: int) -> list[list[Mixture]]:
    """For each cause what is swapped when its turn comes, once for every order that can be."""
    everything = frozenset(range(causes))
    if causes > ALL_ORDERS:
        asked = [[frozenset(), everything - {cause}] for cause in range(causes)]
        return [
            [before for before in befores if before in values and before | {cause} in values]
            for cause, befores in enumerate(asked)
        ]
    ways: list[list[Mixture]] = [[] for _ in range(causes)]
    for order in itertools.permutations(range(causes)):
        befores = [frozenset(order[:place]) for place in range(causes)]
        if all(before in values for before in befores):
            for cause, before in zip(order, befores, strict=True):
                ways[cause].append(before)
    return ways
