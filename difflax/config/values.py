"""Values of a config as dicts, tuples and Python's own numbers, and as JSON has them."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import RequiredValueError

REQUIRED = dataclasses.MISSING
"""The default of a field that a config must give."""


@functools.singledispatch
def values_of(value: Any) -> Any:
    """A `ConfigDict`, mapping or value as plain dicts, tuples and values; what still must be given is left
    out.
    """
    return value


@values_of.register
def _(value: ConfigDict) -> dict[str, Any]:
    return values_of(dict(value.items(preserve_field_references=True)))


@values_of.register
def _(value: Mapping) -> dict[str, Any]:
    read = {key: values_of(item) for key, item in value.items()}
    return {key: item for key, item in read.items() if item is not REQUIRED}


@values_of.register
def _(value: FieldReference) -> Any:
    try:
        return values_of(value.get())
    except RequiredValueError:
        return REQUIRED


@values_of.register(list)
@values_of.register(tuple)
def _(value: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(values_of(item) for item in value)


@values_of.register(np.generic)
@values_of.register(np.ndarray)
@values_of.register(jax.Array)
def _(value: Any) -> Any:
    return value if np.ndim(value) else np.asarray(value).item()


def to_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON has them; numbers that JSON has not (``inf``) as texts, which
    `difflax.core.kinds.Number` reads.
    """
    return json.loads(json.dumps(values), parse_constant=lambda name: str(float(name)))
