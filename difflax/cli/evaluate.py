"""Measures a trained model at its own guidance scale, with the prompts and the judge of its config.

difflax evaluate --workdir=runs/digits --output=runs/digits/evaluation
"""

from collections.abc import Sequence

from absl import flags

from difflax.cli.ablate import define_measurement_flags, sweep
from difflax.cli.models import define_model_flags


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_model_flags(values)
    define_measurement_flags(values)


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    sweep(values, None)
