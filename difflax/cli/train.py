"""Trains what a config names in a workdir; called again with the same workdir, goes on from its newest
checkpoint.

    difflax train --config=configs/shapes.py --workdir=runs/shapes --config.training.steps=2000
    difflax train --config=configs/shapes.py --config.sampler.name=ddim --show

The second prints the config, every value with a line about it, and trains nothing.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags

from difflax.core.files import writable_folder
from difflax.core.types import UserError


def define_flags(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """Adds the flags of this command."""
    define_config(values, argv)
    define_processes(values)
    flags.DEFINE_string(
        "workdir", None, "folder of the run; must be given but with --show", flag_values=values
    )
    flags.DEFINE_integer(
        "stop_at",
        None,
        "step after which to stop with a checkpoint, from where the next call goes on; without it: the"
        " config's last",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "change",
        False,
        "go on with a run that began with another training.steps or learning rate",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "show", False, "print the config with a line about every value, and train nothing", flag_values=values
    )


def define_processes(values: flags.FlagValues) -> None:
    """The flags of every command that several processes may run together."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "host:port of the first of several processes; without it and the next two, DIFFLAX_COORDINATOR,"
        " DIFFLAX_PROCESSES and DIFFLAX_PROCESS or the scheduler tell, or there is one process",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "processes",
        None,
        "how many processes there are; without it: see --coordinator",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "process",
        None,
        "which of the processes this is, from 0; without it: see --coordinator",
        lower_bound=0,
        flag_values=values,
    )


def join_processes(values: flags.FlagValues) -> None:
    """Joins this process to the others of its run; see `initialize`."""
    from difflax.parallel import processes

    processes.initialize(coordinator=values.coordinator, processes=values.processes, process=values.process)


def define_config(values: flags.FlagValues, argv: Sequence[str]) -> None:
    """The flags ``--config`` and ``--config.section.key``, for every key on this command line."""
    text = (
        "config file, file.py or file.py:argument; must be given; --config.section.key=value overrides a"
        " value of it (difflax train --show lists all)"
    )
    flags.DEFINE_string("config", None, text, flag_values=values)
    for argument in argv:
        key = argument.partition("=")[0].lstrip("-")
        if argument.startswith("-") and key.startswith("config.") and key not in values:
            flags.DEFINE_string(
                key,
                None,
                "a value in place of the config's; without it: the config's own",
                flag_values=values,
            )


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

    writable_folder(values.workdir, f"--workdir={values.workdir}")
    if values.stop_at is not None and values.stop_at < 1:
        raise UserError(f"--stop_at={values.stop_at} must be at least 1")
    join_processes(values)
    runs.train(config, values.workdir, stop_at=values.stop_at, change=values.change)
    print(f"trained: {values.workdir}")
