"""One checkpoint file in the original layout to a folder in diffusers' layout, or a folder or Hub id to a
folder with other settings, LoRA merged, or a fine-tuning run's newest checkpoint; nothing but safetensors is
read and written.

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
    flags.DEFINE_string("workdir", None, "folder of a fine-tuning run", flag_values=values)
    flags.DEFINE_string("output", None, "folder for the result", flag_values=values)


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
