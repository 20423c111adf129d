"""Studies of a model of the shapes world, whose truth is known: alignment, coverage and fidelity of ways to
guide against the scale, of samplers against the number of steps, and of models against what their captions
said; and the pictures that show it.

Every part of a study is a sweep of its own in a folder of its own, which is not made again once it is there.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath
from jaxtyping import Float

from difflax.config.embedded import find_workdir
from difflax.config.files import read_workdir
from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.diffusion.samplers import SAMPLERS
from difflax.evaluation.ablation.comparison import Comparison, line, line_across, share_axis, step_axis
from difflax.evaluation.ablation.plots import scale_axis
from difflax.evaluation.ablation.results import AblationResult, command_line
from difflax.figures.gallery import Block
from difflax.generation.pipeline import Pipeline
from difflax.generation.settings import run_levels
from difflax.runs.methods import Method
from difflax.runs.studied import Studied, drawing

LONG_RUN = 100
"""Runs of more steps may be asked for fewer prompts."""

STEP_COUNTS = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)
STEP_SAMPLERS = ("ddpm", "ddim", "dpmpp_2m")


def _trade_off(subject: Studied) -> tuple[str, str]:
    """What guidance gains, and the first of what it costs."""
    gain, cost, *_ = subject.instruments.judge.aspects.values()
    return gain, cost


def guidance_study(
    subject: Studied,
    methods: Mapping[str, Method],
    directory: epath.PathLike,
    *,
    sampler: str | None,
    num_steps: int | None,
) -> Comparison:
    """Ways to guide, each against its scale; each has a folder of its name.

    Raises:
        UserError: a guidance that the model cannot have; nothing has been drawn then.
    """
    guided = {name: subject.guided(method.section) for name, method in methods.items()}
    curves = []
    for name, method in methods.items():
        result = guided[name].sweep(epath.Path(directory) / name, method.scales, sampler, num_steps)
        curves += line(method.label, result)
    defaults = subject.pipeline.defaults
    return Comparison(
        title="Ways to guide: alignment, coverage and fidelity against the scale",
        of="method",
        along="guidance scale",
        axis=scale_axis,
        rings=True,
        curves=tuple(curves),
        trade_off=_trade_off(subject),
        facts={
            **subject.facts,
            "sampler": sampler or type(defaults.sampler).__name__,
            "num_steps": num_steps or defaults.num_steps,
            **{method.label: dict(method.section) for method in methods.values()},
        },
    )


def steps_study(
    subject: Studied,
    directory: epath.PathLike,
    *,
    samplers: Sequence[str] = STEP_SAMPLERS,
    steps: Sequence[int] = STEP_COUNTS,
    scale: float | None = None,
    prompts_of_long_runs: int | None = None,
) -> Comparison:
    """Samplers, each against its number of steps; each pair has a folder.

    Args:
        scale: of the guidance; ``None``: the run's own.
        prompts_of_long_runs: the first of the prompts are asked in runs of more than `LONG_RUN` steps;
            ``None``: all are.

    Raises:
        UserError: an unknown sampler, or a number of steps that the run cannot have; nothing has been drawn
            then.
    """
    defaults = subject.pipeline.defaults
    scale = float(getattr(defaults.guidance, "scale", 1.0) if scale is None else scale)
    steps = sorted(set(steps))
    for sampler in samplers:
        choose(SAMPLERS, sampler, "sampler")
    for number in steps:
        run_levels(subject.pipeline.model, defaults, number)
    fewer = subject if prompts_of_long_runs is None else subject.first(prompts_of_long_runs)
    curves = []
    for sampler in samplers:
        cells = {}
        for number in steps:
            asked = fewer if number > LONG_RUN else subject
            cells[number] = asked.sweep(
                epath.Path(directory) / sampler / f"{number}", [scale], sampler, number
            )
        curves += line_across(sampler, cells, scale)
    return Comparison(
        title="Samplers: alignment, coverage and fidelity against the number of steps",
        of="sampler",
        along="steps",
        axis=step_axis,
        curves=tuple(curves),
        facts={
            **subject.facts,
            "guidance_scale": scale,
            f"prompts in runs of more than {LONG_RUN} steps": len(fewer.group.prompts),
        },
    )


SPLITS_BY_DISTANCE = {
    "trained combinations": "test",
    "at distance 1": "held_out",
    "at distance 2": "held_out_2",
}
"""How far combinations of shape, colour and texture are from those of training, and the splits that have
them.
"""


def distance_study(
    workdir: epath.PathLike,
    directory: epath.PathLike,
    *,
    prompts: int,
    seeds: int,
    scales: Sequence[float],
    sampler: str | None = None,
    num_steps: int | None = None,
) -> Comparison:
    """How well a model composes what it never saw together, by its distance from training and against the
    guidance scale (Okawa et al. 2023, arXiv:2310.09336, figure 4, there against training time).

    Args:
        prompts: at most so many of each distance; one names shape, colour and texture of one object.
        seeds: pictures of each prompt; where there are fewer prompts, so many more that the pictures are as
            many.

    Raises:
        UserError: see `Studied.of`.
    """
    trained = Studied.of(workdir, "one object", prompts, seeds)
    images = len(trained.group.prompts) * seeds
    curves = []
    for name, split in SPLITS_BY_DISTANCE.items():
        asked = Studied.of(workdir, "one object", prompts, seeds, split, trained.pipeline)
        # One judge for all.
        asked = dataclasses.replace(
            trained, group=asked.group, seeds=max(seeds, images // len(asked.group.prompts))
        )
        result = asked.sweep(epath.Path(directory) / split, scales, sampler, num_steps)
        curves += line(f"{name} ({len(asked.group.prompts)} prompts)", result)
    defaults = trained.pipeline.defaults
    return Comparison(
        title="Composition by distance from training: alignment, coverage and fidelity against the scale",
        of="combinations",
        along="guidance scale",
        axis=scale_axis,
        rings=True,
        curves=tuple(curves),
        facts={
            **{name: trained.facts[name] for name in ("command", "checkpoint")},
            "images of each combination and scale": images,
            "sampler": sampler or type(defaults.sampler).__name__,
            "num_steps": num_steps or defaults.num_steps,
        },
    )


def captions_study(
    workdirs: Sequence[epath.PathLike],
    directory: epath.PathLike,
    *,
    kinds: Sequence[str] = ("short", "long"),
    prompts: int,
    seeds: int,
    scales: Sequence[float],
    sampler: str | None = None,
    num_steps: int | None = None,
) -> Comparison:
    """Models that were trained with different shares of long captions, asked in few and in many words.

    Args:
        workdirs: of the runs; the share is ``config.data.long_captions`` of each.
        kinds: of prompts, see `Studied.of`.

    Raises:
        UserError: a run that is not of the shapes world, or two with one share.
    """
    shares = {workdir: _long_captions(workdir) for workdir in workdirs}
    if len(set(shares.values())) < len(workdirs):
        raise UserError(f"two workdirs have the same share of long captions: {shares}: give each share once")
    order = sorted(shares, key=lambda workdir: shares[workdir])
    results: dict[str, dict[float, AblationResult]] = {kind: {} for kind in kinds}
    instruments = None
    for workdir in order:
        for kind in kinds:
            asked = Studied.of(workdir, kind, prompts, seeds)
            # One judge for all, which remembers what is true of a prompt.
            instruments = instruments or asked.instruments
            asked = dataclasses.replace(asked, instruments=instruments)
            folder = epath.Path(directory) / f"long_captions_{shares[workdir]:g}" / kind
            results[kind][shares[workdir]] = asked.sweep(folder, scales, sampler, num_steps)
    curves = []
    for kind in kinds:
        for scale in scales:
            name = f"{kind} prompts, scale {scale:g}"
            curves += line_across(name, results[kind], float(scale))
    return Comparison(
        title="What captions say in training: alignment, coverage and fidelity",
        of="asked",
        along="long captions in training (%)",
        axis=share_axis,
        curves=tuple(curves),
        facts={
            "command": command_line(),
            "workdirs": [str(workdir) for workdir in order],
            "prompts": prompts,
            "seeds": seeds,
        },
    )


def _long_captions(workdir: epath.PathLike) -> float:
    """The share of long captions that a run was trained with, in percent."""
    share = getattr(getattr(read_workdir(find_workdir(workdir)), "data", None), "long_captions", None)
    if share is None:
        raise UserError(f"{workdir}: its config.data has no long_captions: it is no run of the shapes world")
    return round(100 * share, 6)


def gallery_blocks(
    pipeline: Pipeline,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    scale: float,
    scales: Sequence[float],
    sampler: str | None = None,
    num_steps: int | None = None,
) -> list[Block]:
    """Pictures of each prompt by several seeds at one scale, and by the first seed at several scales.

    Raises:
        UserError: no seeds or scales, or what ``pipeline(…)`` refuses.
    """
    if not prompts or not seeds or not scales:
        raise UserError("give at least one prompt, one seed and one scale")
    draw = drawing(pipeline, sampler, num_steps)

    def column(seed: int, scale: float) -> Float[np.ndarray, "rows h w c"]:
        return draw(list(prompts), [seed] * len(prompts), float(scale))

    by_seed = np.stack([column(seed, scale) for seed in seeds], axis=1)
    by_scale = np.stack([column(seeds[0], each) for each in scales], axis=1)
    words = [f"{each:g}" for each in scales]
    marked = words.index(f"{scale:g}") if f"{scale:g}" in words else None
    return [
        Block(
            heading=f"Guidance scale {scale:g}",
            columns=[f"seed {seed}" for seed in seeds],
            images=by_seed,
        ),
        Block(
            heading=f"Seed {seeds[0]} at guidance scale",
            columns=words,
            images=by_scale,
            marked=marked,
        ),
    ]
