"""Prompts to PNG files: one an image, and a captioned grid; each holds its prompt, seed and settings.

difflax sample --workdir=embedded --prompt="a large red circle" --output=out
difflax sample --pretrained=sd15 --prompt="a photograph of a cat" --negative_prompt=blurry --output=out
difflax sample --pretrained=sd15 --prompt="a cat in oils" --image=cat.png --strength=0.6 --output=out
difflax sample --pretrained=sd15 --lora=style.safetensors:0.8 --textual_inversion=learned --prompt="a <cat>" \
  --output=out
difflax sample --pretrained=sd15_inpainting --prompt="a dog" --image=cat.png --mask=mask.png --output=out
difflax sample --pretrained=instruct_pix2pix --prompt="make it winter" --image=cat.png \
  --image_guidance_scale=1.5 --output=out
difflax sample --pretrained=sd15 --prompt="a cat" --guidance="{'name': 'apg', 'scale': 10.0}" --output=out
difflax sample --pretrained=sdxl --refiner=refiner --prompt="a cat" --original_size=2048,2048 --output=out

A second run in the same folder goes on with the numbers of the first, and replaces none of its files.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from etils import epath

from difflax.cli.models import USUAL, begin, define_model_flags, read_mesh, read_model
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
    given = {"image": image, "mask": mask, "strength": values.strength, **size}
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


TEXTS = ("negative_prompt", "invert", "prompt_2", "prompt_3", "negative_prompt_2", "negative_prompt_3")
"""Flags that hold texts, as prompts do."""


def read_texts(values: flags.FlagValues) -> dict[str, str]:
    """The texts of the flags `TEXTS` that are given."""
    from difflax.data.texts import argument_text

    given = {name: values[name].value for name in TEXTS if name in values}
    return {name: argument_text(text) for name, text in given.items() if text is not None}


def read_request(values: flags.FlagValues):
    """What the flags ask for, one prompt an image; whatever is wrong with them alone is found here.

    Raises:
        UserError: in one line.
    """
    from difflax.generation.arguments import MAX_IMAGES, SEEDS
    from difflax.generation.request import Request
    from difflax.generation.rows import whole

    prompts, count = read_prompts(values), values.num_images
    whole(count, "--num_images", 1)
    if len(prompts) * count > MAX_IMAGES:
        raise UserError(
            f"--num_images={count}: with {len(prompts)} prompts that makes {len(prompts) * count:,} images,"
            f" {MAX_IMAGES:,} are the most in one run: make several"
        )
    whole(values.seed, "--seed", *SEEDS)
    if values.seed + count - 1 > SEEDS[1]:
        raise UserError(
            f"--seed={values.seed}: the last of {count} images would have a seed above {SEEDS[1]}:"
            " start lower"
        )
    for name in ("image", "mask", "strength", "invert", "image_guidance_scale", "trajectory"):
        if values.refiner is not None and values[name].value not in (None, False):
            raise UserError(f"--{name} does not go with --refiner: refine an image with --pretrained=REFINER")
    share = values.handover
    if values.refiner is not None and not 0 < share < 1:
        raise UserError(f"--handover={share} must lie in (0, 1)")
    settings = {name: values[name].value for name in ("guidance_scale", "num_steps", "sampler")}
    request = Request.of(
        [prompt for prompt in prompts for _ in range(count)],
        seed=[values.seed + i for _ in prompts for i in range(count)],
        trajectory=values.trajectory,
        **settings,
        **picture_arguments(values),
        **(read_options(values) | read_texts(values)),
    )
    request.check()
    return request


def first_number(folder: epath.Path) -> int:
    """The first number that no image of an earlier run in a folder has."""
    if not folder.is_dir():
        return 0
    found = (re.match(r"(\d{4,})_seed|grid_(\d{4,})\.png", path.name) for path in folder.iterdir())
    numbers = [int(match[1] or match[2]) for match in found if match]
    return max(numbers, default=-1) + 1


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    request = read_request(values)
    begin(values)
    from difflax.parallel.processes import alone_in

    with alone_in(values.output):
        _sample(values, request)


def _sample(values: flags.FlagValues, request) -> None:
    pipeline = read_model(values)
    make = with_refiner(values, pipeline)
    import jax

    from difflax.figures.grids import captioned_grid
    from difflax.figures.png import save_png
    from difflax.figures.trajectory import write_trajectory

    made = make(request)
    if jax.process_index() != 0:
        return
    prompts, seeds = list(request.prompt), list(request.seed)
    images = made.images if values.trajectory else made
    facts, output = facts_of(values, pipeline), epath.Path(values.output)
    first = first_number(output)
    if values.trajectory:
        write_trajectory(
            made.estimates,
            made.log_snr,
            prompts,
            output / f"trajectory_{first:04d}" if (output / "trajectory.png").exists() else output,
            metadata={"prompts": prompts, "seeds": seeds, **facts},
            final=images,
        )
    for i, (image, prompt, seed) in enumerate(zip(images, prompts, seeds, strict=True), first):
        save_png(output / f"{i:04d}_seed{seed}.png", image, {"prompt": prompt, "seed": seed, **facts})
    grid = output / "grid.png"
    grid = output / f"grid_{first:04d}.png" if grid.exists() else grid
    save_png(grid, captioned_grid(images, prompts), {"prompts": prompts, "seeds": seeds, **facts})
    print(f"{len(images)} images: {grid}")


def facts_of(values: flags.FlagValues, pipeline) -> dict[str, Any]:
    """The settings that every file holds."""
    usual = pipeline.defaults
    scale = getattr(usual.guidance, "scale", None)
    facts = {
        "guidance_scale": scale if values.guidance_scale is None else values.guidance_scale,
        "num_steps": usual.num_steps if values.num_steps is None else values.num_steps,
        "sampler": values.sampler or type(usual.sampler).__name__,
        "negative_prompt": "",
    } | read_texts(values)
    given = {name: values[name].value for name in ("guidance", "image_guidance_scale", "ema_length")}
    return facts | {name: value for name, value in given.items() if value is not None}
