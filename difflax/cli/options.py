"""A flag for every option of every kind of condition, made from the options' types and descriptions."""

import dataclasses
import typing
from collections.abc import Iterator
from typing import Any

from absl import flags

from difflax.cli.fields import define_flag
from difflax.core.descriptions import choices_of, describe
from difflax.core.several import several


def define_option_flags(values: flags.FlagValues) -> None:
    """Adds the flags; a call's argument that is itself a dataclass gets a flag for each of its fields."""
    for _, field, kind, text in _leaves():
        define_flag(values, field, kind, None, text)


def read_options(values: flags.FlagValues) -> dict[str, Any]:
    """The arguments of a call that those flags give, by name."""
    given: dict[str, Any] = {}
    inside: dict[tuple[str, type], dict[str, Any]] = {}
    for owner, field, _, _ in _leaves():
        value = values[field].value
        if value in (None, False):
            continue
        if owner is None:
            given[field] = value
        else:
            inside.setdefault(owner, {})[field] = value
    return given | {name: cls(**fields) for (name, cls), fields in inside.items()}


def _leaves() -> Iterator[tuple[tuple[str, type] | None, str, Any, str]]:
    """The argument that a flag is a part of (its name and class, ``None`` for an argument itself), the flag's
    name, its type and its description.
    """
    from difflax.generation.conditions import CONDITIONS

    for options in dict.fromkeys(kind.Options for kind in CONDITIONS.values()):
        for name, kind, text in _fields(options):
            if dataclasses.is_dataclass(kind):
                yield from (((name, kind), *inner) for inner in _fields(kind))
            else:
                yield None, name, kind, text


def _fields(cls: type) -> Iterator[tuple[str, Any, str]]:
    """Name, type without ``None``, and description of every field."""
    hints, texts = typing.get_type_hints(cls), describe(cls)
    for field in dataclasses.fields(cls):
        kinds = [kind for kind in choices_of(hints[field.name]) if kind is not type(None)]
        text = texts.get(field.name, "")
        # A flag itself has no default, so that what is not given need not be known to the model.
        usual = _as_flag(field.default)
        yield field.name, kinds[0], f"{text.rstrip('.')}; without it: {usual}" if usual else text


def _as_flag(default: Any) -> str:
    """A default as it would be given; empty where there is none, or that of a switch."""
    return ",".join(map(str, several(default))) if default not in (None, False) else ""
