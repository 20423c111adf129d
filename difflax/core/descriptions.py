"""What the fields of a dataclass are: their types, and what they mean, from the "Attributes:" of its
docstring, where it is written once.
"""

import dataclasses
import inspect
import re
import types
import typing
from typing import Any


def choices_of(hint: Any) -> tuple[Any, ...]:
    """The types that an annotation joins."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def describe(cls: type) -> dict[str, str]:
    """What the ``Attributes`` of a dataclass's docstring say of each field, on one line; several may share
    one.
    """
    known = {field.name for field in dataclasses.fields(cls)}
    said: dict[str, str] = {}
    names: list[str] = []
    block = (inspect.getdoc(cls) or "").partition("Attributes:")[2].partition("\nRaises:")[0]
    for line in block.splitlines():
        head, colon, rest = line.strip().partition(":")
        found = re.split(r",\s*", head)
        if colon and known.issuperset(found):
            names, line = found, rest
        for name in names:
            said[name] = f"{said.get(name, '')} {line.strip()}".strip()
    return said
