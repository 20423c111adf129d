"""Runs whose prompt is switched on the way: at which noise levels does the prompt count?

A run follows one prompt down to a noise level and another prompt from there on (Balaji et al.,
arXiv:2211.01324, figure 5). Where the picture shows what the first prompt names although it was given for a
part of the run alone, that part is where the prompt counts. All runs of a seed start from the same noise, so
that they differ by the switch alone; and of the ends of two runs that part at a level, one of which keeps its
prompt, the factors that changed are counted.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from difflax.core.events import with_progress
from difflax.core.spelling import choose
from difflax.evaluation import statistics
from difflax.evaluation.ablation.comparison import Comparison, log_snr_axis
from difflax.evaluation.ablation.results import Curve
from difflax.evaluation.metrics import Metric
from difflax.evaluation.shapes.changes import CHANGES, changes
from difflax.figures.trajectory import log_snr_places
from difflax.generation.pipeline import Pipeline
from difflax.runs.decisions import restart_points
from difflax.runs.studied import Studied

UNTIL, SINCE = "given until then", "given from then on"
SWAPPED = "given until then, against given all the way"


@dataclasses.dataclass(frozen=True)
class Switch:
    """Pictures of runs that changed their prompt at one noise level.

    Attributes:
        step: how many steps the run had made; at 0 the second prompt is given all the way.
        log_snr: of the noisy picture at the switch.
        until: pictures in [0, 1] of runs that were given the prompt before the switch and the other after it.
        since: pictures in [0, 1] of runs that were given the other before the switch and the prompt after it.
        kept: pictures in [0, 1] of the runs of ``until`` that go on from the switch with the prompt.
    """

    step: int
    log_snr: float
    until: Float[np.ndarray, "n h w c"]
    since: Float[np.ndarray, "n h w c"]
    kept: Float[np.ndarray, "n h w c"]


def switches(
    pipeline: Pipeline,
    prompts: Sequence[str],
    other: str,
    *,
    seeds: Sequence[int],
    points: int,
    encoder: str | None = None,
    **call: Any,
) -> Iterator[Switch]:
    """Runs of each prompt, switched at some of the steps, from pure noise on.

    A sampler or a guidance with a memory starts anew at the switch.

    Args:
        prompts: one an image, repeated for several images of one prompt.
        other: what is given for the rest of the run; "" is no prompt.
        seeds: one an image.
        points: noise levels, pure noise among them, evenly spread over the steps.
        encoder: the text encoder that reads ``other``, by its name in `Model.text_encoders`; the rest go on
            with the prompt. ``None``: all read it.
        call: the other arguments of ``pipeline(…)``, ``num_steps`` among them.

    Raises:
        UserError: no such encoder, or what ``pipeline(…)`` refuses.
    """
    asked, seeds = {"prompt": list(prompts)}, list(seeds)
    others = _told(pipeline, list(prompts), other, encoder)

    def run(said: dict[str, list[str]], **part: Any) -> Float[np.ndarray, "n h w c"]:
        return pipeline(seed=seeds, **said, **call, **part)

    levels = restart_points(pipeline, call["num_steps"], points)
    for step, share, log_snr in with_progress(levels, "switches", "level"):
        if share is None:
            whole = run(asked)
            yield Switch(step, log_snr, until=run(others), since=whole, kept=whole)
            continue
        begun, other_begun = (run(said, denoising_end=share) for said in (asked, others))
        until, kept = (run(said, latents=begun, denoising_start=share) for said in (others, asked))
        since = run(asked, latents=other_begun, denoising_start=share)
        yield Switch(step, log_snr, until=until, since=since, kept=kept)


def _told(pipeline: Pipeline, prompts: list[str], other: str, encoder: str | None) -> dict[str, list[str]]:
    """The arguments of a call that says ``other`` to one of the text encoders, or to all."""
    others = [other] * len(prompts)
    if encoder is None:
        return {"prompt": others}
    names = pipeline.model.text_encoders
    choose(dict.fromkeys(names), encoder, "encoder")
    arguments = ["prompt", *(f"prompt_{number}" for number in range(2, len(names) + 1))]
    said = [others if name == encoder else prompts for name in names]
    return dict(zip(arguments, said, strict=True))


def switch_study(
    subject: Studied,
    other: str,
    *,
    points: int,
    scale: float | None,
    sampler: str,
    num_steps: int,
    negative_prompt: str | None = None,
    encoder: str | None = None,
) -> Comparison:
    """How often everything that a prompt names, and each factor of it, is right where the prompt was given
    for a part of the run, and which factors change there: against the noise level of the switch.

    Args:
        other: what is given for the rest of the run, see `switches`.
        scale: of the guidance; ``None``: the run's own.
        encoder: the text encoder that reads ``other``, see `switches`.

    Raises:
        UserError: no such encoder, or what ``pipeline(…)`` refuses.
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
    changed: list[dict[str, np.ndarray]] = []
    asked = {"seeds": seeds, "points": points, "encoder": encoder}
    for found in switches(subject.pipeline, prompts, other, **asked, **call):
        log_snr.append(found.log_snr)
        read[UNTIL].append(judge.read(found.until, prompts))
        read[SINCE].append(judge.read(found.since, prompts))
        changed.append(changes(judge.read(found.kept, prompts), read[UNTIL][-1], prompts))
    places = log_snr_places(log_snr)
    curves = []
    for metric in judge.metrics:
        for name, columns in read.items():
            # Coverage is of many pictures of one prompt, and no column of the judge's readings.
            if metric.name not in columns[0]:
                continue
            values = np.stack([np.asarray(column[metric.name], float) for column in columns])
            if _says_something(metric, values):
                curves.append(_curve(name, metric, places, values, clusters, statistics.proportion))
    for metric in CHANGES:
        values = np.stack([column[metric.name] for column in changed])
        curves.append(_curve(SWAPPED, metric, places, values, clusters, statistics.mean))
    given = "no prompt" if not other else f"“{other}”"
    given += "" if encoder is None else f" to {encoder}"
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
            **({} if encoder is None else {"text encoder that read it": encoder}),
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
    of: Callable[[np.ndarray, np.ndarray], statistics.Estimate],
) -> Curve:
    estimates = []
    for row in values:
        asked = ~np.isnan(row)
        found = of(row[asked], clusters[asked]) if asked.any() else statistics.NOTHING
        estimates.append(found)
    return Curve(group=name, metric=metric, scales=tuple(places), estimates=tuple(estimates))
