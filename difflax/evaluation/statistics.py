"""Estimates with confidence bands, where images of one prompt are not independent of each other.

The independent unit is the prompt: its seeds are a cluster. Scales are compared in pairs, since every scale
draws the same prompts with the same seeds, so the difference is taken image by image before anything is
averaged.

- A share of right images has a Wilson score interval (Wilson 1927) on the effective sample size
  ``n / design effect · (z / t)²`` (Kish 1965; Korn and Graubard 1998), which stays honest at 0 and 1, where a
  bootstrap has no width.
- A mean has a bootstrap over prompts with the expanded percentile interval (Hesterberg 2015), which widens
  the percentile interval to the coverage of a t interval when prompts are few.
- A statistic of a whole set (the Fréchet distance) has a delete-a-group jackknife interval (Shao and Tu
  1995): a bootstrap would bias it, because repeated images shrink the fitted covariance.
"""

import dataclasses
import functools
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float, Int

CONFIDENCE = 0.95
RESAMPLES = 4000
BOOTSTRAP_SEED = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its confidence band.

    Attributes:
        value, low, high: the estimate and the two ends of its band; NaN where nothing was measured.
        count: how many images (or prompts, for metrics of a prompt) it rests on.
        clusters: how many prompts.
        method: how the band was made.
    """

    value: float
    low: float
    high: float
    count: int
    clusters: int
    method: str


NOTHING = Estimate(value=np.nan, low=np.nan, high=np.nan, count=0, clusters=0, method="nothing measured")
"""The estimate of what was not measured."""


def wilson_interval(share: float, count: float | int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The score interval of a share observed in ``count`` > 0 trials (may be fractional) (Wilson 1927)."""
    z2 = NormalDist().inv_cdf((1 + confidence) / 2) ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = np.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count) / (1 + z2 / count)
    # The share lies between them, rounding or not.
    return min(max(float(centre - half), 0.0), share), max(min(float(centre + half), 1.0), share)


def _t_quantile(freedom: int, confidence: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + confidence) / 2))


def cluster_sums(
    values: Float[np.ndarray, "... n"], clusters: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, "... k"], Float[np.ndarray, " k"]]:
    """The sum over each cluster, and how many values it has."""
    _, index, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    sums = np.zeros((*values.shape[:-1], len(sizes)))
    np.add.at(sums, (..., index), values)
    return sums, sizes.astype(np.float64)


def design_effect(values: Float[np.ndarray, "s n"], clusters: Int[np.ndarray, " n"]) -> float:
    """How much the clustering of images by prompt inflates the variance of a share (Kish 1965).

    The variance of the clustered mean over that of as many independent images, pooled over ``s`` scales for
    stability, and kept between 1 and the largest cluster. Where nothing varies it cannot be estimated, and
    the largest cluster (seeds that are copies of each other) is assumed.
    """
    sums, sizes = cluster_sums(values, clusters)
    number, count = len(sizes), sizes.sum()
    shares = values.mean(-1, keepdims=True)
    independent = np.sum(shares * (1 - shares)) / count
    if number < 2 or independent == 0:
        return float(sizes.max())
    clustered = number / (number - 1) * np.sum((sums - shares * sizes) ** 2) / count**2
    return float(np.clip(clustered / independent, 1.0, sizes.max()))


@functools.lru_cache(4)
def _draws(number: int, resamples: int, seed: int) -> Float[np.ndarray, "r k"]:
    """How often each of so many clusters comes in every resample; one sweep asks for the same many times."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(number, np.full(number, 1 / number), size=resamples).astype(np.float64)


def resampled(
    sums: Float[np.ndarray, "... k"], resamples: int = RESAMPLES, seed: int = BOOTSTRAP_SEED
) -> Float[np.ndarray, "r ..."]:
    """Totals over clusters that are drawn again, as many as there are, with replacement. Equal seeds draw the
    same clusters.
    """
    return np.tensordot(_draws(sums.shape[-1], resamples, seed), sums, (1, -1))


def expansion(number: int, confidence: float = CONFIDENCE) -> float:
    """How much wider than the normal one the interval of ``number`` > 1 clusters is (Hesterberg 2015)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return float(np.sqrt(number / (number - 1))) * _t_quantile(number - 1, confidence) / z


