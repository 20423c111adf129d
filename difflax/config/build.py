"""Values to objects; a value out of range is one line."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from difflax.config.schema import Field, Section
from difflax.core.types import UserError


def build_section(section: Section, values: Mapping[str, Any] | tuple | None, where: str) -> Any:
    """The object of a section whose values are complete, see `difflax.config.resolve.complete`.

    Raises:
        UserError: for a value out of range.
    """
    if section.many:
        one = dataclasses.replace(section, many=False)
        return tuple(build_section(one, item, f"{where}[{i}]") for i, item in enumerate(values or ()))
    if values is None:
        return None
    name, _ = section.split(values)
    where_own = where if name is None else f"{where} ({name})"
    own, beside = (
        _built_fields(fields, values, where) for fields in (section.own(name, where), section.around())
    )
    return called(where_own, section.make, section.cls(name, where), own, beside)


def _built_fields(fields: Mapping[str, Field], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    made = {}
    for key, field in fields.items():
        value = values[key]
        below = field.section is not None and not field.section.holds_value(value)
        made[key] = build_section(field.section, value, f"{where}.{key}") if below else value
    return made


def called(where: str, function: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    """``function(*args, **fields)``; what it refuses is one line that starts with ``where``."""
    try:
        return function(*args, **fields)
    except (ValueError, TypeError, UserError) as error:
        text = str(error)
        raise UserError(text if text.startswith(("config.", "--")) else f"{where}: {text}") from error
