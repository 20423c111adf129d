"""``difflax COMMAND --flags``: one file a command; bad input is one line and exit status 2."""

import errno
import importlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from difflax.cli.help import command_help
from difflax.core.files import reason, unreachable
from difflax.core.several import several
from difflax.core.spelling import nearest, shown
from difflax.core.types import CTRL_C, Interrupted, UserError

COMMANDS = {
    "train": "train what a config names, or go on with it",
    "sample": "prompts to PNG files",
    "ablate": "sweep the guidance scale: table, plots, image grid and report",
    "convert": "a checkpoint of Stable Diffusion to diffusers' layout",
    "evaluate": "measure a trained model at its own guidance scale",
    "measure": "measure anybody's images: FID, KID, precision, recall, CLIP score and more",
    "report": "rebuild a report from stored results, join several, recompute a share of the cells",
    "explain": "why two results of the same model differ: one thing swapped at a time",
    "view": "a local page: images of a sweep by arm, prompt and seed, and blind votes",
    "decisions": "at which noise level each factor of the picture is decided",
    "switches": "at which noise levels the prompt counts",
    "samplers": "measure every sampler's order of convergence against exact solutions",
    "plan": "compile a train step for a machine that need not be there: memory, FLOPs, time",
    "launch": "a job script for SLURM, Kubernetes, a TPU pod or several processes here",
    "data": "what training would see of data: sizes, captions, copies, what cannot be used",
    "benchmark": "time the UNet, beside PyTorch where it is installed",
}


BARE = {"report": "folders", "explain": "folders", "view": "folder"}
"""Commands that take words without the name of a flag, and the flag that they are values of."""

POSITIONAL = {"launch": "scheduler", "data": "action"}
"""The flag that the word after a command stands for; such a command is also given what follows ``--``."""


def _full_help(text: str, values: flags.FlagValues) -> str:
    return f"{text.strip()}\n{values.get_help()}"


HELPS = {"--help": command_help, "-h": command_help, "--helpfull": _full_help}
"""What is printed of a command's description and flags."""


def usage() -> str:
    """The list of commands."""
    rows = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: difflax COMMAND [--flags]",
            "",
            *rows,
            "",
            "difflax COMMAND --help: its flags; --helpfull: by the modules that define them",
        ]
    )


def run(argv: Sequence[str]) -> int:
    """Runs a command line without the program's name; returns the exit status."""
    if not argv or argv[0] in ("--help", "-h", "help"):
        print(usage())
        return 0 if argv else 2
    return ending(lambda: execute(argv[0], argv[1:]))


def execute(name: str, argv: Sequence[str]) -> None:
    """Runs a command.

    Raises:
        UserError: there is no such command, or bad input.
    """
    command = module_of(name)
    argv, rest = list(argv), []
    if name in POSITIONAL:
        split = argv.index("--") if "--" in argv else len(argv)
        argv, rest = argv[:split], [argv[split + 1 :]]
        if argv and not argv[0].startswith("-"):
            argv[0] = f"--{POSITIONAL[name]}={argv[0]}"
    values = parse(command, name, argv)
    if values is not None:
        set_up()
        command.run(values, *rest)


def module_of(name: str) -> Any:
    """The module of a command.

    Raises:
        UserError: there is none of that name.
    """
    if name not in COMMANDS:
        raise UserError(f"no command {shown(name)}{nearest(name, COMMANDS)}")
    return importlib.import_module(f"difflax.cli.{name}")


OUT_OF_MEMORY = re.compile("RESOURCE_EXHAUSTED|MemoryError|Unable to allocate|[Oo]ut of memory")
"""What JAX and NumPy say then."""


def ending(work: Callable[[], None]) -> int:
    """Does ``work``; its exit status, after a line about what was wrong: bad input, a full disk, a machine
    that is wanted back, Ctrl-C.
    """
    try:
        work()
    except UserError as error:
        print(f"difflax: error: {error}", file=sys.stderr)
        return 2
    except Interrupted as interruption:
        print(f"difflax: {interruption}", file=sys.stderr)
        return interruption.status
    except KeyboardInterrupt:
        print(
            "difflax: stopped by Ctrl-C: what is complete is kept; train, ablate and evaluate go on with it",
            file=sys.stderr,
        )
        return CTRL_C
    except (MemoryError, RuntimeError) as error:
        said = " ".join(str(error).split()) or "MemoryError"
        if not OUT_OF_MEMORY.search(said):
            raise
        print(f"difflax: error: {UserError(f'out of memory, make it smaller: {said}')}", file=sys.stderr)
        return 2
    except OSError as error:
        # What the machine refuses (a full disk, a file that went away) is no fault of the program.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            where = f" for {error.filename}" if error.filename else ""
            said = f"the disk has no room{where}: make room, and start the same command again"
        else:
            said = ("" if error.filename is None else f"{error.filename}: ") + reason(error)
        print(f"difflax: error: {UserError(said)}", file=sys.stderr)
        return 2
    return 0


SENTENCES = re.compile(r"(negative_)?prompt(_\d)?$|invert$")
"""Flags whose values are no paths, whatever they look like."""

LONGEST_FLAG = 500
"""Characters; the parser looks for the nearest spelling of an unknown one."""


def parse(command, name: str, argv: Sequence[str]) -> flags.FlagValues | None:
    """The command's flags; ``None`` after printing its help."""
    values = flags.FlagValues()
    arguments = [f"difflax {name}", *argv]
    command.define_flags(values, arguments)
    for argument in argv:
        if argument in HELPS:
            print(HELPS[argument](command.__doc__, values))
            return None
    for argument in argv:
        flag = argument.partition("=")[0]
        if len(flag) > LONGEST_FLAG:
            raise UserError(f"no flag {shown(flag)} (difflax {name} --help lists the flags)")
    bare = BARE.get(name)
    values.set_gnu_getopt(bare is not None)
    try:
        rest = values(arguments)
        if bare and rest[1:]:
            values[bare].value = [*values[bare].value, *rest[1:]]
            values[bare].present += 1
            rest = rest[:1]
    except flags.Error as error:
        raise UserError(f"{str(error).strip()} (difflax {name} --help lists the flags)") from error
    for flag in (values[name] for name in values if values[name].present and not SENTENCES.match(name)):
        for text in map(str, several(flag.value)):
            if said := unreachable(text):
                raise UserError(f"--{flag.name}={shown(text)}: {said}")
    if rest[1:]:
        raise UserError(
            f"what is {shown(rest[1])}? Flags are --name=value (difflax {name} --help lists them)"
        )
    return values


def set_up() -> None:
    """Quiet logs, and compiled programs kept between commands."""
    import logging
    import os
    import warnings

    import jax
    from absl import logging as absl_logging

    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("jax").setLevel(logging.ERROR)
    # Of a picture that is too large, which is refused in a line of its own.
    warnings.filterwarnings("ignore", message="Image size")
    warnings.formatwarning = lambda message, *where, **more: f"difflax: warning: {UserError(str(message))}\n"
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR") or os.path.expanduser("~/.cache/difflax/jax")
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
