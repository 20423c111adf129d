"""Measures a trained model at its own guidance scale, with the prompts and the judge of its config.

difflax evaluate --workdir=runs/digits --output=runs/digits/evaluation
difflax evaluate --workdir=runs/digits --bits_per_dimension=200 --output=runs/digits/evaluation
"""

from collections.abc import Sequence

from absl import flags

from difflax.cli.ablate import define_measurement_flags, sweep
from difflax.cli.models import define_model_flags
from difflax.core.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values)
    define_measurement_flags(values)
    flags.DEFINE_integer(
        "bits_per_dimension",
        0,
        "number of real test images whose likelihood is measured too, in bits per dimension, for runs in"
        " the space of pixels; 0 is none",
        lower_bound=0,
        flag_values=values,
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    if values.bits_per_dimension and values.pretrained:
        raise UserError("--bits_per_dimension: a checkpoint has no test images: give --workdir")
    sweep(values, None, values.bits_per_dimension)
