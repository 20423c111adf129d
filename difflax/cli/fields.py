"""Flags for the fields of a dataclass: names, types and defaults are its own, help is of its docstring."""

import dataclasses
import inspect
import re
import typing
from collections.abc import Collection

from absl import flags


def describe_fields(cls: type) -> dict[str, str]:
    """What the ``Attributes`` of a dataclass's docstring say of each field, one line a field."""
    known = {field.name for field in dataclasses.fields(cls)}
    said: dict[str, str] = {}
    names: list[str] = []
    for line in inspect.getdoc(cls).partition("Attributes:")[2].splitlines():
        head, colon, rest = line.strip().partition(":")
        found = re.split(r",\s*", head)
        if colon and known.issuperset(found):
            names, line = found, rest
        for name in names:
            said[name] = f"{said.get(name, '')} {line.strip()}".strip()
    return said


def define_fields(values: flags.FlagValues, cls: type, *, leave_out: Collection[str] = ()) -> None:
    """Adds a flag for each field of ``cls`` that is a whole number or a string."""
    define = {int: flags.DEFINE_integer, str: flags.DEFINE_string}
    types, said = typing.get_type_hints(cls), describe_fields(cls)
    for field in dataclasses.fields(cls):
        if field.name not in leave_out:
            # An empty string is no default that a user should read.
            default = None if field.default == "" else field.default
            define[types[field.name]](field.name, default, said[field.name], flag_values=values)


def read_fields(values: flags.FlagValues, cls: type) -> dict[str, int | str]:
    """What the user gave of these flags; everything else is left to the defaults of ``cls``."""
    names = [field.name for field in dataclasses.fields(cls) if field.name in values]
    return {name: values[name].value for name in names if values[name].value is not None}
