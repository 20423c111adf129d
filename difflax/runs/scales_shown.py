"""How the search for the right scale is shown: its tables, and what the scale of one band alone does."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from difflax.diffusion.guidance import ClassifierFreeGuidance, interval
from difflax.diffusion.guidance.intervals import noise_angle
from difflax.diffusion.guidance.scale_schedules import scheduled
from difflax.diffusion.schedules import NoiseLevel
from difflax.evaluation.ablation.arms import Arm
from difflax.evaluation.ablation.comparison import Comparison
from difflax.evaluation.ablation.plots import scale_axis
from difflax.evaluation.ablation.results import Curve
from difflax.evaluation.ablation.scale_report import ScaleTables, bounds_in_words
from difflax.evaluation.metrics import ACCURACY
from difflax.evaluation.shapes import descriptions
from difflax.evaluation.shapes.overlap import TRUTH_OVERLAP, by_prompt, overlaps
from difflax.evaluation.statistics import mean
from difflax.runs.axes.guidance import read_schedule
from difflax.runs.scales import ScaleSearch, ScaleStudy, arm_of_point
from difflax.runs.studied import Studied

BESIDE_OVERLAP = (ACCURACY.name, descriptions.KEPT, descriptions.EXCESS, descriptions.PSNR)
"""The metrics that are shown beside the overlap."""


def scale_tables(study: ScaleStudy, subject: Studied, search: ScaleSearch, **facts: Any) -> ScaleTables:
    """The study as it is shown.

    Args:
        facts: beside the subject's.
    """
    named = {each.name: each for each in (ACCURACY, *descriptions.COVERAGE, *descriptions.FIDELITY)}
    metrics = (TRUTH_OVERLAP, *(named[name] for name in BESIDE_OVERLAP))
    values = {metric.name: by_prompt(study.held_out, metric.name) for metric in metrics[1:]}
    own = {key: value for key, value in subject.config["guidance"].items() if value and key != "scale"}
    return ScaleTables(
        edges=study.edges,
        lines=study.alone,
        found=study.path[-1],
        names=study.names,
        scales={
            name: scales_of(arm, study.levels)
            for name, arm in zip(study.names, study.held_out.arms, strict=True)
        },
        log_snr=np.asarray(study.levels.log_snr, float)[:-1],
        metrics=metrics,
        values={TRUTH_OVERLAP.name: overlaps(study.held_out), **values},
        guidance={**own, "schedule": study.section},
        facts={
            **subject.facts,
            **facts,
            "best scale of each": dict(study.scales),
            "scales tried": dataclasses.asdict(search),
            "descent": [list(point) for point in study.path],
        },
    )


def bands_comparison(study: ScaleStudy, subject: Studied, **facts: Any) -> Comparison:
    """What each band's scale alone does: a line a band along its scale, for every metric.

    Args:
        facts: beside the subject's.
    """
    arms = [arm.key for arm in study.searches.arms]
    prompts = np.arange(len(study.searches.groups[0].prompts))
    overlap = [mean(row, prompts) for row in overlaps(study.searches)]
    measured = {each.metric.name: each for each in study.searches.measured}
    curves = []
    for metric in (TRUTH_OVERLAP, *(measured[name].metric for name in BESIDE_OVERLAP if name in measured)):
        estimates = overlap if metric is TRUTH_OVERLAP else measured[metric.name].estimates
        for line in study.alone:
            points = [
                (*study.path[0][: line.coordinate], value, *study.path[0][line.coordinate + 1 :])
                for value in line.values
            ]
            found = [arm_of_point(study.edges, point).key for point in points]
            curves.append(
                Curve(
                    group=f"log-SNR {bounds_in_words(study.edges, line.coordinate)}",
                    metric=metric,
                    scales=line.values,
                    estimates=tuple(estimates[arms.index(key)] for key in found),
                    references={"truth": metric.truth} if metric.truth is not None else {},
                )
            )
    return Comparison(
        title="The scale of one band of noise alone",
        of="band",
        along="guidance scale",
        axis=scale_axis,
        rings=True,
        curves=tuple(curves),
        facts={**subject.facts, **facts, "scale of the other bands": study.base},
    )


def scales_of(arm: Arm, levels: NoiseLevel) -> Float[np.ndarray, " steps"]:
    """The scale that an arm has at every step of a run; 1 outside of its interval."""
    scale = arm.settings.get("guidance.scale", 1.0)
    schedule = read_schedule(arm.settings.get("guidance.schedule"), "guidance.schedule")
    guidance = scheduled(ClassifierFreeGuidance(scale), schedule, levels)
    found = np.asarray(guidance.scale_at(levels[:-1]))
    if (bounds := arm.settings.get("guidance.interval")) is None:
        return found
    angles = np.asarray(noise_angle(levels))[:-1]
    limited = interval(guidance, *bounds, levels=levels)
    return np.where((angles >= limited.low) & (angles <= limited.high), found, 1.0)