def expanded_percentiles(
    values: Float[np.ndarray, "r ..."], number: int, confidence: float = CONFIDENCE
) -> Float[np.ndarray, "2 ..."]:
    """The two ends of the expanded percentile interval (Hesterberg 2015) of a statistic's values under
    `resampled` from ``number`` > 1 clusters; values that are NaN are left out.
    """
    tail = NormalDist().cdf(-expansion(number, confidence) * NormalDist().inv_cdf((1 + confidence) / 2))
    return np.nanquantile(values, [tail, 1 - tail], axis=0)


def proportion(
    values: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    *,
    effect: float | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The share of ones among values in {0, 1}, with a Wilson interval for clustered trials.

    ``effect`` is a design effect pooled over more data than ``values``; without it, that of ``values`` is
    used.
    """
    number = len(np.unique(clusters))
    if effect is None:
        effect = design_effect(values[None], clusters)
    effective = len(values) / effect
    if number > 1:
        z = NormalDist().inv_cdf((1 + confidence) / 2)
        effective *= (z / _t_quantile(number - 1, confidence)) ** 2
    share = float(values.mean())
    low, high = wilson_interval(share, effective, confidence)
    return Estimate(
        value=share,
        low=low,
        high=high,
        count=len(values),
        clusters=number,
        method="Wilson, clustered by prompt",
    )


def mean(
    values: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = BOOTSTRAP_SEED,
) -> Estimate:
    """The mean of the values, with a bootstrap over clusters and the expanded percentile interval.

    Equal seeds resample the same prompts, so bands of several scales move together. With one cluster there is
    no band: both ends are NaN.
    """
    sums, sizes = cluster_sums(values, clusters)
    number = len(sizes)
    low = high = np.nan
    if number > 1:
        totals = resampled(np.stack([sums, sizes]), resamples, seed)
        low, high = expanded_percentiles(totals[:, 0] / totals[:, 1], number, confidence)
    return Estimate(
        value=float(values.mean()),
        low=float(low),
        high=float(high),
        count=len(values),
        clusters=number,
        method="bootstrap over prompts, expanded percentile",
    )


def paired_difference(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    *,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean of ``second - first``, image by image (same prompt, same seed), bootstrapped over prompts."""
    return mean(second - first, clusters, confidence=confidence)


def jackknife(
    value: float,
    left_out: Float[np.ndarray, " g"],
    *,
    count: int,
    clusters: int,
    confidence: float = CONFIDENCE,
    of: str = "prompts",
) -> Estimate:
    """The band of a statistic from its values with each of ``g`` ≥ 2 equal groups of clusters left out.

    ``Var = (g - 1) / g · Σ (θ_i - mean θ)²`` and a t interval with ``g - 1`` degrees of freedom.

    Args:
        of: what the groups are of, in words.
    """
    groups = len(left_out)
    if groups < 2:
        raise ValueError(f"a jackknife needs at least 2 groups, got {groups}")
    deviation = np.sqrt((groups - 1) / groups * np.sum((left_out - left_out.mean()) ** 2))
    half = _t_quantile(groups - 1, confidence) * float(deviation)
    return Estimate(
        value=value,
        low=value - half,
        high=value + half,
        count=count,
        clusters=clusters,
        method=f"jackknife over {groups} groups of {of}",
    )


def is_proportion(values: Float[np.ndarray, "..."]) -> bool:
    """Whether all values that were measured (not NaN) are 0 or 1."""
    measured: Bool[np.ndarray, ...] = ~np.isnan(values)
    return bool(np.all(np.isin(values[measured], (0.0, 1.0))))
