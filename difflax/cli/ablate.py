"""Sweeps any settings over the run's evaluation prompts and paired seeds: table, plots, image grid and a
report that opens from disk.

    difflax ablate --workdir=runs/shapes --guidance_scales=0,1,2,3,5,8 --seeds=3 --output=runs/ablation
    difflax ablate --workdir=runs/shapes --sweep.guidance='cfg;apg' --output=runs/methods --dry_run
    difflax ablate --pretrained=sd15 --prompts_file=prompts.txt --clip=clip-vit-base-patch32 --output=ablation

Values are 1:4:0.1 (a range with its ends) or have semicolons between them; docs/ablation.md lists the axes. A
checkpoint has no evaluation prompts and no judge: its prompts are given, and a CLIP folder measures how well
the images fit them.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from absl import flags
from etils import epath

from difflax.cli.kept import album_of, define_kept_flags, layout_of, read_asked
from difflax.cli.models import begin, define_model_flags, read_model, weights_named
from difflax.cli.sample import define_prompt_flags, read_prompts, read_texts
from difflax.core.types import UserError

MAX_SEEDS = 10_000
SCALES = ["0", "1", "1.5", "2", "3", "4", "6", "8"]
SWEEP = "sweep."


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values)
    flags.DEFINE_list(
        "guidance_scales",
        SCALES,
        "guidance scales to measure at, each once: the axis guidance.scale; the default is for a command that"
        " names no axis",
        flag_values=values,
    )
    define_sweep_flags(values, argv)
    define_kept_flags(values)
    define_measurement_flags(values)


def define_sweep_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags of a sweep's design, ``--sweep.axis`` for every axis on this command line among them."""
    flags.DEFINE_string(
        "sweep",
        None,
        "JSON file with axes or arms; --sweep.AXIS=VALUES names an axis, --sweep.sampler='ddim;heun'; without"
        " it and any axis: the guidance scale is swept",
        flag_values=values,
    )
    for argument in argv:
        key = argument.partition("=")[0].lstrip("-")
        if argument.startswith("-") and key.startswith(SWEEP) and key not in values:
            flags.DEFINE_string(
                key, None, "values of an axis; without it: as the model has it", flag_values=values
            )
    flags.DEFINE_enum(
        "design",
        "grid",
        ["grid", "random"],
        "every combination of the axes' values, or --arms of them that are drawn",
        flag_values=values,
    )
    flags.DEFINE_integer("arms", None, "arms of a random design; without it: none", flag_values=values)
    flags.DEFINE_integer(
        "design_seed",
        0,
        "seed of a random design",
        lower_bound=0,
        upper_bound=2**32 - 1,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "say how many arms, programs and network evaluations it would be and how long it would take, and draw"
        " nothing",
        flag_values=values,
    )


