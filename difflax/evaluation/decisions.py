"""At which noise level is each factor of a picture decided?

From one noisy picture ``x_t`` of a run, the run is ended many times with fresh noise. With an ancestral
sampler the ends are draws from p(x0 | x_t) (Ho et al., arXiv:2006.11239, figure 7). What all of them share is
decided at that level, and what differs is not. For a factor f and the distance d of two of its values (1 of
any two that differ, or how far apart they are)

    undecided(t) = E[d(f, f')] of two ends of one x_t  /  E[d(f, f')] of two runs of the same prompt,

which falls from 1 at pure noise to 0. The mean over all pairs of K ends has no bias for any K > 1, and for a
discrete factor it is the Gini index ``1 - Σ p²`` of p(f | x_t).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation.statistics import Estimate, cluster_sums, expanded_percentiles, resampled

HALF = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decision:
    """How one factor is decided.

    Attributes:
        name: of the factor.
        undecided: at each noise level, from 1 to 0.
        half: the log-SNR from which on it is more than half decided.
    """

    name: str
    undecided: tuple[Estimate, ...]
    half: Estimate


def mean_of_known(values: Float[np.ndarray, "..."], axis: int | tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """The mean of what is not NaN, NaN where nothing is known."""
    known = ~np.isnan(values)
    count = known.sum(axis)
    return np.asarray(np.where(known, values, 0).sum(axis) / np.where(count > 0, count, np.nan))


def apart(distances: Float[np.ndarray, "g k k"]) -> Float[np.ndarray, " g"]:
    """The mean distance of two different ones of k, of each group; pairs that are NaN are left out."""
    own = np.eye(distances.shape[-1], dtype=bool)
    return mean_of_known(np.where(own, np.nan, distances), (1, 2))


def decide(
    spreads: Mapping[str, Float[np.ndarray, "levels g"]],
    log_snr: Float[np.ndarray, " levels"],
    clusters: Int[np.ndarray, " g"],
) -> list[Decision]:
    """Every factor that pure noise leaves open, in the order in which they are half decided.

    Args:
        spreads: of each factor what `apart` says at each level; at the first one of independent runs.
        log_snr: of the levels, rising; the first may be -inf.
        clusters: which prompt each group belongs to.
    """
    found = []
    for name, spread in spreads.items():
        sums, _ = cluster_sums(np.nan_to_num(spread), clusters)
        counts, _ = cluster_sums((~np.isnan(spread)).astype(float), clusters)
        if sums[0].sum() > 0:
            found.append(_decide(name, np.stack([sums, counts]), log_snr))
    return sorted(found, key=lambda decision: decision.half.value)


def _decide(
    name: str, totals: Float[np.ndarray, "2 levels p"], log_snr: Float[np.ndarray, " levels"]
) -> Decision:
    curve = _curve(totals.sum(-1)[None])[0]
    half = half_decided(curve[None], log_snr)[0]
    clusters = int((totals[1, 0] > 0).sum())
    bands, ends = np.full((2, len(curve)), np.nan), np.full(2, np.nan)
    if clusters > 1:
        curves = _curve(resampled(totals))
        bands = expanded_percentiles(curves, clusters)
        ends = expanded_percentiles(half_decided(curves, log_snr), clusters)
    facts = {
        "count": int(totals[1, 0].sum()),
        "clusters": clusters,
        "method": "bootstrap over prompts, expanded percentile",
    }
    return Decision(
        name=name,
        undecided=tuple(
            Estimate(value=float(value), low=float(low), high=float(high), **facts)
            for value, low, high in zip(curve, *bands, strict=True)
        ),
        half=Estimate(value=float(half), low=float(ends[0]), high=float(ends[1]), **facts),
    )


def _curve(totals: Float[np.ndarray, "r 2 levels"]) -> Float[np.ndarray, "r levels"]:
    """The mean spread at each level over that at the first, NaN where nothing is known."""
    sums, counts = totals[:, 0], totals[:, 1]
    spread = sums / np.where(counts > 0, counts, np.nan)
    return np.asarray(spread / np.where(spread[:, :1] > 0, spread[:, :1], np.nan))


def half_decided(
    undecided: Float[np.ndarray, "r levels"], log_snr: Float[np.ndarray, " levels"]
) -> Float[np.ndarray, " r"]:
    """The log-SNR of the last time that each curve passes `HALF`, between two levels in a straight line; the
    last level's of a curve that stays above it, and NaN of an unknown one.
    """
    places = np.where(np.isneginf(log_snr), log_snr[min(1, len(log_snr) - 1)], log_snr)
    above = undecided >= HALF
    last = np.where(above.any(1), undecided.shape[1] - 1 - above[:, ::-1].argmax(1), 0)
    after = np.minimum(last + 1, undecided.shape[1] - 1)
    each = np.arange(len(undecided))
    high, low = undecided[each, last], undecided[each, after]
    drop = np.where(high > low, high - low, 1)
    share = np.clip((high - HALF) / drop, 0, 1)
    found = places[last] + share * (places[after] - places[last])
    return np.asarray(np.where(np.isnan(undecided[:, 0]), np.nan, found))
