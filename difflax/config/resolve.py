"""A config as a user gives it, whole or in part, to one that holds every field; overrides on the way.

In between stands what differs from the defaults: so an implementation can be changed by its name alone, with
the values that both have, and a config that an earlier version wrote takes the defaults of fields it never
heard of.
"""

import ast
import dataclasses
import json
import math
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError, required_placeholder

from difflax.config.build import build_section, conform, endless
from difflax.config.schema import REQUIRED, Field, Section, choices_of, plain
from difflax.core.spelling import nearest
from difflax.core.types import UserError

Values = dict[str, Any]

Override = tuple[str, str]
"""A key as it is on the command line, ``config.sampler.name``, and the text of its value."""


def values_of(config: Any) -> Any:
    """A `ConfigDict`, mapping or value as plain dicts, tuples and values; what still must be given is left
    out.
    """
    if isinstance(config, ConfigDict):
        config = dict(config.items(preserve_field_references=True))
    if isinstance(config, Mapping):
        read = {key: _dereferenced(value) for key, value in config.items()}
        return {key: values_of(value) for key, value in read.items() if value is not REQUIRED}
    if isinstance(config, list | tuple):
        return tuple(values_of(item) for item in config)
    return config


def _dereferenced(value: Any) -> Any:
    if not isinstance(value, FieldReference):
        return value
    try:
        return value.get()
    except RequiredValueError:
        return REQUIRED


def changes(section: Section, values: Any, where: str) -> Any:
    """The part of a section's values that differs from the defaults, and its name.

    Fields of an implementation that is not chosen, with its defaults, are what a changed name left over, and
    are dropped; all else that is unknown stays, for `complete` to refuse.
    """
    if section.many or not isinstance(values, Mapping):
        return values
    name = values.get("name", section.chosen) if section.names else None
    if section.names and name not in section.names:
        return values
    known = section.fields(name, where)
    kept: Values = {"name": name} if section.names else {}
    for key, value in values.items():
        field = known.get(key)
        if key == "name" and section.names:
            continue
        if field is None:
            others = (section.own(other, where).get(key) for other in section.names)
            if not any(other is not None and _is_default(other, value, where) for other in others):
                kept[key] = value
        elif field.section is not None and isinstance(value, Mapping):
            kept[key] = changes(field.section, value, f"{where}.{key}")
        elif not _is_default(field, value, where):
            kept[key] = value
    return kept


def _is_default(field: Field, value: Any, where: str) -> bool:
    """Whether a value is that of a field which nobody set."""
    section = field.section
    if section is not None and isinstance(value, Mapping):
        return changes(section, value, where) == ({"name": section.chosen} if section.names else {})
    if field.default is REQUIRED:
        return False
    default = plain(field.default)
    return value == default and isinstance(value, bool) == isinstance(default, bool)


def complete(section: Section, values: Any, where: str, *, placeholders: bool = False) -> Any:
    """A section's values with every field of its implementation in it, of the annotated types.

    Args:
        placeholders: whether what must be given may be missing; it is then ml_collections' placeholder.

    Raises:
        UserError: for an unknown name or field, a missing one, or a wrong type.
    """
    if section.many:
        one = dataclasses.replace(section, many=False)
        if not isinstance(values, list | tuple):
            raise UserError(f"{where} = {values!r} must be a tuple of sections, each with its name")
        return tuple(complete(one, item, f"{where}[{i}]") for i, item in enumerate(values))
    if values is None and section.optional:
        return None
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise UserError(f"{where} = {values!r} is a section: give its fields{_names(section)}")
    name = values.get("name", section.chosen) if section.names else None
    cls_fields = section.fields(name, where)
    made: Values = {"name": name} if section.names else {}
    label = where if name is None else f"{where} ({name})"
    for key in values:
        if key not in cls_fields and not (key == "name" and section.names):
            kind = "section" if where == "config" else "field"
            raise UserError(f"{label} has no {kind} {key!r}{nearest(key, cls_fields)}")
    for key, field in cls_fields.items():
        made[key] = _complete_field(field, values, f"{where}.{key}", placeholders)
    return made


def read_section(section: Section, values: Any, where: str) -> Any:
    """The object of a section that is described apart from a config; errors as for `complete`."""
    return build_section(section, complete(section, values_of(values), where), where)


def _complete_field(field: Field, values: Mapping[str, Any], where: str, placeholders: bool) -> Any:
    section, given = field.section, values.get(field.name)
    if section is not None and not section.holds_value(given):
        given = values.get(field.name, () if section.many else None)
        return complete(section, given, where, placeholders=placeholders)
    if field.name in values:
        return conform(given, field.hint, where, endless=endless(field.default))
    if field.default is not REQUIRED:
        return plain(field.default)
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
    paths = [(tuple(key.split(".")[1:]), text) for key, text in overrides]
    chooses = [(path, text) for path, text in paths if path[-1] == "name" or _whole(section, path)]
    for path, text in sorted(chooses, key=lambda item: (len(item[0]), item[0][-1] != "name")):
        values = _set(section, values, path, text, "config")
    for path, text in paths:
        if (path, text) not in chooses:
            values = _set(section, values, path, text, "config")
    return values


def _whole(section: Section, path: Sequence[str]) -> bool:
    """Whether a path ends at a section, whatever is chosen above it."""
    for key in path:
        found = [
            field
            for name in section.names or (None,)
            for field in (section.fields(name, "").get(key),)
            if field is not None and field.section is not None and not field.section.value
        ]
        if not found:
            return False
        section = found[0].section
    return True


def _set(section: Section, values: Any, path: Sequence[str], text: str, where: str) -> Values:
    values = dict(values) if isinstance(values, Mapping) else {}
    key, *below = path
    old = values.get("name", section.chosen) if section.names else None
    if key == "name" and section.names and not below:
        section.cls(text, where)
        before = section.fields(old, where) if old in section.names else {}
        after = section.fields(text, where)
        kept = {k: v for k, v in values.items() if k not in before or k in after}
        return {**kept, "name": text}
    fields = section.fields(old, where)
    if key not in fields:
        label = f"--{'.'.join([where, *path])}: {where if old is None else f'{where} ({old})'}"
        known = [*fields, *(["name"] if section.names else [])]
        raise UserError(f"{label} has no key {key!r}{nearest(key, known)}")
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
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = {"true": True, "false": False}.get(text.lower(), text)
    value = values_of(value)
    section = field.section
    if section is not None and not section.holds_value(value):
        if isinstance(value, Mapping) or (section.many and isinstance(value, tuple)) or value is None:
            return value
        raise UserError(f"{where}={text}: it is a section: give its fields{_names(section)}")
    options = choices_of(field.hint)
    takes_text = str in options or any(_is_text(option) for option in options)
    if takes_text and not (isinstance(value, str) or _fits(value, field, where)):
        value = text
    return conform(value, field.hint, where, endless=endless(field.default))


def _is_text(option: Any) -> bool:
    return typing.get_origin(option) is typing.Literal and isinstance(typing.get_args(option)[0], str)


def _fits(value: Any, field: Field, where: str) -> bool:
    try:
        conform(value, field.hint, where)
    except UserError:
        return False
    return True


def to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as JSON has them; numbers that JSON has not (``inf``) as texts, which `conform` reads."""
    return json.loads(json.dumps(_finite(values)))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
