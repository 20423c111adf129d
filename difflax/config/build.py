"""Sections of a config into objects; a wrong name, field, type or value is one line.

A section that picks an implementation has its ``name`` and the fields of that dataclass.
"""

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from difflax.core.types import UserError


def build(
    registry: Mapping[str, Callable[..., Any]],
    section: Mapping[str, Any] | ConfigDict,
    where: str,
    **given: Any,
) -> Any:
    """The object that a section names: ``registry[section["name"]]`` with the section's other fields.

    Args:
        where: the section's path, for errors.
        given: fields that come from elsewhere; the section may not set them.

    Raises:
        UserError: for an unknown name or field (with the nearest valid one), or a value out of range.
    """
    fields = dict(section)
    name = fields.pop("name", None)
    if name not in registry:
        raise UserError(f"{where}.name = {name!r} is unknown{nearest(name, registry)}")
    return construct(registry[name], fields, f"{where} ({name})", **given)


def construct(
    cls: Callable[..., Any], fields: Mapping[str, Any] | ConfigDict, where: str, **given: Any
) -> Any:
    """``cls(**fields, **given)`` with errors as in `build`."""
    # The metaclass of NNX modules hides their signature.
    init = cls.__init__ if inspect.isclass(cls) else cls
    known = [
        p.name
        for p in inspect.signature(init).parameters.values()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in ("self", *given)
    ]
    for key in fields:
        if key not in known:
            raise UserError(f"{where} has no field {key!r}{nearest(key, known)}")
    hints = typing.get_type_hints(cls) if dataclasses.is_dataclass(cls) else {}
    values = {key: _plain(value) for key, value in fields.items()}
    for key, value in values.items():
        if key in hints:
            _check_type(value, hints[key], f"{where}.{key}")
            if hints[key] is float:
                values[key] = float(value)
    try:
        return cls(**values, **given)
    except (ValueError, TypeError, UserError) as error:
        raise UserError(f"{where}: {error}") from error


def _check_type(value: Any, hint: Any, where: str) -> None:
    """Refuses a number, string or truth value in each other's place; other types are the class's business."""
    choices = typing.get_args(hint) if typing.get_origin(hint) is not None else (hint,)
    simple = {int, float, str, bool, type(None)}
    if typing.get_origin(hint) is typing.Literal:
        if value not in choices:
            raise UserError(f"{where} = {value!r} is unknown{nearest(value, choices)}")
        return
    if typing.get_origin(hint) is tuple or not set(choices) <= simple:
        return
    allowed = tuple(choices) + ((int,) if float in choices else ())
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in choices):
        names = " or ".join("None" if c is type(None) else c.__name__ for c in choices)
        raise UserError(f"{where} = {value!r} must be {names}")


def nearest(name: Any, known: Iterable[Any]) -> str:
    """The end of an error about an unknown name: the nearest valid one, and all of them."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, n=1)
    meant = f", did you mean {near[0]!r}?" if near else ";"
    return f"{meant} valid: {', '.join(known) or 'none'}"


def _plain(value: Any) -> Any:
    if isinstance(value, ConfigDict):
        return {key: _plain(item) for key, item in value.items()}
    return tuple(_plain(item) for item in value) if isinstance(value, list) else value
