"""Flags for the fields of a dataclass: names, types and defaults are its own, help is of its docstring."""

import dataclasses
import typing
from collections.abc import Collection
from typing import Any

from absl import flags

from difflax.core.descriptions import describe


class WholeNumbers(flags.ArgumentParser):
    """Whole numbers with commas between them, as a tuple."""

    syntactic_help = "whole numbers with commas between them"

    def parse(self, argument: str) -> tuple[int, ...]:
        try:
            return tuple(int(part) for part in argument.split(","))
        except ValueError as error:
            raise ValueError("give whole numbers with commas between them, as in 64,128") from error


def _define_numbers(
    name: str, default: Collection[int] | None, text: str, flag_values: flags.FlagValues
) -> None:
    written = None if default is None else ",".join(map(str, default))
    flags.DEFINE(WholeNumbers(), name, written, text, flag_values, flags.ListSerializer(","))


DEFINE = {
    bool: flags.DEFINE_bool,
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    tuple: _define_numbers,
}
"""What defines a flag, by the type of its value; tuples are of whole numbers."""


def define_flag(
    values: flags.FlagValues, name: str, kind: Any, default: Any, text: str, **bounds: int
) -> None:
    """Adds a flag for a value of the type ``kind``, one of ``DEFINE``.

    Args:
        bounds: ``lower_bound`` and ``upper_bound`` of a number.
    """
    DEFINE[typing.get_origin(kind) or kind](name, default, text, flag_values=values, **bounds)


def define_fields(values: flags.FlagValues, cls: type, *, leave_out: Collection[str] = ()) -> None:
    """Adds a flag for each field of ``cls``."""
    types, said = typing.get_type_hints(cls), describe(cls)
    for field in dataclasses.fields(cls):
        if field.name not in leave_out:
            # An empty string is no default that a user should read.
            define_flag(values, field.name, types[field.name], field.default or None, said[field.name])


def read_fields(values: flags.FlagValues, cls: type) -> dict[str, Any]:
    """What the user gave of these flags; everything else is left to the defaults of ``cls``."""
    names = [field.name for field in dataclasses.fields(cls) if field.name in values]
    return {name: values[name].value for name in names if values[name].value is not None}
