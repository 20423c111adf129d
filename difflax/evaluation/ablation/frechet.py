"""The Fréchet distance of every arm, by how much few images make it too large, and what it would be of
infinitely many.

A distance of ``n`` images is biased upwards by about ``a / n``, with an ``a`` that depends on the model
(Chong and Forsyth 2020). The groups of prompts that the jackknife leaves out for the band estimate that term
too, also where the images are too few for the line of FID∞.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation import metrics as m
from difflax.evaluation import statistics as st
from difflax.evaluation.ablation.results import Measured
from difflax.evaluation.measurement import Design, Measurement
from difflax.evaluation.metrics.extrapolation import POINTS

JACKKNIFE_GROUPS = 20
INFINITY_GROUPS = 5
"""Of the band of the extrapolation, each of whose values takes as many distances as its line has points."""
INFINITY_SEED = 0
BIAS_NOTE = "bias of the Fréchet distance"
"""The name of the note in `AblationResult.method`."""


def frechet_estimates(
    design: Design, index: int, measured: Sequence[Measurement], real: Measurement | None
) -> dict[str, list[st.Estimate]]:
    """Distance, expected bias and, where there are images enough, FID∞ of a group in every arm, by the names
    of their metrics; empty without features of several made and real images.
    """
    rows = design.group == index
    prompts = design.prompt[rows]
    width = measured[0].features.shape[1]
    if not width or len(prompts) < 2 or real is None or len(real.features) < 2:
        return {}
    target = m.fit_gaussian(m.normalize(real.features))
    features = [m.normalize(arm.features[rows]) for arm in measured]
    pairs = [_distance_and_bias(arm, prompts, target) for arm in features]
    found = {
        m.FRECHET_DISTANCE.name: [distance for distance, _ in pairs],
        m.FRECHET_BIAS.name: [bias for _, bias in pairs],
    }
    if any(not bias.count for bias in found[m.FRECHET_BIAS.name]):
        del found[m.FRECHET_BIAS.name]
    if len(np.unique(prompts)) >= POINTS and len(prompts) >= 2 * m.smallest_part(width):
        found[m.FRECHET_INFINITY.name] = [_infinity(arm, prompts, target) for arm in features]
    return found


def _without(prompts: Int[np.ndarray, " n"], groups: int) -> list[np.ndarray]:
    """Which images stay when each of at most ``groups`` groups of prompts is left out."""
    members = np.unique(prompts)
    return [~np.isin(prompts, block) for block in np.array_split(members, min(groups, len(members)))]


def _distance_and_bias(
    features: Float[np.ndarray, "n d"], prompts: Int[np.ndarray, " n"], target: m.GaussianFit
) -> tuple[st.Estimate, st.Estimate]:
    value = m.frechet_distance(m.fit_gaussian(features), target)
    count, clusters = len(features), len(np.unique(prompts))
    # With two prompts, leaving one out would leave a single prompt's images: no spread between prompts.
    if clusters < 3:
        alone = st.Estimate(
            value=value, low=np.nan, high=np.nan, count=count, clusters=clusters, method="no band"
        )
        return alone, st.NOTHING
    kept = _without(prompts, JACKKNIFE_GROUPS)
    left_out = np.array([m.frechet_distance(m.fit_gaussian(features[rows]), target) for rows in kept])
    estimate = st.jackknife(value, left_out, count=count, clusters=clusters)
    bias = st.Estimate(
        value=(len(left_out) - 1) * (float(left_out.mean()) - value),
        low=np.nan,
        high=np.nan,
        count=count,
        clusters=clusters,
        method=estimate.method,
    )
    return dataclasses.replace(estimate, low=max(estimate.low, 0.0)), bias


def _infinity(
    features: Float[np.ndarray, "n d"], prompts: Int[np.ndarray, " n"], target: m.GaussianFit
) -> st.Estimate:
    smallest = m.smallest_part(features.shape[1])

    def value(rows) -> float:
        found = m.frechet_infinity(
            features[rows], target, seed=INFINITY_SEED, smallest=smallest, clusters=prompts[rows]
        )
        return found.value

    left_out = np.array([value(rows) for rows in _without(prompts, INFINITY_GROUPS)])
    everything = np.ones(len(features), bool)
    return st.jackknife(value(everything), left_out, count=len(features), clusters=len(np.unique(prompts)))


def bias_note(found: Sequence[Measured]) -> dict[str, str]:
    """What the numbers of images do to the Fréchet distances of a result, under `BIAS_NOTE`; empty where none
    was measured.
    """
    said = []
    groups = dict.fromkeys(each.group for each in found if each.metric == m.FRECHET_DISTANCE)
    for group in groups:
        mine = {each.metric.name: each for each in found if each.group == group}
        count = mine[m.FRECHET_DISTANCE.name].estimates[0].count
        parts = [f"{count:,} images an arm"]
        if m.FRECHET_BIAS.name in mine:
            biases = [estimate.value for estimate in mine[m.FRECHET_BIAS.name].estimates]
            parts.append(f"expected to be too large by {min(biases):.2g} to {max(biases):.2g}")
        parts.append(
            "extrapolated beside it" if m.FRECHET_INFINITY.name in mine else "too few to extrapolate"
        )
        said.append(f"{group}: {', '.join(parts)}")
    text = f"Few images make it too large, arm by arm differently. {'; '.join(said)}."
    return {BIAS_NOTE: text} if said else {}
