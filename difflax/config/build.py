"""Values to objects; a wrong name, field, type or value is one line.

Annotations are checked here and nowhere else: a class that declares a ``Literal`` or a float gets one of its
values or a finite number from every config. What is left to the class are ranges, and what its fields ask of
each other.
"""

import collections.abc
import dataclasses
import math
import typing
from collections.abc import Callable, Mapping
from typing import Any

from difflax.config.schema import Section, choices_of, plain
from difflax.core.spelling import nearest
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
    name = values.get("name") if section.names else None
    where_own = where if name is None else f"{where} ({name})"

    def read(fields: Mapping[str, Any]) -> dict[str, Any]:
        made = {}
        for key, field in fields.items():
            value = values[key]
            below = field.section is not None and not field.section.holds_value(value)
            made[key] = build_section(field.section, value, f"{where}.{key}") if below else value
        return made

    own, beside = read(section.own(name, where)), read(section.around())
    return called(where_own, section.make, section.cls(name, where), own, beside)


def called(where: str, function: Callable[..., Any], *args: Any, **fields: Any) -> Any:
    """``function(*args, **fields)``; what it refuses is one line that starts with ``where``."""
    try:
        return function(*args, **fields)
    except (ValueError, TypeError, UserError) as error:
        text = str(error)
        raise UserError(text if text.startswith(("config.", "--")) else f"{where}: {text}") from error


def endless(default: Any) -> bool:
    """Whether a field may be infinite: where its own default is."""
    return isinstance(default, float) and math.isinf(default)


def conform(value: Any, hint: Any, where: str, *, endless: bool = False) -> Any:
    """``value`` as its annotation has it: whole numbers as floats, lists as tuples.

    Annotations that say nothing about a config's values (arrays, protocols, ``Any``) take every value.

    Args:
        endless: whether numbers may be infinite.

    Raises:
        UserError: it is of another type, or not a finite number.
    """
    options = choices_of(hint)
    literals = [item for option in options for item in _literals(option)]
    if any(value is item or (value == item and type(value) is type(item)) for item in literals):
        return value
    value = plain(value)
    for option in options:
        fits, made = _fit(value, option, where, endless)
        if fits:
            return made
    if literals and all(_literals(option) or option is type(None) for option in options):
        known = [*literals, *([None] if type(None) in options else [])]
        raise UserError(f"{where} = {value!r} is unknown{nearest(value, known)}")
    raise UserError(f"{where} = {value!r} must be {describe(hint)}")


def _literals(option: Any) -> tuple[Any, ...]:
    return typing.get_args(option) if typing.get_origin(option) is typing.Literal else ()


def _fit(value: Any, option: Any, where: str, endless: bool) -> tuple[bool, Any]:
    """Whether ``value`` is of the type ``option``, and what it then is."""
    if option is type(None):
        return value is None, None
    if option is bool:
        return isinstance(value, bool), value
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if option is float:
        return _fit_float(value, where, endless)
    if option is str:
        return isinstance(value, str), value
    origin, parts = typing.get_origin(option), typing.get_args(option)
    if origin is typing.Literal:
        return False, value
    if origin in (tuple, collections.abc.Sequence):
        if not isinstance(value, tuple):
            return False, value
        several = origin is not tuple or parts[-1:] == (...,)
        if not several and len(parts) != len(value):
            return False, value
        hints = [parts[0]] * len(value) if several else parts
        items = zip(value, hints, strict=True)
        return True, tuple(
            conform(item, each, f"{where}[{i}]", endless=endless) for i, (item, each) in enumerate(items)
        )
    return not _is_array(option), value


def _fit_float(value: Any, where: str, endless: bool) -> tuple[bool, Any]:
    if isinstance(value, str):  # what JSON and the command line cannot say in numbers
        if value.lstrip("+-") not in ("inf", "nan"):
            return False, value
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False, value
    if math.isnan(value) or (math.isinf(value) and not endless):
        raise UserError(f"{where} = {value!r} must be a finite number")
    return True, float(value)


def _is_array(option: Any) -> bool:
    """Whether an annotation means arrays, which stand in no config."""
    return hasattr(option, "dtypes") and hasattr(option, "dims")


def describe(hint: Any) -> str:
    """An annotation in words, for errors."""
    words = []
    for option in choices_of(hint):
        if option is type(None):
            words.append("None")
        elif _literals(option):
            words += [repr(item) for item in _literals(option)]
        elif typing.get_origin(option) in (tuple, collections.abc.Sequence):
            inner = [describe(part) for part in typing.get_args(option) if part is not ...]
            words.append(f"a tuple of {', '.join(inner)}")
        elif not _is_array(option):
            words.append(getattr(option, "__name__", str(option)))
    return " or ".join(words)
