"""What ``difflax COMMAND --help`` prints: the command, then each of its flags with kind, choices and default.

A flag without a default says in its own text what happens without it, or that it must be given.
"""

import re
import textwrap
from typing import Any

from absl import flags

from difflax.core.several import several

WIDTH = 88


def command_help(text: str, values: flags.FlagValues) -> str:
    """The whole help of a command.

    Args:
        text: about the command.
        values: its flags, in the order of their definition.
    """
    return "\n\n".join([text.strip(), "\n".join(flag_help(values[name]) for name in values)])


def flag_help(flag: flags.Flag) -> str:
    """``--name: what it does (kind; default: value)``; a flag that is on or off reads ``--[no]name``."""
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    facts = [fact for fact in (flag.parser.syntactic_help, _default(flag)) if fact]
    text = " ".join([plain(flag.help), *([f"({'; '.join(facts)})"] if facts else [])])
    return textwrap.fill(
        f"{name}: {text}",
        WIDTH,
        initial_indent="  ",
        subsequent_indent=" " * 6,
        break_long_words=False,
        break_on_hyphens=False,
    )


def plain(text: str) -> str:
    """A description out of a docstring, or with what absl adds to it, for a reader on the command line:
    ``None`` and ``False`` are a flag that is not given, and literals stand without their marks.
    """
    text = " ".join(text.split()).replace(_ABSL_SAYS, "may be given several times")
    return re.sub(r"``(None|False)``(:| for)", "without it:", text).replace("``", "").rstrip(".")


_ABSL_SAYS = "repeat this option to specify a list of values"


def _default(flag: flags.Flag) -> str:
    if flag.default in _NOTHING:
        return ""
    shown = _SWITCH[flag.default] if flag.boolean else ",".join(map(str, several(flag.default)))
    return f"default: {shown}"


_NOTHING: tuple[Any, ...] = (None, [])
_SWITCH = {True: "yes", False: "no"}
