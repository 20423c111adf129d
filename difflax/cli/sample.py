"""Prompts to PNG files: one an image, and a captioned grid; each holds its prompt, seed and settings.

difflax sample --workdir=runs/shapes --prompt="a large red circle in the top left" --output=out
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from difflax.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values)
    flags.DEFINE_multi_string("prompt", [], "a prompt; may be given several times", flag_values=values)
    flags.DEFINE_string("prompts_file", None, "a text file with a prompt a line", flag_values=values)
    flags.DEFINE_float("guidance_scale", None, "1 is off, 0 unconditional", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of a prompt's first image", flag_values=values)
    flags.DEFINE_integer("num_images", 1, "images a prompt, with successive seeds", flag_values=values)
    flags.DEFINE_bool(
        "trajectory", False, "also how the images became what they are, step by step", flag_values=values
    )


def define_model_flags(values: flags.FlagValues) -> None:
    """The flags of every command that makes images with a trained model."""
    flags.DEFINE_string("workdir", None, "folder of a training run", flag_values=values)
    flags.DEFINE_string("output", None, "folder for the results", flag_values=values)
    flags.DEFINE_string("negative_prompt", None, "what to go away from", flag_values=values)
    flags.DEFINE_integer("num_steps", None, "of the sampler", flag_values=values)
    flags.DEFINE_string("sampler", None, "by name; the run's own by default", flag_values=values)


def load_model(values: flags.FlagValues):
    """The pipeline of ``--workdir``, once all flags that could be wrong are looked at."""
    from difflax import experiment

    if not values.workdir:
        raise UserError("give --workdir=DIR, the folder of a training run")
    if not values.output:
        raise UserError("give --output=DIR, a folder for the results")
    return experiment.load(values.workdir)


def read_prompts(values: flags.FlagValues) -> list[str]:
    """The prompts of ``--prompt`` and ``--prompts_file``."""
    prompts = list(values.prompt)
    if values.prompts_file is not None:
        path = pathlib.Path(values.prompts_file)
        if not path.is_file():
            raise UserError(f"--prompts_file={values.prompts_file}: no such file")
        prompts += [line.strip() for line in path.read_text().splitlines() if line.strip()]
    if not prompts:
        raise UserError('no prompt: give --prompt="…" or a --prompts_file that is not empty')
    return prompts


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    prompts = read_prompts(values)
    if values.num_images < 1:
        raise UserError(f"--num_images={values.num_images} must be at least 1")
    if values.seed < 0:
        raise UserError(f"--seed={values.seed} must not be negative")
    pipeline = load_model(values)
    from difflax.evaluation.grids import captioned_grid
    from difflax.evaluation.png import save_png
    from difflax.evaluation.trajectory import write_trajectory

    seeds = [values.seed + i for _ in prompts for i in range(values.num_images)]
    prompts = [prompt for prompt in prompts for _ in range(values.num_images)]
    settings = {
        "negative_prompt": values.negative_prompt,
        "guidance_scale": values.guidance_scale,
        "num_steps": values.num_steps,
        "sampler": values.sampler,
    }
    facts = {
        "guidance_scale": getattr(pipeline.with_guidance_scale(values.guidance_scale), "scale", None),
        "num_steps": values.num_steps or pipeline.num_steps,
        "sampler": values.sampler or type(pipeline.sampler).__name__,
        "negative_prompt": values.negative_prompt or "",
    }
    output = pathlib.Path(values.output)
    if values.trajectory:
        made = pipeline.trajectory(prompts, seed=seeds, **settings)
        images = made.images
        write_trajectory(
            made.estimates,
            made.log_snr,
            prompts,
            output,
            metadata={"prompts": prompts, "seeds": seeds, **facts},
            final=images,
        )
    else:
        images = pipeline(prompts, seed=seeds, **settings)
    for i, (image, prompt, seed) in enumerate(zip(images, prompts, seeds, strict=True)):
        save_png(output / f"{i:04d}_seed{seed}.png", image, {"prompt": prompt, "seed": seed, **facts})
    grid = captioned_grid(images, prompts)
    save_png(output / "grid.png", grid, {"prompts": prompts, "seeds": seeds, **facts})
    print(f"{len(images)} images: {output / 'grid.png'}")
