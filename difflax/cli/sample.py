"""Prompts to PNG files: one an image, and a captioned grid; each holds its prompt, seed and settings.

difflax sample --workdir=runs/shapes --prompt="a large red circle in the top left" --output=out
difflax sample --pretrained=sd15 --prompt="a photograph of a cat" --negative_prompt=blurry --output=out
difflax sample --pretrained=sd15 --prompt="a cat in oils" --image=cat.png --strength=0.6 --output=out
difflax sample --pretrained=sd15 --lora=style.safetensors:0.8 --textual_inversion=learned --prompt="a <cat>" \
  --output=out
difflax sample --pretrained=sd15_inpainting --prompt="a dog" --image=cat.png --mask=mask.png --output=out
difflax sample --pretrained=instruct_pix2pix --prompt="make it winter" --image=cat.png \
  --image_guidance_scale=1.5 --output=out
difflax sample --pretrained=sd15 --prompt="a cat" --guidance="{'name': 'apg', 'scale': 10.0}" --output=out
difflax sample --pretrained=sdxl --refiner=refiner --prompt="a cat" --original_size=2048,2048 --output=out
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from difflax.cli.models import USUAL, define_model_flags, load_model, read_mesh
from difflax.cli.options import define_option_flags, read_options
from difflax.core.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values)
    define_prompt_flags(values)
    flags.DEFINE_float(
        "guidance_scale",
        None,
        f"how much the prompt counts, 1 is off, 0 unconditional; {USUAL}",
        flag_values=values,
    )
    flags.DEFINE_integer("seed", 0, "random seed of a prompt's first image, at least 0", flag_values=values)
    flags.DEFINE_integer(
        "num_images", 1, "images of each prompt, with successive seeds, at least 1", flag_values=values
    )
    flags.DEFINE_string(
        "image",
        None,
        "file of a picture to start from, or to edit; without it: images start from noise",
        flag_values=values,
    )
    flags.DEFINE_string(
        "mask",
        None,
        "file of a picture, white where --image is made anew; without it: everywhere",
        flag_values=values,
    )
    flags.DEFINE_float(
        "strength",
        None,
        "share of the run that --image is noised for, above 0 and up to 1; without it: 0.8, of refiners"
        " 0.3, and 1 with --mask or --invert",
        flag_values=values,
    )
    flags.DEFINE_string(
        "invert",
        None,
        "prompt that describes --image: start from its DDIM inversion, so that what --prompt does not"
        " change stays; without it: from --image with noise",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "height",
        None,
        "height of the images in pixels; without it: that of --image, or the model's",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "width",
        None,
        "width of the images in pixels; without it: that of --image, or the model's",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "trajectory", False, "also show how the images came about, step by step", flag_values=values
    )
    flags.DEFINE_string(
        "refiner",
        None,
        "folder or Hub id of XL's refiner, which ends each run; without it: none",
        flag_values=values,
    )
    flags.DEFINE_float(
        "handover",
        0.8,
        "share of the run, between 0 and 1, after which --refiner goes on",
        flag_values=values,
    )
    define_option_flags(values)


def define_prompt_flags(values: flags.FlagValues) -> None:
    """The flags that `read_prompts` reads."""
    flags.DEFINE_multi_string(
        "prompt",
        [],
        "what the images show; this or --prompts_file must be given where the command reads prompts",
        flag_values=values,
    )
    flags.DEFINE_string(
        "prompts_file",
        None,
        "text file with a prompt on each line, beside those of --prompt; without it: none",
        flag_values=values,
    )


def read_picture(values: flags.FlagValues, name: str):
    """The picture that a flag names, uint8 [h, w, c], of ``--mask`` [h, w]; ``None`` without one."""
    from etils import epath

    from difflax.data.pictures import decode, decode_mask, read_bytes

    path = values[name].value
    if path is None:
        return None
    where, readers = f"--{name}={path}", {"image": decode, "mask": decode_mask}
    return readers[name](read_bytes(epath.Path(path), where), where)


def read_prompts(values: flags.FlagValues) -> list[str]:
    """The prompts of ``--prompt`` and ``--prompts_file``."""
    from difflax.data.texts import argument_text, read_lines

    prompts = [argument_text(prompt) for prompt in values.prompt]
    if values.prompts_file is not None:
        prompts += read_lines(values.prompts_file, f"--prompts_file={values.prompts_file}")
    if not prompts:
        raise UserError('no prompt: give --prompt="…" or a --prompts_file that is not empty')
    return prompts


def picture_arguments(values: flags.FlagValues) -> dict[str, Any]:
    """The arguments of a call that ``--image``, ``--mask`` and the size give; an image has its own size."""
    image, mask = read_picture(values, "image"), read_picture(values, "mask")
    size = {"height": values.height, "width": values.width}
    if image is not None:
        edges = zip(size, image.shape[:2], strict=True)
        size = {name: edge if size[name] is None else size[name] for name, edge in edges}
        image = np.broadcast_to(image, (*image.shape[:2], 3))
    given = {"image": image, "mask": mask, "strength": values.strength, "invert": values.invert, **size}
    return {name: value for name, value in given.items() if value is not None}


def with_refiner(values: flags.FlagValues, pipeline):
    """The pipeline, or with ``--refiner`` both in one run."""
    if values.refiner is None:
        return pipeline
    from difflax import runs
    from difflax.generation.ensemble import Ensemble

    options = {name: values[name].value for name in ("dtype", "variant", "revision")}
    refiner = runs.from_pretrained(values.refiner, **options, mesh=read_mesh(values))
    return Ensemble(pipeline, refiner, values.handover)


def check(values: flags.FlagValues) -> None:
    """What is wrong with the flags alone.

    Raises:
        UserError: in one line.
    """
    if values.num_images < 1:
        raise UserError(f"--num_images={values.num_images} must be at least 1")
    if values.seed < 0:
        raise UserError(f"--seed={values.seed} must not be negative")
    for name in ("image", "mask", "strength", "invert", "image_guidance_scale", "trajectory"):
        if values.refiner is not None and values[name].value not in (None, False):
            raise UserError(f"--{name} does not go with --refiner: refine an image with --pretrained=REFINER")


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    prompts = read_prompts(values)
    check(values)
    given = picture_arguments(values) | read_options(values)
    pipeline = load_model(values)
    make = with_refiner(values, pipeline)
    import jax

    from difflax.figures.grids import captioned_grid
    from difflax.figures.png import save_png
    from difflax.figures.trajectory import write_trajectory

    seeds = [values.seed + i for _ in prompts for i in range(values.num_images)]
    prompts = [prompt for prompt in prompts for _ in range(values.num_images)]
    settings = {
        name: values[name].value for name in ("negative_prompt", "guidance_scale", "num_steps", "sampler")
    }
    made = make(prompts, seed=seeds, trajectory=values.trajectory, **settings, **given)
    if jax.process_index() != 0:
        return
    images = made.images if values.trajectory else made
    facts, output = facts_of(values, pipeline), pathlib.Path(values.output)
    if values.trajectory:
        write_trajectory(
            made.estimates,
            made.log_snr,
            prompts,
            output,
            metadata={"prompts": prompts, "seeds": seeds, **facts},
            final=images,
        )
    for i, (image, prompt, seed) in enumerate(zip(images, prompts, seeds, strict=True)):
        save_png(output / f"{i:04d}_seed{seed}.png", image, {"prompt": prompt, "seed": seed, **facts})
    grid = captioned_grid(images, prompts)
    save_png(output / "grid.png", grid, {"prompts": prompts, "seeds": seeds, **facts})
    print(f"{len(images)} images: {output / 'grid.png'}")


def facts_of(values: flags.FlagValues, pipeline) -> dict[str, Any]:
    """The settings that every file holds."""
    usual = pipeline.defaults
    scale = getattr(usual.guidance, "scale", None)
    facts = {
        "guidance_scale": scale if values.guidance_scale is None else values.guidance_scale,
        "num_steps": usual.num_steps if values.num_steps is None else values.num_steps,
        "sampler": values.sampler or type(usual.sampler).__name__,
        "negative_prompt": values.negative_prompt or "",
    }
    given = {name: values[name].value for name in ("guidance", "image_guidance_scale", "invert")}
    return facts | {name: value for name, value in given.items() if value is not None}
