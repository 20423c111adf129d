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

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from difflax.cli.train import define_processes, join_processes
from difflax.core.types import UserError
from difflax.models.size_conditioning import MicroConditioning


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values)
    define_prompt_flags(values)
    flags.DEFINE_float("guidance_scale", None, "1 is off, 0 unconditional", flag_values=values)
    flags.DEFINE_integer("seed", 0, "of a prompt's first image", flag_values=values)
    flags.DEFINE_integer("num_images", 1, "images a prompt, with successive seeds", flag_values=values)
    flags.DEFINE_string("image", None, "picture to start from", flag_values=values)
    flags.DEFINE_string("mask", None, "picture, white where --image is made anew", flag_values=values)
    flags.DEFINE_float("strength", None, "how far --image is noised, up to 1", flag_values=values)
    flags.DEFINE_float(
        "image_guidance_scale", None, "how much of an edited --image is kept, 1 is off", flag_values=values
    )
    flags.DEFINE_integer("height", None, "of the images, in pixels", flag_values=values)
    flags.DEFINE_integer("width", None, "of the images, in pixels", flag_values=values)
    flags.DEFINE_bool("weighted", False, "prompts have weights, (word:1.3)", flag_values=values)
    flags.DEFINE_bool("chunked", False, "encode long prompts in pieces, cut nothing", flag_values=values)
    flags.DEFINE_bool(
        "trajectory", False, "also how the images became what they are, step by step", flag_values=values
    )
    flags.DEFINE_string("refiner", None, "folder or Hub id of XL's refiner", flag_values=values)
    flags.DEFINE_float("handover", 0.8, "share of the run before --refiner goes on", flag_values=values)
    define_micro_flags(values)


def define_micro_flags(values: flags.FlagValues) -> None:
    """A flag for each of the numbers that Stable Diffusion XL reads beside the text."""
    for field in dataclasses.fields(MicroConditioning):
        if "score" in field.name:
            flags.DEFINE_float(field.name, None, "of XL's refiner, 1 to 10", flag_values=values)
        else:
            flags.DEFINE_list(field.name, None, "of XL: height,width in pixels", flag_values=values)


def micro_settings(values: flags.FlagValues) -> dict[str, Any]:
    """What a call is given of those flags."""
    given = {}
    for field in dataclasses.fields(MicroConditioning):
        value = values[field.name].value
        if isinstance(value, list):
            try:
                given[field.name] = tuple(int(part) for part in value)
            except ValueError as error:
                raise UserError(
                    f"--{field.name}={','.join(value)}: give two numbers, height,width"
                ) from error
        elif value is not None:
            given[field.name] = value
    return {"micro": MicroConditioning(**given)} if given else {}


def with_refiner(values: flags.FlagValues, pipeline):
    """The pipeline, or with ``--refiner`` both in one run."""
    if values.refiner is None:
        return pipeline
    from difflax import runs
    from difflax.generation.ensemble import Ensemble

    options = {name: values[name].value for name in ("dtype", "variant", "revision")}
    refiner = runs.from_pretrained(values.refiner, **options, mesh=read_mesh(values))
    return Ensemble(pipeline, refiner, values.handover)


def define_prompt_flags(values: flags.FlagValues) -> None:
    """The flags that `read_prompts` reads."""
    flags.DEFINE_multi_string("prompt", [], "a prompt; may be given several times", flag_values=values)
    flags.DEFINE_string("prompts_file", None, "a text file with a prompt a line", flag_values=values)


def define_model_flags(values: flags.FlagValues) -> None:
    """The flags of every command that makes images with a trained model."""
    flags.DEFINE_string("workdir", None, "folder of a training run", flag_values=values)
    define_pretrained_flags(values)
    define_processes(values)
    flags.DEFINE_string(
        "mesh",
        None,
        "devices along each axis, data=2,fsdp=4; default: the run's, or those of this process along data",
        flag_values=values,
    )
    flags.DEFINE_string(
        "output", None, "folder for the results, one that all processes reach", flag_values=values
    )
    flags.DEFINE_string("negative_prompt", None, "what to go away from", flag_values=values)
    flags.DEFINE_integer("num_steps", None, "of the sampler", flag_values=values)
    flags.DEFINE_string("sampler", None, "by name; the run's own by default", flag_values=values)
    flags.DEFINE_string(
        "guidance", None, "by name, or a config's section as a literal; docs/guidance.md", flag_values=values
    )


def define_pretrained_flags(values: flags.FlagValues) -> None:
    """The flags of every command that reads a checkpoint of Stable Diffusion."""
    flags.DEFINE_string(
        "pretrained", None, "folder in diffusers' layout, Hub id, or one .safetensors", flag_values=values
    )
    flags.DEFINE_string("dtype", "float32", "float32, bfloat16 or float16", flag_values=values)
    flags.DEFINE_string("variant", None, "of the weights, fp16", flag_values=values)
    flags.DEFINE_string("revision", None, "branch, tag or commit on the Hub", flag_values=values)
    flags.DEFINE_string(
        "config",
        None,
        "for one file: a folder or Hub id to take configs and encoders of",
        flag_values=values,
    )
    flags.DEFINE_string("tokenizer", None, "for one file: a folder or Hub id", flag_values=values)
    flags.DEFINE_string("prediction_type", None, "for one file: epsilon or v_prediction", flag_values=values)
    flags.DEFINE_multi_string(
        "lora", [], "a LoRA's file or folder, and :weight; may be given several times", flag_values=values
    )
    flags.DEFINE_multi_string(
        "textual_inversion", [], "a learned word's file or folder; may be repeated", flag_values=values
    )
    flags.DEFINE_bool("t5", None, "Stable Diffusion 3: with its third text encoder", flag_values=values)
    flags.DEFINE_integer("t5_length", None, "tokens a prompt that it gives, 256", flag_values=values)


