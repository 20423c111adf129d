"""JSON that others wrote."""

import json
from typing import Any


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
