"""JSON that others wrote."""

import contextlib
import json
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

Kind = TypeVar("Kind", str, float, dict)


def json_object(text: str | bytes) -> dict[str, Any]:
    """The mapping of names to values that a JSON text holds.

    Raises:
        ValueError: it is no JSON, or holds something else; the end of a sentence about it, in one line.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"is not valid JSON ({reason})") from error
    if not isinstance(value, dict):
        raise ValueError("holds no mapping of names to values")
    return value


def _number(value: int | float) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("beyond what a number can be")
    return number


_KINDS: dict[type, tuple[str, type | types.UnionType, Callable[[Any], Any]]] = {
    str: ("text", str, str),
    float: ("number", int | float, _number),
    dict: ("mapping", dict, dict),
}
"""What an entry may be asked to be: the word for it, its types in Python, and what makes it plain."""


def entry(values: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind:
    """``values[name]`` of a `json_object`, a ``str``, a finite ``float`` or a ``dict`` as ``kind`` says.

    Raises:
        ValueError: there is none, or it is of another kind; the end of a sentence about it, in one line.
    """
    word, allowed, plain = _KINDS[kind]
    value = values.get(name)
    # JSON's true and false are numbers to Python.
    if isinstance(value, allowed) and value is not True and value is not False:
        with contextlib.suppress(ValueError, OverflowError):
            return plain(value)
    raise ValueError(f"has no {word} under {name!r}")
