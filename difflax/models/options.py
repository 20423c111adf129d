"""The options of a network in a ``config.json`` of diffusers."""

import inspect
from collections.abc import Mapping
from typing import Any

from difflax.core.kinds import read_fields
from difflax.core.spelling import nearest
from difflax.core.types import UserError

OURS = ("self", "dtype", "remat", "scan_layers", "attention_implementation", "rngs")
"""Arguments of a network that no checkpoint states."""


def supported_options(
    network: type, config: Mapping[str, Any], absent: Mapping[str, tuple] | None = None
) -> dict[str, Any]:
    """The constructor's options in a ``config.json``; keys that start with ``_`` are diffusers' own notes.

    Args:
        network: its class, or that of its options.
        absent: options that the network has only in the state that leaves them out: the values of that state.

    Raises:
        UserError: if a key is unknown, or an option has a value that is not supported.
    """
    absent = absent or {}
    parameters = inspect.signature(network.__init__).parameters
    known = [name for name in parameters if name not in OURS]
    options = {}
    for name, value in config.items():
        if name.startswith("_"):
            continue
        if name in known:
            # Configs write null for a switch that is off.
            options[name] = False if value is None and parameters[name].default is False else value
        elif name not in absent:
            meant = nearest(name, [*known, *absent])
            raise UserError(f"{network.__name__} config: unknown option {name!r}{meant}")
        elif value not in absent[name]:
            raise UserError(
                f"{network.__name__} config: {name}={value!r} is not supported, only {absent[name][0]!r}"
            )
    hints = {name: parameters[name].annotation for name in options}
    return read_fields(hints, options, f"{network.__name__} config")
