"""The flags that a stored result was made with, and the axes of a sweep that mean the same."""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from difflax.core.types import UserError

Settings = dict[str, Any]


class Asked:
    """The flags that a result was made with, read from its command.

    Raises:
        UserError: no command of this program made it.
    """

    def __init__(self, command: str):
        from difflax.cli.main import module_of, parse
        from difflax.cli.recompute import RERUN

        words = shlex.split(command.splitlines()[0]) if command.strip() else []
        if len(words) < 2 or words[1] not in RERUN:
            raise UserError(f"a result was not made by one `difflax {RERUN[0]}` command: {command!r}")
        self.flags = parse(module_of(words[1]), words[1], words[2:])
        self.source = self.flags.workdir or self.flags.pretrained
        self.of_run = bool(self.flags.workdir)


def _where_given(axis: str) -> Callable[[Any], Settings]:
    """Nothing where the flag is not given: then it is as the model has it."""
    return lambda value: {} if value in (None, "") else {axis: value}


def _guidance(value: str | None) -> Settings:
    from difflax.evaluation.ablation.values import read_values

    return {} if value is None else {"guidance": read_values(value, "--guidance")[0]}


def _loras(values: Sequence[str]) -> Settings:
    from difflax.cli.models import read_lora_flag

    if len(values) > 1:
        raise UserError(f"--lora: {len(values)} LoRAs of one result cannot be swapped: at most one can")
    path, weight = read_lora_flag(values[0]) if values else (None, 1.0)
    return {"lora": path, "lora_scale": weight}


AXES_OF_FLAGS: Mapping[str, Callable[[Any], Settings]] = {
    "guidance": _guidance,
    "sampler": _where_given("sampler"),
    "num_steps": _where_given("num_steps"),
    "negative_prompt": _where_given("negative_prompt"),
    "ema_length": lambda value: {"ema": value},
    "dtype": lambda value: {"dtype": value},
    "lora": _loras,
}
"""What each flag sets, by axis."""

OF_RUNS, OF_CHECKPOINTS = ("ema_length",), ("dtype",)
"""Flags that do nothing with the other kind of model."""

UNTOUCHED = (
    *("variant", "revision", "config", "tokenizer", "prediction_type", "zero_terminal_snr"),
    *("textual_inversion", "t5", "t5_length", "mesh"),
)
"""Flags that change images and are no axis."""


def differing(one: Asked, other: Asked, names: Sequence[str]) -> list[str]:
    """The flags among ``names`` whose values the two results do not share."""
    unread = OF_CHECKPOINTS if one.of_run else OF_RUNS
    here = [name for name in names if name in one.flags and name in other.flags and name not in unread]
    return [name for name in here if one.flags[name].value != other.flags[name].value]


def settings_of(asked: Asked, names: Sequence[str]) -> Settings:
    """What flags set, by axis."""
    found: Settings = {}
    for name in names:
        found |= AXES_OF_FLAGS[name](asked.flags[name].value)
    return found


def clear(asked: Asked, names: Sequence[str]) -> None:
    """Takes flags back to what they are where they are not given: arms set them."""
    for name in names:
        asked.flags[name].value = asked.flags[name].default


def step_of(checkpoint: str) -> int | None:
    """The training step in what `difflax.cli.models.weights_named` says, ``None`` of what it did not say."""
    found = re.search(r", step (\d+), average", checkpoint)
    return int(found[1]) if found else None
