"""Trains what a config names in a workdir; called again with the same workdir, goes on from its newest
checkpoint.

    difflax train --config=configs/shapes.py --workdir=runs/shapes --config.training.steps=2000
    difflax train --config=configs/shapes.py --config.sampler.name=ddim --show

The second prints the config, every value with a line about it, and trains nothing.
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
    flags.DEFINE_bool(
        "change",
        False,
        "go on with a run that began with another training.steps or learning rate",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "show", False, "print the config, all keys of it, and train nothing", flag_values=values
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
    """The flags ``--config`` and ``--config.section.key``, for every key on this command line."""
    text = "config file, file.py or file.py:argument; --config.section.key=value overrides (--show lists all)"
    flags.DEFINE_string("config", None, text, flag_values=values)
    for argument in argv:
        key = argument.partition("=")[0].lstrip("-")
        if argument.startswith("-") and key.startswith("config.") and key not in values:
            flags.DEFINE_string(key, None, "an override", flag_values=values)


def read_config(values: flags.FlagValues) -> Any:
    """The config that was given, with its overrides, complete.

    Raises:
        UserError: there is none, or something in it is wrong.
    """
    from difflax.config.files import read_config_file

    if values.config is None:
        raise UserError("give --config=FILE.py")
    keys = [key for key in values if key.startswith("config.")]
    return read_config_file(values.config, [(key, values[key].value) for key in keys])


def run(values: flags.FlagValues) -> None:
    """Runs the command."""
    if values.config is None or not (values.workdir or values.show):
        raise UserError("give --config=FILE.py and --workdir=DIR")
    config = read_config(values)
    if values.show:
        from difflax.config.show import show

        print(show(config))
        return
    from difflax import runs

    join_processes(values)
    runs.train(config, values.workdir, stop_at=values.stop_at, change=values.change)
    print(f"trained: {values.workdir}")
