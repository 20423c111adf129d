"""From readings to curves: the estimate and band of each metric, and the lines it is compared with."""

from collections.abc import Mapping, Sequence, Set

import numpy as np
from jaxtyping import Bool, Float, Int

from difflax.evaluation import metrics as m
from difflax.evaluation import statistics as st
from difflax.evaluation.ablation.arms import Arm, axes_of
from difflax.evaluation.ablation.frechet import JACKKNIFE_GROUPS, bias_note, frechet_estimates
from difflax.evaluation.ablation.results import AblationResult, GroupInfo, Measured, Provenance, best_index
from difflax.evaluation.measurement import Design, Instruments, Measurement, compare

BUILT_IN = (
    m.CLIP_SCORE,
    m.FRECHET_DISTANCE,
    m.FRECHET_INFINITY,
    m.FRECHET_BIAS,
    m.FEATURE_DIVERSITY,
    m.PIXEL_DIVERSITY,
    m.HSV_SATURATION,
    m.CLIPPED_FRACTION,
)
SPLIT_SEED = 0
CHANCE, REAL, TRUTH = "chance", "real images", "truth"


def summarize(
    design: Design,
    arms: Sequence[Arm],
    measured: Sequence[Measurement],
    real: Sequence[Measurement | None],
    *,
    instruments: Instruments,
    provenance: Provenance,
    labels: Mapping[str, str] | None = None,
) -> AblationResult:
    """The result of the readings of every arm (``measured``) and of each group's real images (``real``).

    Args:
        labels: of the axes in words, by name.
    """
    judge = instruments.judge
    compared = [] if judge is None else [compare(arm, design, judge) for arm in measured]
    distances = [frechet_estimates(design, index, measured, each) for index, each in enumerate(real)]
    found: list[Measured] = []
    for metric in [*(() if judge is None else judge.metrics), *BUILT_IN]:
        for index, group in enumerate(design.groups):
            rows = design.group == index
            estimates, near = _estimates(metric, design, index, measured, compared)
            if metric.name in distances[index]:
                estimates = distances[index][metric.name]
                near = [False] * len(estimates)
            if not estimates:
                continue
            references = {CHANCE: float(group.chance[metric.name])} if metric.name in group.chance else {}
            level = _real_level(metric, real[index], int(rows.sum()))
            if level is not None:
                references[REAL] = level
            if metric.truth is not None:
                references[TRUTH] = metric.truth
            found.append(
                Measured(
                    group=group.name,
                    metric=metric,
                    estimates=tuple(estimates),
                    references=references,
                    near_best=tuple(near),
                )
            )
    return AblationResult(
        arms=tuple(arms),
        axes=axes_of(arms, labels),
        seeds=design.seeds,
        groups=_group_infos(design, real),
        measured=tuple(found),
        records=_records(design, arms, measured),
        samples=_samples(design, measured),
        provenance=provenance,
        method=_method(design, real, instruments) | bias_note(found),
        by_prompt=_by_prompt(design, measured, compared, {each.metric.name for each in found}),
        aspects={} if judge is None else dict(judge.aspects),
    )


def _estimates(
    metric: m.Metric,
    design: Design,
    index: int,
    measured: Sequence[Measurement],
    compared: Sequence[dict[str, Float[np.ndarray, " p"]]],
) -> tuple[list[st.Estimate], list[bool]]:
    """The estimates of one group in every arm, and which arms are as good as the best."""
    rows = design.group == index
    prompts = design.prompt[rows]
    if metric.name in measured[0].columns:
        values = np.stack([arm.columns[metric.name][rows] for arm in measured])
        judged = metric not in BUILT_IN and st.is_proportion(values)
        return paired_estimates(metric, values, prompts, shares=judged)
    if any(metric.name in arm for arm in compared):
        members = np.unique(prompts)
        missing = np.full(len(design.prompts), np.nan)
        values = np.stack([arm.get(metric.name, missing)[members] for arm in compared])
        return paired_estimates(metric, values, members, shares=False)
    found = _per_prompt(metric, design, index, measured)
    return found, [False] * len(found)