def load_pretrained(values: flags.FlagValues):
    """The pipeline of ``--pretrained``."""
    from difflax import runs

    names = ("dtype", "variant", "revision", "config", "tokenizer", "prediction_type", "t5", "t5_length")
    given = {name: values[name].value for name in names}
    pipeline = runs.from_pretrained(values.pretrained, **given, mesh=read_mesh(values))
    return with_additions(values, pipeline)


def read_mesh(values: flags.FlagValues):
    """The mesh of ``--mesh``, ``None`` without one."""
    from difflax.config.resolve import read_section
    from difflax.config.schema import Section
    from difflax.parallel.sharding import MeshShape

    if "mesh" not in values or values.mesh is None:
        return None
    try:
        axes = {name: int(size) for name, size in (part.split("=") for part in values.mesh.split(","))}
    except ValueError as error:
        raise UserError(f"--mesh={values.mesh}: give whole numbers along axes, data=2,fsdp=4") from error
    return read_section(Section(of=MeshShape), {"data": 1, **axes}, "--mesh")


def with_additions(values: flags.FlagValues, pipeline):
    """The pipeline with what ``--lora`` and ``--textual_inversion`` name."""
    loras = [read_lora_flag(text) for text in values.lora]
    for path in values.textual_inversion:
        pipeline = pipeline.with_textual_inversion(path)
    return pipeline.with_lora(loras) if loras else pipeline


def read_lora_flag(text: str) -> tuple[str, float]:
    """``PATH`` or ``PATH:WEIGHT``."""
    path, colon, weight = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        return path, float(weight)
    except ValueError:
        # A path with a colon of its own: gs://bucket/file
        if "/" in weight:
            return text, 1.0
        raise UserError(f"--lora={text}: {weight!r} is no weight; give FILE or FILE:0.8") from None


def load_model(values: flags.FlagValues):
    """The pipeline of ``--workdir`` or ``--pretrained``, once all flags that could be wrong are looked at."""
    from difflax import runs

    if bool(values.workdir) == bool(values.pretrained):
        raise UserError("give --workdir=DIR, the folder of a training run, or --pretrained=DIR_OR_HUB_ID")
    if not values.output:
        raise UserError("give --output=DIR, a folder for the results")
    if "mesh" in values:
        join_processes(values)
    if values.pretrained:
        pipeline = load_pretrained(values)
    else:
        pipeline = with_additions(values, runs.load(values.workdir, read_mesh(values)))
    if "guidance" not in values or values.guidance is None:
        return pipeline
    return runs.with_guidance(pipeline, values.guidance, values.workdir)


def read_picture(values: flags.FlagValues, name: str):
    """The picture that a flag names, uint8 [h, w, c]; ``None`` without one."""
    from difflax.data.transforms import decode

    if values[name].value is None:
        return None
    path = pathlib.Path(values[name].value)
    if not path.is_file():
        raise UserError(f"--{name}={path}: no such file")
    return decode(path.read_bytes(), f"--{name}={path}")


def picture_settings(values: flags.FlagValues) -> dict[str, Any]:
    """What a call is given of ``--image``, ``--mask`` and the size; an image has its own size."""
    image, mask = read_picture(values, "image"), read_picture(values, "mask")
    settings = {"height": values.height, "width": values.width}
    if image is not None:
        for name, edge in zip(settings, image.shape[:2], strict=True):
            settings[name] = settings[name] or edge
        image = np.broadcast_to(image, (*image.shape[:2], 3))
    if mask is not None:
        mask = mask.mean(-1).astype(np.uint8)
    given = {"image": image, "mask": mask, "strength": values.strength, **settings}
    given |= {"image_guidance_scale": values.image_guidance_scale}
    given |= {"weighted": values.weighted or None, "chunked": values.chunked or None}
    return {name: value for name, value in given.items() if value is not None}


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
    pictures = picture_settings(values) | micro_settings(values)
    if pictures and values.trajectory:
        raise UserError(f"--trajectory does not go with --{next(iter(pictures))}")
    for name in ("image", "mask", "strength", "image_guidance_scale", "trajectory"):
        if values.refiner is not None and values[name].value not in (None, False):
            raise UserError(f"--{name} does not go with --refiner: refine an image with --pretrained=REFINER")
    pipeline = load_model(values)
    make = with_refiner(values, pipeline)
    import jax

    from difflax.figures.grids import captioned_grid
    from difflax.figures.png import save_png
    from difflax.figures.trajectory import write_trajectory

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
    for name in ("guidance", "image_guidance_scale"):
        if values[name].value is not None:
            facts[name] = values[name].value
    output = pathlib.Path(values.output)
    if values.trajectory:
        made = pipeline.trajectory(prompts, seed=seeds, **settings)
        images = made.images
    else:
        images = make(prompts, seed=seeds, **settings, **pictures)
    if jax.process_index() != 0:
        return
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
