"""Why two results of `difflax ablate` or `difflax evaluate` differ: mixtures of both, drawn by the model of
the first one and read as each of them says.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from difflax.cli.asked import (
    AXES_OF_FLAGS,
    UNTOUCHED,
    Asked,
    clear,
    differing,
    settings_of,
    step_of,
)
from difflax.core.types import UserError


def explain_sweeps(folders: Sequence[str], arms: Sequence[str] | None, metric: str | None, output: str):
    """The comparison of two folders of results.

    Args:
        arms: the keys of one arm of each.
        metric: a column of ``records.csv`` or ``prompts.csv``; by default what decides the best arm.
        output: where mixtures are kept.

    Raises:
        UserError: results that have other prompts, or that nothing can be swapped in.
    """
    from difflax.cli.report import names_of
    from difflax.evaluation.ablation.explanation import ExplainedGap, explain
    from difflax.evaluation.ablation.stored import read_result

    results = [read_result(folder) for folder in folders]
    prompts = [[(group.name, group.prompts) for group in result.groups] for result in results]
    if prompts[0] != prompts[1]:
        raise UserError("the two results have other prompts: nothing can be compared prompt by prompt")
    keys = arms or (None, None)
    places = [_place(*each) for each in zip(results, folders, keys, strict=True)]
    asked = [Asked(result.provenance.command) for result in results]
    if asked[0].of_run != asked[1].of_run:
        raise UserError(
            "one result is of a run and the other of a checkpoint: their models cannot be swapped"
        )
    swapped = differing(*asked, list(AXES_OF_FLAGS))
    sides = _sides(results, asked, places, swapped)
    metric = metric or results[0].primary
    stored = tuple(
        {each.group: each.estimates[place].value for each in result.measured if each.metric.name == metric}
        for result, place in zip(results, places, strict=True)
    )
    untouched = _untouched(results, asked)
    for each in asked:
        clear(each, swapped)
    found, explained = explain(*sides, stored, metric, _measure(asked, sides, _steps(results)[0], output))
    return ExplainedGap(
        names=tuple(names_of(folders)),
        sources=tuple(result.provenance.command for result in results),
        causes=found,
        explained=explained,
        untouched=untouched,
    )


def _place(result, folder: str, key: str | None) -> int:
    """The number of the arm that is meant."""
    keys = [arm.key for arm in result.arms]
    if key is None and len(keys) > 1:
        raise UserError(f"{folder} has {len(keys)} arms: give --arms=KEY,KEY, one of each result")
    if key is not None and key not in keys:
        raise UserError(f"{folder} has no arm {key!r}: its keys are {', '.join(keys[:20])}")
    return 0 if key is None else keys.index(key)


def _sides(results, asked: Sequence[Asked], places: Sequence[int], swapped: Sequence[str]) -> list:
    """Both results as they are swapped: what their flags set where those differ, and what their arms do."""
    from difflax.evaluation.ablation.explanation import FEATURES_CAUSE, JUDGE_CAUSE, Side

    weights: list[dict[str, Any]] = [{}, {}]
    if asked[0].source != asked[1].source:
        weights = [{"model": each.source} for each in asked]
    steps = _steps(results)
    if None not in steps and steps[0] != steps[1]:
        weights = [{**each, "step": step} for each, step in zip(weights, steps, strict=True)]
    return [
        Side(
            settings={**own, **settings_of(each, swapped), **result.arms[place].settings},
            seeds=tuple(result.seeds),
            readers={
                JUDGE_CAUSE: result.provenance.judge or "none",
                FEATURES_CAUSE: result.method.get("features", "none"),
            },
        )
        for own, each, result, place in zip(weights, asked, results, places, strict=True)
    ]


def _steps(results) -> list[int | None]:
    return [step_of(result.provenance.checkpoint) for result in results]


def _untouched(results, asked: Sequence[Asked]) -> list:
    """What differs and is no axis."""
    from difflax.evaluation.ablation import manifests
    from difflax.evaluation.ablation.explanation import Cause

    flags = [
        Cause(name=f"--{name}", **dict(zip(("first", "second"), said, strict=True)))
        for name in differing(*asked, UNTOUCHED)
        for said in [[str(each.flags[name].value) for each in asked]]
    ]
    lines = manifests.differing(results)
    return flags + [
        Cause(name=name, first=lines[name][0], second=lines[name][1])
        for name in ("code", "images", "real images")
        if name in lines
    ]


def _measure(asked: Sequence[Asked], sides: Sequence, step: int | None, output: str) -> Callable:
    """What draws arms by the model of the first result, and reads them as the side says."""
    from difflax.cli.ablate import check_flags, read_subject
    from difflax.cli.models import begin
    from difflax.evaluation.ablation.explanation import FEATURES_CAUSE, JUDGE_CAUSE
    from difflax.evaluation.ablation.manifests import digest
    from difflax.evaluation.ablation.results import Provenance, command_line
    from difflax.evaluation.ablation.sweep import run_sweep
    from difflax.evaluation.measurement import Instruments

    @functools.cache
    def subject() -> Any:
        own = asked[0].flags
        return read_subject(own, *check_flags(own), _weights(asked[0], sides, step))

    @functools.cache
    def readers(number: int) -> Instruments:
        return _readers(asked[number].flags, subject()) if number else subject().instruments

    def measure(arms, side) -> Any:
        base, usual = subject(), sides[0].readers
        base.studio.check(arms)
        pipeline = base.studio.base
        other = {name: int(side.readers[name] != usual[name]) for name in usual}
        return run_sweep(
            base.studio.painter(),
            base.groups,
            arms=arms,
            seeds=side.seeds,
            provenance=Provenance(
                command=command_line(),
                checkpoint=base.checkpoint,
                sampler=type(pipeline.defaults.sampler).__name__,
                num_steps=pipeline.defaults.num_steps,
                judge=side.readers[JUDGE_CAUSE],
                config=base.config,
                fingerprint=pipeline.fingerprint(),
            ),
            directory=f"{output}/mixtures/{digest([list(side.seeds), dict(side.readers)])}",
            instruments=Instruments(
                judge=readers(other[JUDGE_CAUSE]).judge, features=readers(other[FEATURES_CAUSE]).features
            ),
            batch_size=pipeline.devices.batch_size,
        )

    asked[0].flags["output"].value = output
    begin(asked[0].flags)
    return measure


def _weights(asked: Asked, sides: Sequence, step: int | None) -> Any:
    """The weights of the first result, which the mixtures that keep them need not load again.

    Args:
        step: that both were made at, of a run that may have gone on since.
    """
    from difflax.runs.axes import SWEPT_AXES, Weights

    first, second = (side.settings for side in sides)
    # Snapshots, which other averages are made of, are kept at other steps than checkpoints.
    weights = Weights(source=asked.source, step=None if "ema" in {*first, *second} else step)
    for name, axis in SWEPT_AXES.items():
        # What one side alone says is a change of these weights, and a LoRA is merged into loaded ones.
        if axis.weights is not None and name in first and name in second and not name.startswith("lora"):
            weights = axis.weights(weights, first[name])
    return weights


def _readers(values, base) -> Any:
    """What the second result was read with."""
    from difflax import runs
    from difflax.cli.sample import read_prompts

    if values.pretrained:
        return runs.evaluation_of_prompts(base.studio.base, read_prompts(values), values.clip)[1]
    return runs.evaluation(values.workdir)[2]
