"""Trains what a config names in a workdir; called again with the same workdir, goes on from its newest
checkpoint.

    difflax train --config=configs/shapes.py --workdir=runs/shapes --config.training.steps=2000
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from difflax.core.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_config(values, argv)
    define_processes(values)
    flags.DEFINE_string("workdir", None, "folder of the run", flag_values=values)
    flags.DEFINE_integer(
        "stop_at", None, "stop after this step with a checkpoint; the next call goes on", flag_values=values
    )


def define_processes(values: flags.FlagValues) -> None:
    """The flags of every command that several processes may run together."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "with several processes: host:port of the first; without these three flags a scheduler is asked",
        flag_values=values,
    )
    flags.DEFINE_integer("processes", None, "how many processes", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("process", None, "which of them this is, from 0", lower_bound=0, flag_values=values)


def join_processes(values: flags.FlagValues) -> None:
    """Joins this process to the others of its run; see `initialize`."""
    from difflax.parallel import processes

    processes.initialize(coordinator=values.coordinator, processes=values.processes, process=values.process)


def define_config(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags ``--config`` and ``--config.section.key``."""
    from ml_collections import config_flags

    config_flags.DEFINE_config_file(
        "config", None, "config file, file.py or file.py:argument", flag_values=values, sys_argv=list(argv)
    )


def read_config(values: flags.FlagValues) -> Any:
    """The config that was given."""
    from ml_collections import ConfigDict

    if not values["config"].present:
        raise UserError("give --config=FILE.py")
    if not isinstance(values.config, ConfigDict):
        name = values["config"].config_filename
        raise UserError(f"--config={name}: there is no such file, or get_config in it fails")
    return values.config


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    from difflax import runs

    if not values["config"].present or not values.workdir:
        raise UserError("give --config=FILE.py and --workdir=DIR")
    config = read_config(values)
    join_processes(values)
    runs.train(config, values.workdir, stop_at=values.stop_at)
    print(f"trained: {values.workdir}")
