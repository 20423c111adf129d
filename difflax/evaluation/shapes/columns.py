"""What was read off a picture, as numbers of a table, and back.

``read_shape_1`` is the index in `factors.SHAPES` of the backmost object of a picture, ``read_x_1`` its place
in shares of the side, and so on for every field of `Scenes`; objects that are not there, and everything of a
picture that cannot be read, are NaN. So whatever is to be known of generated pictures later needs their
columns alone.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from difflax.data.shapes.factors import MAX_OBJECTS, Scenes
from difflax.evaluation.judges.shapes.reading import Reading

SCENE = ("background", "gradient", "direction", "light", "count")
OBJECT = tuple(field.name for field in dataclasses.fields(Scenes) if field.name not in SCENE)
CONTINUOUS = ("direction", "x", "y", "radius", "rotation")
READ, ERROR = "read_{}", "read_error"


def to_columns(reading: Reading) -> dict[str, Float[np.ndarray, " n"]]:
    """See the module's docstring; ``read_error`` is the mean squared difference to the render."""
    scenes, seen = reading.scenes, reading.readable
    out = {READ.format(name): np.where(seen, getattr(scenes, name), np.nan) for name in SCENE}
    out[READ.format("stray")] = np.where(seen, reading.stray, np.nan)
    for k in range(MAX_OBJECTS):
        there = seen & scenes.present[:, k]
        for name in OBJECT:
            column = np.where(there, getattr(scenes, name)[:, k], np.nan)
            out[READ.format(f"{name}_{k + 1}")] = column
        out[READ.format(f"known_{k + 1}")] = np.where(there, reading.known[:, k], np.nan)
    out[ERROR] = reading.error.astype(np.float64)
    return out


def from_columns(columns: Mapping[str, Float[np.ndarray, " n"]]) -> Reading:
    """The inverse of `to_columns`, but for what means nothing."""

    def numbers(name: str) -> np.ndarray:
        values = np.nan_to_num(columns[READ.format(name)])
        return values if name.rstrip("_123") in CONTINUOUS else values.astype(int)

    def objects(name: str) -> np.ndarray:
        return np.stack([numbers(f"{name}_{k + 1}") for k in range(MAX_OBJECTS)], -1)

    return Reading(
        scenes=Scenes(**{name: numbers(name) for name in SCENE}, **{name: objects(name) for name in OBJECT}),
        known=objects("known").astype(bool),
        stray=numbers("stray"),
        readable=~np.isnan(columns[READ.format("count")]),
        error=columns[ERROR],
    )
