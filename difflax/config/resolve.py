"""A config as a user gives it, whole or in part, to one that holds every field; overrides on the way.

In between stands what differs from the defaults: so an implementation can be changed by its name alone, with
the values that both have, and a config that an earlier version wrote takes the defaults of fields it never
heard of.
"""

import ast
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections.config_dict import required_placeholder

from difflax.config.build import build_section
from difflax.config.schema import Field, Section
from difflax.config.values import REQUIRED, values_of
from difflax.core.spelling import nearest
from difflax.core.types import UserError

Values = dict[str, Any]

Override = tuple[str, str]
"""A key as it is on the command line, ``config.sampler.name``, and the text of its value."""


def changes(section: Section, values: Any, where: str) -> Any:
    """The part of a section's values that differs from the defaults, and its name.

    Fields of an implementation that is not chosen, with its defaults, are what a changed name left over, and
    are dropped; all else that is unknown stays, for `complete` to refuse.
    """
    if section.many or not section.takes(values):
        return values
    name, given = section.split(values)
    if name not in tuple(section.classes):
        return values
    known = section.fields(name, where)
    kept: Values = {}
    for key, value in given.items():
        field = known.get(key)
        if field is None:
            others = (section.own(other, where).get(key) for other in section.names)
            if not any(other is not None and _is_default(other, value, where) for other in others):
                kept[key] = value
        elif below := field.below(value):
            kept[key] = changes(below, value, f"{where}.{key}")
        elif not field.has_default(value):
            kept[key] = value
    return section.joined(name, kept)


def _is_default(field: Field, value: Any, where: str) -> bool:
    """Whether a value is that of a field which nobody set."""
    below = field.below(value)
    if below is not None:
        return changes(below, value, where) == below.joined(below.chosen, {})
    return field.has_default(value)


def complete(section: Section, values: Any, where: str, *, placeholders: bool = False) -> Any:
    """A section's values with every field of its implementation in it, of the annotated types.

    Args:
        placeholders: whether what must be given may be missing; it is then ml_collections' placeholder.

    Raises:
        UserError: for an unknown name or field, a missing one, or a wrong type.
    """
    if section.many:
        one = dataclasses.replace(section, many=False)
        if not section.takes(values):
            raise UserError(f"{where} = {values!r} must be a tuple of sections, each with its name")
        return tuple(complete(one, item, f"{where}[{i}]") for i, item in enumerate(values))
    if values is None and section.optional:
        return None
    values = {} if values is None else values
    if not section.takes(values):
        raise UserError(f"{where} = {values!r} is a section: give its fields{_names(section)}")
    name, given = section.split(values)
    fields = section.fields(name, where)
    label = where if name is None else f"{where} ({name})"
    for key in given:
        if key not in fields:
            raise UserError(f"{label} has no {section.entry} {key!r}{nearest(key, fields)}")
    made = {
        key: _complete_field(field, given, f"{where}.{key}", placeholders) for key, field in fields.items()
    }
    return section.joined(name, made)


def read_section(section: Section, values: Any, where: str) -> Any:
    """The object of a section that is described apart from a config; errors as for `complete`."""
    return build_section(section, complete(section, values_of(values), where), where)


def _complete_field(field: Field, values: Mapping[str, Any], where: str, placeholders: bool) -> Any:
    section, given = field.section, values.get(field.name)
    if section is not None and not section.holds_value(given):
        given = values.get(field.name, () if section.many else None)
        return complete(section, given, where, placeholders=placeholders)
    if field.name in values:
        return field.takes.read(given, where)
    if field.default is not REQUIRED:
        return field.default
    if placeholders:
        return required_placeholder(object)
    raise UserError(f"{where} is missing: {field.text or 'it has no default'}")


def _names(section: Section) -> str:
    return f", with a name of {', '.join(section.names)}" if section.names else ""


def override(section: Section, values: Values, overrides: Sequence[Override]) -> Values:
    """``values``, as `changes` gives them, with values of the command line.

    Names and whole sections come first, the outer before the inner: a changed implementation keeps the values
    whose fields it has too. Then the fields, which may be those of the new implementation. Below a section
    that may be ``None``, a field makes it.

    Raises:
        UserError: for an unknown key, or a text that is no such value.
    """

    def turn(item: tuple[Sequence[str], str]) -> tuple[int, ...]:
        path, _ = item
        names = path[-1] == "name"
        return (0, len(path), not names) if names or _whole(section, path) else (1,)

    paths = [(tuple(key.split(".")[1:]), text) for key, text in overrides]
    for path, text in sorted(paths, key=turn):
        values = _set(section, values, path, text, "config")
    return values


def _whole(section: Section, path: Sequence[str]) -> bool:
    """Whether a path ends at a section, whatever is chosen above it."""
    for key in path:
        found = [
            field
            for name in section.classes
            for field in (section.fields(name, "").get(key),)
            if field is not None and field.section is not None and not field.section.value
        ]
        if not found:
            return False
        section = found[0].section
    return True


def _set(section: Section, values: Any, path: Sequence[str], text: str, where: str) -> Values:
    values = dict(values) if section.takes(values) else {}
    key, *below = path
    old, _ = section.split(values)
    if key == "name" and section.names and not below:
        section.cls(text, where)
        before = section.fields(old, where) if old in section.names else {}
        after = section.fields(text, where)
        kept = {k: v for k, v in values.items() if k not in before or k in after}
        return {**kept, "name": text}
    fields = section.fields(old, where)
    if key not in fields:
        label = f"--{'.'.join([where, *path])}: {where if old is None else f'{where} ({old})'}"
        raise UserError(f"{label} has no key {key!r}{nearest(key, section.joined(old, fields))}")
    field, here = fields[key], f"{where}.{key}"
    if not below:
        return {**values, key: read_text(field, text, f"--{here}")}
    if field.section is None or field.section.many:
        raise UserError(f"--{'.'.join([where, *path])}: {here} holds a value, no section: give it whole")
    return {**values, key: _set(field.section, values.get(key), below, text, here)}


def read_text(field: Field, text: str, where: str) -> Any:
    """What a text of the command line stands for in a field: a literal of Python, or itself where that fits.

    Raises:
        UserError: it is no such value.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = {"true": True, "false": False}.get(text.lower(), text)
    value, section = values_of(value), field.section
    if section is not None and not section.holds_value(value):
        if value is None or section.takes(value):
            return value
        raise UserError(f"{where}={text}: it is a section: give its fields{_names(section)}")
    if field.takes.kind(value) is None and field.takes.kind(text) is not None:
        value = text
    return field.takes.read(value, where)
