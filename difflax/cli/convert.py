"""Writes a checkpoint as a folder in diffusers' layout: one file in its authors' layout, a folder or Hub id
with LoRA merged or in another dtype, or the newest checkpoint of a fine-tuning run. Weights are read and
written as safetensors alone.

    difflax convert --pretrained=v1-5-pruned-emaonly.safetensors --output=sd15
    difflax convert --pretrained=sd15 --lora=style.safetensors:0.8 --output=sd15-style
    difflax convert --workdir=runs/finetune --output=finetuned
"""

from collections.abc import Sequence

from absl import flags

from difflax.cli.models import define_pretrained_flags, load_model
from difflax.core.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_pretrained_flags(values)
    workdir = (
        "folder of a fine-tuning run, whose newest checkpoint is written; without it: --pretrained must be"
        " given"
    )
    flags.DEFINE_string("workdir", None, workdir, flag_values=values)
    output = "the folder to write, new or empty; must be given"
    flags.DEFINE_string("output", None, output, flag_values=values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    import pathlib

    if not values.pretrained and not values.workdir:
        raise UserError("give --pretrained=FILE.safetensors, a folder or a Hub id, or --workdir=DIR of a run")
    if not values.output:
        raise UserError("give --output=DIR, a folder for the result")
    output = pathlib.Path(values.output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output={output} is not an empty folder: choose another")
    load_model(values).save_pretrained(output)
    print(f"converted: {output}")
