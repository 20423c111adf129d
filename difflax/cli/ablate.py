"""Sweeps the guidance scale over the run's evaluation prompts and paired seeds: table, plots, image grid and
a report that opens from disk.

    difflax ablate --workdir=runs/shapes --guidance_scales=0,1,1.5,2,3,4,6,8 --seeds=3 --output=runs/ablation
    difflax ablate --pretrained=sd15 --prompts_file=prompts.txt --clip=clip-vit-base-patch32 --output=ablation

A checkpoint has no evaluation prompts and no judge: its prompts are given, and a CLIP folder measures how
well the images fit them.
"""

import dataclasses
import math
import warnings
from collections.abc import Sequence

from absl import flags
from etils import epath

from difflax.cli.models import begin, define_model_flags, read_model, weights_named
from difflax.cli.sample import define_prompt_flags, read_prompts, read_texts
from difflax.core.types import UserError

MAX_SEEDS = 10_000
SCALES = ["0", "1", "1.5", "2", "3", "4", "6", "8"]


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values)
    flags.DEFINE_list(
        "guidance_scales", SCALES, "guidance scales to measure at, each once", flag_values=values
    )
    define_measurement_flags(values)


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
        "seeds",
        None,
        "images of each prompt and scale, at least 1; without it: as many as the run's config says, 4"
        " with --pretrained",
        flag_values=values,
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    try:
        scales = [float(scale) for scale in values.guidance_scales]
    except ValueError as error:
        raise UserError(f"--guidance_scales: {error}") from error
    if not scales or not all(map(math.isfinite, scales)) or len(set(scales)) < len(scales):
        raise UserError(
            f"--guidance_scales={','.join(values.guidance_scales)}: give at least one, finite and each once"
        )
    sweep(values, scales)


def sweep(values: flags.FlagValues, scales: list[float] | None, likelihood: int = 0) -> None:
    """Measures at ``scales`` (the run's own if ``None``), writes everything and prints the outcome; with the
    ``likelihood`` of so many test images. ``--output`` is held meanwhile, see `alone_in`.
    """
    prompts: list[str] = []
    if values.pretrained:
        prompts = read_prompts(values)
    elif values.prompt or values.prompts_file or values.clip:
        raise UserError("--prompt, --prompts_file and --clip go with --pretrained: a run has its own")
    negative = read_texts(values).get("negative_prompt")
    if values.seeds is not None and not 1 <= values.seeds <= MAX_SEEDS:
        raise UserError(
            f"--seeds={values.seeds} must be from 1 to {MAX_SEEDS:,}: so many images are made of each"
            " prompt at each scale"
        )
    if values.clip is not None and not epath.Path(values.clip).is_dir():
        raise UserError(f"--clip={values.clip}: no such folder")
    begin(values)
    from difflax.parallel.processes import alone_in

    with alone_in(values.output):
        _sweep(values, scales, prompts, negative, likelihood)


def _sweep(
    values: flags.FlagValues,
    scales: list[float] | None,
    prompts: list[str],
    negative: str | None,
    likelihood: int,
) -> None:
    pipeline = read_model(values)
    import jax

    from difflax import runs
    from difflax.evaluation.ablation.report import write_ablation
    from difflax.evaluation.ablation.results import Provenance, command_line, in_words
    from difflax.evaluation.ablation.sweep import run_ablation
    from difflax.generation.run import UnconditionalWarning

    if values.pretrained:
        config, instruments, groups = runs.evaluation_of_prompts(pipeline, prompts, values.clip)
        judge, usual, checkpoint = "", 4, values.pretrained
    else:
        config, protocol, instruments, groups = runs.evaluation(values.workdir)
        judge, usual = type(protocol).__name__, protocol.seeds
        checkpoint = weights_named(values, pipeline)
    found = None
    if likelihood:
        steps = values.num_steps or pipeline.defaults.num_steps
        found = runs.likelihood(pipeline, values.workdir, likelihood, steps)
    seeds = usual if values.seeds is None else values.seeds

    if values.guidance is not None:
        config = {**config, "guidance": values.guidance}

    def generate(prompts, seeds, scale):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UnconditionalWarning)  # a sweep that contains 0 means it
            return pipeline(
                prompts,
                negative,
                # The guidance as it is, also where its scale changes along the run.
                None if scales is None else scale,
                num_steps=values.num_steps,
                sampler=values.sampler,
                seed=seeds.tolist(),
            )

    result = run_ablation(
        generate,
        groups,
        scales=[getattr(pipeline.defaults.guidance, "scale", 1.0)] if scales is None else scales,
        seeds=range(seeds),
        provenance=Provenance(
            command=command_line(),
            checkpoint=checkpoint,
            sampler=values.sampler or type(pipeline.defaults.sampler).__name__,
            num_steps=values.num_steps or pipeline.defaults.num_steps,
            negative_prompt=negative or "",
            judge=judge,
            config=config,
            fingerprint=pipeline.fingerprint(),
        ),
        directory=values.output,
        instruments=instruments,
        batch_size=pipeline.devices.batch_size,
    )
    if jax.process_index() != 0:
        return
    result = dataclasses.replace(result, likelihood=found)
    report = write_ablation(result, values.output)
    for group in result.groups if judge else ():
        for name in result.triangle or [result.primary]:
            # Nothing was measured of a group whose images all show too little.
            for curve in result.by_metric()[name]:
                if curve.group == group.name:
                    print(f"{group.name}: {in_words(curve)}")
    if found is not None:
        print(
            f"bits per dimension of {found.images} test images: {found.bits_per_dimension:.3f}"
            f" ± {found.standard_error:.3f} (standard error)"
        )
    print(f"report: {report}")
