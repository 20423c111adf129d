"""JSON that others wrote."""

import json
from typing import Any

from etils import epath

from difflax.core.files import reason
from difflax.core.types import UserError


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


def read_json(path: epath.PathLike, *, hint: str = "restore the file") -> dict[str, Any]:
    """The mapping in a JSON file.

    Args:
        hint: what to do about a damaged one.

    Raises:
        UserError: there is no such file, it cannot be read, or there is no mapping in it.
    """
    path = epath.Path(path)
    try:
        return json_object(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"no {path.name} in {path.parent}: the folder is incomplete") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error
    except ValueError as error:
        raise UserError(f"{path} {error}: {hint}") from error
