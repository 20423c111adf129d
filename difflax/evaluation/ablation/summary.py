"""From readings to curves: the estimate and band of each metric, and the lines it is compared with."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from difflax.evaluation import metrics as m
from difflax.evaluation import statistics as st
from difflax.evaluation.ablation.results import AblationResult, Curve, GroupInfo, Provenance, best_index
from difflax.evaluation.measurement import Design, Instruments, Measurement

BUILT_IN = {
    metric.name: metric
    for metric in (
        m.CLIP_SCORE,
        m.FRECHET_DISTANCE,
        m.FEATURE_DIVERSITY,
        m.PIXEL_DIVERSITY,
        m.HSV_SATURATION,
        m.CLIPPED_FRACTION,
    )
}
JACKKNIFE_GROUPS = 20
SPLIT_SEED = 0
CHANCE, REAL = "chance", "real images"


def summarize(
    design: Design,
    scales: tuple[float, ...],
    measured: Sequence[Measurement],
    real: Sequence[Measurement | None],
    *,
    instruments: Instruments,
    provenance: Provenance,
) -> AblationResult:
    """The result of the readings of every scale (``measured``) and of each group's real images (``real``)."""
    judged = [name for name in measured[0].columns if name not in BUILT_IN]
    described = {name: m.judge_metric(name) for name in judged} | BUILT_IN
    curves: list[Curve] = []
    for name, metric in described.items():
        for index, group in enumerate(design.groups):
            rows = design.group == index
            if name in measured[0].columns:
                values = np.stack([scale.columns[name][rows] for scale in measured])
                estimates, near = _per_image(metric, values, design.prompt[rows], judged=name in judged)
            else:
                estimates, near = _per_set(metric, design, index, measured, real[index]), ()
            if not estimates:
                continue
            references = {CHANCE: float(group.chance[name])} if name in group.chance else {}
            level = _real_level(metric, real[index], int(rows.sum()))
            if level is not None:
                references[REAL] = level
            curves.append(
                Curve(
                    group=group.name,
                    metric=metric,
                    scales=scales,
                    estimates=tuple(estimates),
                    references=references,
                    near_best=tuple(near),
                )
            )
    return AblationResult(
        scales=scales,
        seeds=design.seeds,
        groups=_group_infos(design, real),
        curves=tuple(curves),
        records=_records(design, scales, measured),
        samples=_samples(design, measured),
        provenance=provenance,
        method=_method(design, real, instruments),
    )


def _per_image(
    metric: m.Metric, values: Float[np.ndarray, "s n"], prompts: Int[np.ndarray, " n"], *, judged: bool
) -> tuple[list[st.Estimate], list[bool]]:
    """Estimates of a metric with one value an image, and which scales are as good as the best."""
    asked: Bool[np.ndarray, " n"] = ~np.isnan(values).any(0)
    if not asked.any():
        return [], []
    values, prompts = values[:, asked], prompts[asked]
    if judged and st.is_proportion(values):
        effect = st.design_effect(values, prompts)
        estimates = [st.proportion(row, prompts, effect=effect) for row in values]
    else:
        estimates = [st.mean(row, prompts) for row in values]
    best = best_index(metric, values.mean(1))
    if best is None:
        return estimates, [False] * len(values)
    behind = [st.paired_difference(metric.sign * row, metric.sign * values[best], prompts) for row in values]
    return estimates, [bool(gap.low <= 0.0) for gap in behind]


def _per_set(
    metric: m.Metric, design: Design, index: int, measured: Sequence[Measurement], real: Measurement | None
) -> list[st.Estimate]:
    """Estimates of a metric of several images; empty where it cannot be measured."""
    rows = design.group == index
    prompts = design.prompt[rows]
    several = len(design.seeds) > 1
    has_features = measured[0].features.shape[1] > 0
    if metric == m.PIXEL_DIVERSITY and several:
        members = np.unique(prompts)
        return [st.mean(scale.pixel_diversity[members], members) for scale in measured]
    if metric == m.FEATURE_DIVERSITY and several and has_features:
        members = np.unique(prompts)
        return [st.mean(m.feature_diversity(scale.features[rows], prompts), members) for scale in measured]
    enough = len(prompts) > 1 and real is not None and len(real.features) > 1
    if metric == m.FRECHET_DISTANCE and has_features and real is not None and enough:
        target = m.fit_gaussian(m.normalize(real.features))
        return [_frechet(m.normalize(scale.features[rows]), prompts, target) for scale in measured]
    return []