def paired_estimates(
    metric: m.Metric, values: Float[np.ndarray, "s n"], prompts: Int[np.ndarray, " n"], *, shares: bool
) -> tuple[list[st.Estimate], list[bool]]:
    """Estimates of a metric with one value an image, or a prompt, in each arm, NaN where it has none; and
    which arms are as good as the best. Empty where nothing was measured.
    """
    asked: Bool[np.ndarray, "s n"] = ~np.isnan(values)
    if not asked.any():
        return [], []
    always = asked.all(0)
    effect = st.design_effect(values[:, always], prompts[always]) if shares and always.any() else None

    def estimate(row, asked) -> st.Estimate:
        if not asked.any():
            return st.NOTHING
        if shares:
            return st.proportion(row[asked], prompts[asked], effect=effect)
        return st.mean(row[asked], prompts[asked])

    estimates = [estimate(*pair) for pair in zip(values, asked, strict=True)]
    best = best_index(metric, np.array([found.value for found in estimates]))
    if best is None:
        return estimates, [False] * len(values)

    def as_good(row, asked) -> bool:
        both = asked & ~np.isnan(values[best])
        signed = metric.sign * row[both], metric.sign * values[best][both]
        return bool(both.any() and st.paired_difference(*signed, prompts[both]).low <= 0.0)

    return estimates, [as_good(*pair) for pair in zip(values, asked, strict=True)]


def _per_prompt(
    metric: m.Metric, design: Design, index: int, measured: Sequence[Measurement]
) -> list[st.Estimate]:
    """Estimates of a metric of the images of a prompt; empty where it cannot be measured."""
    rows = design.group == index
    prompts = design.prompt[rows]
    several = len(design.seeds) > 1
    has_features = measured[0].features.shape[1] > 0
    if metric == m.PIXEL_DIVERSITY and several:
        members = np.unique(prompts)
        return [st.mean(arm.pixel_diversity[members], members) for arm in measured]
    if metric == m.FEATURE_DIVERSITY and several and has_features:
        members = np.unique(prompts)
        return [st.mean(m.feature_diversity(arm.features[rows], prompts), members) for arm in measured]
    return []


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


def _records(design: Design, arms: Sequence[Arm], measured: Sequence[Measurement]) -> dict[str, np.ndarray]:
    repeat = len(arms)
    return {
        "arm": np.repeat(np.array([arm.key for arm in arms]), len(design.captions)),
        "group": np.tile(np.array([design.groups[g].name for g in design.group]), repeat),
        "prompt": np.tile(np.array(design.captions), repeat),
        "seed": np.tile(design.seed, repeat),
        **{name: np.concatenate([arm.columns[name] for arm in measured]) for name in measured[0].columns},
    }


def _by_prompt(
    design: Design,
    measured: Sequence[Measurement],
    compared: Sequence[dict[str, Float[np.ndarray, " p"]]],
    names: Set[str],
) -> dict[str, Float[np.ndarray, "a p"]]:
    """The metrics that have one value a prompt, of those that were measured."""
    missing = np.full(len(design.prompts), np.nan)
    found = {
        name: np.stack([arm.get(name, missing) for arm in compared])
        for name in dict.fromkeys(name for arm in compared for name in arm)
        if name in names
    }
    if m.PIXEL_DIVERSITY.name in names:
        found[m.PIXEL_DIVERSITY.name] = np.stack([arm.pixel_diversity for arm in measured])
    if m.FEATURE_DIVERSITY.name in names:
        found[m.FEATURE_DIVERSITY.name] = np.stack(
            [m.feature_diversity(arm.features, design.prompt) for arm in measured]
        )
    return found


def _samples(design: Design, measured: Sequence[Measurement]) -> dict[str, np.ndarray]:
    images = np.stack([arm.samples for arm in measured])
    ends = np.cumsum(design.shown_by_group())
    parts = np.split(images, ends[:-1], axis=1)
    return {group.name: part for group, part in zip(design.groups, parts, strict=True)}


def _method(design: Design, real: Sequence[Measurement | None], instruments: Instruments) -> dict[str, str]:
    subsets = "; ".join(
        f"{group.name}: {group.count} images an arm, "
        f"{len(group.prompts)} prompts × {len(design.seeds)} seeds, "
        + (f"{group.real} real images" if group.real else "no real images")
        for group in _group_infos(design, real)
    )
    space = instruments.features
    return {
        "subsets": subsets,
        "images": "float32 in [0, 1] as generated; no resize and no rounding before the metrics",
        "features": "none" if space is None else f"{space.name}; input: {space.preprocessing}",
        "pairing": (
            "every arm draws the same prompts with the same noise and is compared image by image; of one"
            " arm no two images share their noise"
        ),
        "bands": (
            f"{st.CONFIDENCE:.0%}; shares: Wilson interval on the effective sample size of images clustered "
            f"by prompt; means: bootstrap over prompts, expanded percentile, {st.RESAMPLES} resamples; "
            f"Fréchet distance: jackknife over up to {JACKKNIFE_GROUPS} groups of prompts"
        ),
        "as good as the best": (
            f"the {st.CONFIDENCE:.0%} band of the paired difference to the best arm reaches zero; the "
            "best arm is chosen on the same images, which flatters it a little"
        ),
    }
