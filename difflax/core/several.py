"""One value, or several: what a user may give either way, as a tuple."""

from typing import Any


def several(value: Any, count: int = 1) -> tuple:
    """The values of a list, tuple or array; ``count`` times the value where it is one, as a text is.

    Whether a list has as many as are needed is the caller's to check, who knows what they are.
    """
    if isinstance(value, str):
        return (value,) * count
    try:
        return tuple(value)
    except TypeError:
        return (value,) * count