def define_measurement_flags(values: flags.FlagValues) -> None:
    """What `sweep` reads beside the model's flags."""
    define_prompt_flags(values)
    flags.DEFINE_string(
        "clip",
        None,
        "with --pretrained: folder of the CLIP that measures how well images fit their prompts; without"
        " it nothing measures that",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "prompts",
        None,
        "of a run: prompts of each group; without it: as many as its config says",
        1,
        100_000,
        flag_values=values,
    )
    flags.DEFINE_multi_string(
        "group",
        [],
        "of a run: a group of prompts by its name, 'one object, seen'; may be given several times; without"
        " it: all that its config has",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "seeds",
        None,
        "images of each prompt and scale, at least 1; without it: as many as the run's config says, 4"
        " with --pretrained",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    arms = read_design(values)
    if values.dry_run:
        plan_sweep(values, arms)
    else:
        sweep(values, arms)


def read_design(values: flags.FlagValues) -> list:
    """The arms that the flags name."""
    from difflax.evaluation.ablation.arms import GUIDANCE_SCALE
    from difflax.runs.design import read_arms

    axes = {key.removeprefix(SWEEP): values[key].value for key in values if key.startswith(SWEEP)}
    named = bool(axes) or values.sweep is not None
    if values["guidance_scales"].present or not named:
        if GUIDANCE_SCALE in axes:
            raise UserError(f"--guidance_scales is --{SWEEP}{GUIDANCE_SCALE}: give one of them")
        axes = {GUIDANCE_SCALE: ";".join(_scales(values)), **axes}
    return read_arms(
        axes, file=values.sweep, design=values.design, number=values.arms, seed=values.design_seed
    )


def _scales(values: flags.FlagValues) -> list[str]:
    try:
        scales = [float(scale) for scale in values.guidance_scales]
    except ValueError as error:
        raise UserError(f"--guidance_scales: {error}") from error
    if not scales or not all(map(math.isfinite, scales)) or len(set(scales)) < len(scales):
        raise UserError(
            f"--guidance_scales={','.join(values.guidance_scales)}: give at least one, finite and each once"
        )
    return [repr(scale) for scale in scales]


def sweep(values: flags.FlagValues, arms: list | None, likelihood: int = 0) -> None:
    """Measures the arms (the run as it is if ``None``), writes everything and prints the outcome; with the
    ``likelihood`` of so many test images. ``--output`` is held meanwhile, see `alone_in`.
    """
    prompts, negative = check_flags(values)
    begin(values)
    from difflax.parallel.processes import alone_in

    with alone_in(values.output):
        _sweep(values, arms, prompts, negative, likelihood)


def check_flags(values: flags.FlagValues) -> tuple[list[str], str | None]:
    """The prompts of a checkpoint or a benchmark and the negative prompt; looks at the flags of the
    measurement.
    """
    prompts: list[str] = []
    own = (values.prompt, values.prompts_file)
    if layout_of(values) is not None:
        prompts, own = [each.prompt for each in read_asked(values)], ()
    elif values.pretrained:
        prompts = read_prompts(values)
    if not values.pretrained and any((*own, values.clip)):
        raise UserError("--prompt, --prompts_file and --clip go with --pretrained: a run has its own")
    if (values.pretrained or prompts) and (values.prompts is not None or values.group):
        raise UserError("--prompts and --group choose among a run's own prompts: leave them out here")
    negative = read_texts(values).get("negative_prompt")
    if values.seeds is not None and not 1 <= values.seeds <= MAX_SEEDS:
        raise UserError(
            f"--seeds={values.seeds} must be from 1 to {MAX_SEEDS:,}: so many images are made of each"
            " prompt in each arm"
        )
    if values.clip is not None and not epath.Path(values.clip).is_dir():
        raise UserError(f"--clip={values.clip}: no such folder")
    return prompts, negative


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SweptModel:
    """The model of the flags with what it is asked and what reads its images.

    Attributes:
        studio: makes the images.
        judge: its name, "" for none.
        seeds: images of a prompt.
    """

    studio: Any
    config: dict[str, Any]
    instruments: Any
    groups: list
    judge: str
    seeds: int
    checkpoint: str


def read_subject(
    values: flags.FlagValues, prompts: list[str], negative: str | None, weights: Any = None
) -> SweptModel:
    """The model that the flags name, loaded; with other `Weights` of it where they are given."""
    from difflax import runs
    from difflax.evaluation.measurement import PromptGroup
    from difflax.runs.arms import Studio
    from difflax.runs.axes import Weights

    pipeline = read_model(values, weights)
    if values.pretrained:
        config, instruments, groups = runs.evaluation_of_prompts(pipeline, prompts, values.clip)
        judge, usual, checkpoint = "", 4, values.pretrained
    else:
        config, protocol, instruments, groups = runs.evaluation(values.workdir, values.prompts, values.group)
        judge, usual = type(protocol).__name__, protocol.seeds
        if prompts:
            # Of a benchmark: the run's own judge does not know them.
            groups = [PromptGroup(name="prompts", prompts=tuple(prompts))]
            instruments, judge, usual = dataclasses.replace(instruments, judge=None), "", 4
        checkpoint = weights_named(values, pipeline)
    if values.guidance is not None:
        config = {**config, "guidance": values.guidance}
    studio = Studio(
        base=pipeline,
        weights=weights or Weights(source=values.workdir or values.pretrained),
        open=lambda weights: read_model(values, weights),
        of_run=not values.pretrained,
        arguments={
            "negative_prompt": negative,
            "num_steps": values.num_steps,
            "sampler": values.sampler,
        },
    )
    return SweptModel(
        studio=studio,
        config=config,
        instruments=instruments,
        groups=groups,
        judge=judge,
        seeds=usual if values.seeds is None else values.seeds,
        checkpoint=checkpoint,
    )


def _sweep(
    values: flags.FlagValues,
    arms: list | None,
    prompts: list[str],
    negative: str | None,
    likelihood: int,
) -> None:
    subject = read_subject(values, prompts, negative)
    import jax

    from difflax import runs
    from difflax.evaluation.ablation.arms import Arm, arms_of_scales
    from difflax.evaluation.ablation.report import write_ablation
    from difflax.evaluation.ablation.results import Provenance, command_line
    from difflax.evaluation.ablation.sweep import by_scale, run_sweep
    from difflax.evaluation.ablation.trajectories import follow_arms

    pipeline = subject.studio.base
    found = None
    if likelihood:
        steps = values.num_steps or pipeline.defaults.num_steps
        found = runs.likelihood(pipeline, values.workdir, likelihood, steps)
    if arms is None:
        # The guidance as it is, also where its scale changes along the run.
        arms = arms_of_scales([getattr(pipeline.defaults.guidance, "scale", 1.0)])
        painter = by_scale(
            lambda prompts, seeds, scale: subject.studio.draw(prompts, seeds, [Arm(settings={})])
        )
    else:
        subject.studio.check(arms)
        painter = subject.studio.painter()
    result = run_sweep(
        painter,
        subject.groups,
        arms=arms,
        seeds=range(subject.seeds),
        provenance=Provenance(
            command=command_line(),
            checkpoint=subject.checkpoint,
            sampler=values.sampler or type(pipeline.defaults.sampler).__name__,
            num_steps=values.num_steps or pipeline.defaults.num_steps,
            negative_prompt=negative or "",
            judge=subject.judge,
            config=subject.config,
            fingerprint=pipeline.fingerprint(),
        ),
        directory=values.output,
        instruments=subject.instruments,
        batch_size=pipeline.devices.batch_size,
        album=album_of(values, subject.groups, subject.seeds),
    )
    if "trajectories" in values and values.trajectories:
        follow_arms(subject.studio.follow, result, values.trajectories, values.output)
    if jax.process_index() != 0:
        return
    result = dataclasses.replace(result, likelihood=found)
    report = write_ablation(result, values.output)
    if subject.judge:
        say(result)
    if found is not None:
        print(
            f"bits per dimension of {found.images} test images: {found.bits_per_dimension:.3f}"
            f" ± {found.standard_error:.3f} (standard error)"
        )
    if layout_of(values) is not None:
        say_where(result, values.output)
    print(f"report: {report}")


def plan_sweep(values: flags.FlagValues, arms: list) -> None:
    """Prints what the sweep would cost."""
    prompts, negative = check_flags(values)
    begin(values)
    subject = read_subject(values, prompts, negative)
    from difflax.runs.dry_run import cost

    subject.studio.check(arms)
    asked = sum(len(group.prompts) for group in subject.groups)
    print(cost(subject.studio, arms, asked * subject.seeds))


def say_where(result, output: str) -> None:
    """Prints which folder holds the images of which arm, for a benchmark's scripts."""
    print("images for the benchmark's scripts, a folder an arm:")
    for arm in result.arms:
        print(f"  {epath.Path(output) / 'images' / arm.key}  {arm.label}")
    print(f"once they have scored them: difflax report {output}")


def say(result) -> None:
    """Prints what the judge found of each group of prompts."""
    from difflax.evaluation.ablation.results import arms_in_words, in_words

    for group in result.groups:
        for name in result.triangle or [result.primary]:
            # Nothing was measured of a group whose images all show too little.
            for each in result.measured:
                if (each.group, each.metric.name) != (group.name, name):
                    continue
                if result.over_scales:
                    print(f"{group.name}: {in_words(result.curve(group.name, name))}")
                else:
                    print(f"{group.name}: {arms_in_words(result, each)}")
