"""A resolved config to read: every value as the command line takes it, with a line about it."""

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from difflax.config.experiments import root
from difflax.config.schema import Section
from difflax.config.values import values_of

COLUMN = 44
"""Where the descriptions start."""


def show(config: ConfigDict | Mapping[str, Any], width: int | None = None) -> str:
    """The config as text: a line ``config.section.key = value`` for every field, and what it means.

    Args:
        config: resolved.
        width: of a line; ``None``: of the terminal.
    """
    values = values_of(config)
    width = width or max(shutil.get_terminal_size((110, 24)).columns, COLUMN + 30)
    rows = _rows(root(values["model"]["name"]), values, "config", apart=True)
    return "\n".join(line for row in rows for line in _lines(*row, width))


def _rows(
    section: Section, values: Mapping[str, Any], where: str, *, apart: bool = False
) -> Iterator[tuple[str, str, str]]:
    """Key, value and description of every field; sections after the values beside them, ``apart`` after a
    blank line.
    """
    name, values = section.split(values)
    if name is not None:
        yield f"{where}.name", name, _about(section, name, where)
    below = []
    for key, field in section.fields(name, where).items():
        value = values[key]
        if inner := field.below(value):
            below.append((inner, value, f"{where}.{key}"))
        else:
            yield f"{where}.{key}", _text(value), first_sentence(field.text)
    for inner in below:
        if apart:
            yield "", "", ""
        yield from _rows(*inner)


def _about(section: Section, name: str, where: str) -> str:
    """What the implementation is, and how many others there are."""
    doc = first_sentence(" ".join((section.cls(name, where).__doc__ or "").split("\n\n")[0].split()))
    others = len(section.names) - 1
    return f"{doc} (one of {others + 1})" if others else doc


def _text(value: Any) -> str:
    """A value as the command line takes it: texts in quotes where their ends would not be seen."""
    text = str(value)
    return text if text and text.strip() == text and not text.startswith(("'", '"')) else repr(value)


def first_sentence(text: str) -> str:
    """The first sentence of a description, without its full stop and its marks of code."""
    text = re.split(r"(?<!\bal)(?<!\beq)\. (?=[A-Z])", text)[0]
    return text.replace("``", "").replace("`", "").rstrip(".")


def _lines(key: str, value: str, text: str, width: int) -> list[str]:
    if not key:
        return [""]
    head = f"{key} = {value}"
    if not text:
        return [head]
    body = textwrap.wrap(text, width - COLUMN)
    if len(head) < COLUMN - 1:
        first, rest = f"{head:<{COLUMN}}{body[0]}", body[1:]
    else:
        first, rest = head, body
    return [first, *(f"{'':<{COLUMN}}{line}" for line in rest)]