def _frechet(
    features: Float[np.ndarray, "n d"], prompts: Int[np.ndarray, " n"], target: m.GaussianFit
) -> st.Estimate:
    value = m.frechet_distance(m.fit_gaussian(features), target)
    members = np.unique(prompts)
    # With two prompts, leaving one out would leave a single prompt's images: no spread between prompts.
    if len(members) < 3:
        return st.Estimate(
            value=value, low=np.nan, high=np.nan, count=len(features), clusters=len(members), method="no band"
        )
    blocks = np.array_split(members, min(JACKKNIFE_GROUPS, len(members)))
    left_out = [
        m.frechet_distance(m.fit_gaussian(features[~np.isin(prompts, block)]), target) for block in blocks
    ]
    estimate = st.jackknife(value, np.array(left_out), count=len(features), clusters=len(members))
    return dataclasses.replace(estimate, low=max(estimate.low, 0.0))


def _real_level(metric: m.Metric, real: Measurement | None, count: int) -> float | None:
    """What real images reach: a mean, or the Fréchet distance of ``count`` of them to the others."""
    if real is None:
        return None
    if metric == m.FRECHET_DISTANCE:
        if real.features.shape[1] == 0 or len(real.features) < 2 * count or count < 2:
            return None
        order = np.random.default_rng(SPLIT_SEED).permutation(len(real.features))
        features = m.normalize(real.features)[order]
        return m.frechet_distance(m.fit_gaussian(features[:count]), m.fit_gaussian(features[count:]))
    values = real.columns.get(metric.name)
    if values is None or np.all(np.isnan(values)):
        return None
    return float(np.nanmean(values))


def _group_infos(design: Design, real: Sequence[Measurement | None]) -> tuple[GroupInfo, ...]:
    return tuple(
        GroupInfo(
            name=group.name,
            prompts=group.prompts,
            count=len(group.prompts) * len(design.seeds),
            real=0 if reading is None else len(reading.features),
        )
        for group, reading in zip(design.groups, real, strict=True)
    )


def _records(
    design: Design, scales: Sequence[float], measured: Sequence[Measurement]
) -> dict[str, np.ndarray]:
    repeat = len(scales)
    return {
        "guidance_scale": np.repeat(np.array(scales, np.float64), len(design.captions)),
        "group": np.tile(np.array([design.groups[g].name for g in design.group]), repeat),
        "prompt": np.tile(np.array(design.captions), repeat),
        "seed": np.tile(design.seed, repeat),
        **{name: np.concatenate([scale.columns[name] for scale in measured]) for name in measured[0].columns},
    }


def _samples(design: Design, measured: Sequence[Measurement]) -> dict[str, np.ndarray]:
    images = np.stack([scale.samples for scale in measured])
    ends = np.cumsum(design.shown_by_group())
    parts = np.split(images, ends[:-1], axis=1)
    return {group.name: part for group, part in zip(design.groups, parts, strict=True)}


def _method(design: Design, real: Sequence[Measurement | None], instruments: Instruments) -> dict[str, str]:
    subsets = "; ".join(
        f"{group.name}: {group.count} images a scale, "
        f"{len(group.prompts)} prompts × {len(design.seeds)} seeds, "
        + (f"{group.real} real images" if group.real else "no real images")
        for group in _group_infos(design, real)
    )
    space = instruments.features
    return {
        "subsets": subsets,
        "images": "float32 in [0, 1] as generated; no resize and no rounding before the metrics",
        "features": "none" if space is None else f"{space.name}; input: {space.preprocessing}",
        "pairing": "every scale draws the same prompts with the same seeds and is compared image by image",
        "bands": (
            f"{st.CONFIDENCE:.0%}; shares: Wilson interval on the effective sample size of images clustered "
            f"by prompt; means: bootstrap over prompts, expanded percentile, {st.RESAMPLES} resamples; "
            f"Fréchet distance: jackknife over up to {JACKKNIFE_GROUPS} groups of prompts"
        ),
        "as good as the best": (
            f"the {st.CONFIDENCE:.0%} band of the paired difference to the best scale reaches zero; the "
            "best scale is chosen on the same images, which flatters it a little"
        ),
    }
