"""Runs whose prompt is switched on the way: at which noise levels does the prompt count?

A run follows one prompt down to a noise level and another prompt from there on (Balaji et al.,
arXiv:2211.01324, figure 5). Where the picture shows what the first prompt names although it was given for a
part of the run alone, that part is where the prompt counts. All runs of a seed start from the same noise, so
that they differ by the switch alone.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from difflax.evaluation import statistics
from difflax.evaluation.ablation.comparison import Comparison, log_snr_axis
from difflax.evaluation.ablation.results import Curve
from difflax.evaluation.metrics import Metric
from difflax.figures.trajectory import log_snr_places
from difflax.generation.pipeline import Pipeline
from difflax.runs.decisions import restart_points
from difflax.runs.studied import Studied

UNTIL, SINCE = "given until then", "given from then on"


@dataclasses.dataclass(frozen=True)
class Switch:
    """Pictures of runs that changed their prompt at one noise level.

    Attributes:
        step: how many steps the run had made; at 0 the second prompt is given all the way.
        log_snr: of the noisy picture at the switch.
        until: pictures in [0, 1] of runs that were given the prompt before the switch and the other after it.
        since: pictures in [0, 1] of runs that were given the other before the switch and the prompt after it.
    """

    step: int
    log_snr: float
    until: Float[np.ndarray, "n h w c"]
    since: Float[np.ndarray, "n h w c"]


def switches(
    pipeline: Pipeline,
    prompts: Sequence[str],
    other: str,
    *,
    seeds: Sequence[int],
    points: int,
    **call: Any,
) -> Iterator[Switch]:
    """Runs of each prompt, switched at some of the steps, from pure noise on.

    A sampler or a guidance with a memory starts anew at the switch.

    Args:
        prompts: one an image, repeated for several images of one prompt.
        other: what is given for the rest of the run; "" is no prompt.
        seeds: one an image.
        points: noise levels, pure noise among them, evenly spread over the steps.
        call: the other arguments of ``pipeline(…)``, ``num_steps`` among them.

    Raises:
        UserError: what ``pipeline(…)`` refuses.
    """
    asked, others, seeds = list(prompts), [other] * len(prompts), list(seeds)

    def run(prompt: list[str], **part: Any) -> Float[np.ndarray, "n h w c"]:
        return pipeline(prompt=prompt, seed=seeds, **call, **part)

    for step, share, log_snr in restart_points(pipeline, call["num_steps"], points):
        if share is None:
            yield Switch(step, log_snr, until=run(others), since=run(asked))
            continue
        ends = []
        for before, after in ((asked, others), (others, asked)):
            latents = run(before, denoising_end=share)
            ends.append(run(after, latents=latents, denoising_start=share))
        yield Switch(step, log_snr, until=ends[0], since=ends[1])


def switch_study(
    subject: Studied,
    other: str,
    *,
    points: int,
    scale: float | None,
    sampler: str,
    num_steps: int,
    negative_prompt: str | None = None,
) -> Comparison:
    """How often everything that a prompt names, and each factor of it, is right where the prompt was given
    for a part of the run: against the noise level of the switch.

    Args:
        other: what is given for the rest of the run, see `switches`.
        scale: of the guidance; ``None``: the run's own.

    Raises:
        UserError: what ``pipeline(…)`` refuses.
    """
    judge = subject.instruments.judge
    prompts = [prompt for prompt in subject.group.prompts for _ in range(subject.seeds)]
    # Every image has a noise of its own: bands take prompts for independent.
    seeds = range(len(prompts))
    clusters = np.repeat(np.arange(len(subject.group.prompts)), subject.seeds)
    call = {
        "guidance_scale": scale,
        "sampler": sampler,
        "num_steps": num_steps,
        "negative_prompt": negative_prompt,
    }
    log_snr: list[float] = []
    read: dict[str, list[Any]] = {UNTIL: [], SINCE: []}
    for found in switches(subject.pipeline, prompts, other, seeds=seeds, points=points, **call):
        log_snr.append(found.log_snr)
        read[UNTIL].append(judge.read(found.until, prompts))
        read[SINCE].append(judge.read(found.since, prompts))
    places = log_snr_places(log_snr)
    curves = []
    for metric in judge.metrics:
        for name, columns in read.items():
            # Coverage is of many pictures of one prompt, and no column of the judge's readings.
            if metric.name not in columns[0]:
                continue
            values = np.stack([np.asarray(column[metric.name], float) for column in columns])
            if _says_something(metric, values):
                curves.append(_curve(name, metric, places, values, clusters))
    given = "no prompt" if not other else f"“{other}”"
    return Comparison(
        title=f"When the prompt counts: the rest of the run was given {given}",
        of="the prompt was",
        along="log-SNR at the switch",
        axis=log_snr_axis,
        curves=tuple(curves),
        facts={
            **subject.facts,
            **{name: value for name, value in call.items() if value is not None},
            "other prompt": other,
            "pure noise is shown at": places[0],
        },
    )


def _says_something(metric: Metric, values: Float[np.ndarray, "levels n"]) -> bool:
    """Whether it is a share of right pictures of which some were asked. Accuracy by the number of named
    factors, whose metrics end in ``_named``, is about the prompts and not about the levels.
    """
    known = bool((~np.isnan(values)).any())
    return known and statistics.is_proportion(values) and "_named" not in metric.name


def _curve(
    name: str,
    metric: Metric,
    places: Sequence[float],
    values: Float[np.ndarray, "levels n"],
    clusters: np.ndarray,
) -> Curve:
    estimates = []
    for row in values:
        asked = ~np.isnan(row)
        found = statistics.proportion(row[asked], clusters[asked]) if asked.any() else statistics.NOTHING
        estimates.append(found)
    return Curve(group=name, metric=metric, scales=tuple(places), estimates=tuple(estimates))
