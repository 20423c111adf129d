"""Names that a user gives: looked up, and answered with the nearest valid one."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from difflax.core.types import UserError

Choice = TypeVar("Choice")


def nearest(name: Any, known: Iterable[Any]) -> str:
    """The end of an error about an unknown name: the nearest valid one, and all of them."""
    known = sorted(map(str, known))
    near = difflib.get_close_matches(str(name), known, n=1)
    meant = f", did you mean {near[0]!r}?" if near else ";"
    return f"{meant} valid: {', '.join(known) or 'none'}"


def shown(value: Any) -> str:
    """A value in an error, not longer than 80 characters."""
    try:
        text = repr(value)
    except Exception:  # a number of thousands of digits, an object whose own text fails
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text):,} characters)"


def choose(options: Mapping[str, Choice], name: str, option: str) -> Choice:
    """``options[name]``.

    Args:
        option: what is chosen, for the error.

    Raises:
        UserError: there is no such name.
    """
    if name not in tuple(options):
        raise UserError(f"{option}={shown(name)} is unknown{nearest(name, options)}")
    return options[name]
