"""Flags for the fields of a dataclass: names, types and defaults are its own, help is of its docstring."""

import dataclasses
import typing
from collections.abc import Collection

from absl import flags

from difflax.core.descriptions import describe


def define_fields(values: flags.FlagValues, cls: type, *, leave_out: Collection[str] = ()) -> None:
    """Adds a flag for each field of ``cls`` that is a whole number or a string."""
    define = {int: flags.DEFINE_integer, str: flags.DEFINE_string}
    types, said = typing.get_type_hints(cls), describe(cls)
    for field in dataclasses.fields(cls):
        if field.name not in leave_out:
            # An empty string is no default that a user should read.
            default = None if field.default == "" else field.default
            define[types[field.name]](field.name, default, said[field.name], flag_values=values)


def read_fields(values: flags.FlagValues, cls: type) -> dict[str, int | str]:
    """What the user gave of these flags; everything else is left to the defaults of ``cls``."""
    names = [field.name for field in dataclasses.fields(cls) if field.name in values]
    return {name: values[name].value for name in names if values[name].value is not None}
