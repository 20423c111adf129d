"""Trains what a config names in a workdir; called again with the same workdir, goes on from its newest
checkpoint.

    difflax train --config=configs/shapes.py --workdir=runs/shapes --config.training.steps=2000
"""

from collections.abc import Sequence

from absl import flags

from difflax.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config", None, "config file, file.py or file.py:argument", flag_values=values, sys_argv=list(argv)
    )
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_integer(
        "stop_at", None, "stop after this step with a checkpoint; the next call goes on", flag_values=values
    )


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    from ml_collections import ConfigDict

    from difflax import experiment

    if not values["config"].present or not values.workdir:
        raise UserError("give --config=FILE.py and --workdir=DIR")
    if not isinstance(values.config, ConfigDict):
        name = values["config"].config_filename
        raise UserError(f"--config={name}: there is no such file, or get_config in it fails")
    experiment.train(values.config, values.workdir, stop_at=values.stop_at)
    print(f"trained: {values.workdir}")
