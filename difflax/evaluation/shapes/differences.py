"""How far the factors of two pictures of one caption are apart, as they are read.

Discrete factors are 0 or 1 apart, a position the way between two centres in shares of the picture's side, a
rotation the part of a shape's period and a gradient's direction the part of a turn. Of objects, those are
compared that the caption names, and the mean is taken over them. NaN is what cannot be compared: a factor
that the caption names, what is unread in one of the pictures, a rotation of two shapes, a direction without a
gradient.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from difflax.data.shapes import factors
from difflax.data.shapes.captions import Caption
from difflax.data.shapes.factors import MAX_OBJECTS
from difflax.evaluation.decisions import mean_of_known
from difflax.evaluation.judges.shapes.reading import Reading
from difflax.evaluation.shapes.alignment import UNSEEN, match, object_values
from difflax.evaluation.shapes.coverage import DISCRETE, SCENE_DISCRETE

Values = Float[np.ndarray, "g k *m"]
Distances = Float[np.ndarray, "g k k *m"]


def differences(reading: Reading, captions: Sequence[Caption]) -> dict[str, Float[np.ndarray, "g k k"]]:
    """The distances of every two pictures of each caption.

    Args:
        reading: of as many pictures of each caption, one caption after the other.
    """
    k = len(reading.error) // len(captions)
    of_objects = {
        name: mean_of_known(values, -1) for name, values in _of_objects(reading, captions, k).items()
    }
    return of_objects | _of_scene(reading, captions, k)


def _of_objects(reading: Reading, captions: Sequence[Caption], k: int) -> dict[str, Distances]:
    rows, asked = _slots(reading, captions, k)
    values = object_values(reading)
    own = {name: np.take_along_axis(values[name], rows, 1) for name in DISCRETE}
    seen = (own["shape"] != UNSEEN) & asked
    open_in = {name: _open(captions, name) for name in (*DISCRETE, "place")}

    def known(values: np.ndarray, name: str = "") -> Values:
        """A row a caption, NaN where nothing is known of an object or it is named."""
        there = np.where(seen, values, np.nan).reshape(len(captions), k, MAX_OBJECTS)
        return np.where(open_in[name][:, None], there, np.nan) if name else there

    out = {name: _differ(known(own[name], name)) for name in DISCRETE}
    x, y = (np.take_along_axis(getattr(reading.scenes, axis), rows, 1) for axis in ("x", "y"))
    out["position"] = np.hypot(*(_minus(known(values, "place")) for values in (x, y)))
    shape = known(own["shape"])
    period = factors.ROTATION_PERIODS[np.maximum(own["shape"], 0)]
    rotation = np.take_along_axis(reading.scenes.rotation, rows, 1)
    turns = known(np.where(period > 0, rotation / np.where(period > 0, period, 1), np.nan))
    out["rotation"] = np.where(_differ(shape) == 0, _around(turns), np.nan)
    return out


def _slots(reading, captions, k: int) -> tuple[Int[np.ndarray, "n 3"], Bool[np.ndarray, "n 3"]]:
    """The row of every object that is named, filled up to three, and which of them are named."""
    found = match(reading, [caption for caption in captions for _ in range(k)])
    asked = np.array([[i < len(rows) for i in range(MAX_OBJECTS)] for rows in found])
    return np.array([(*rows, *[0] * (MAX_OBJECTS - len(rows))) for rows in found]), asked


def _open(captions: Sequence[Caption], name: str) -> Bool[np.ndarray, "g 3"]:
    """Of which named objects a factor is not named."""
    values = [[getattr(thing, name) is None for thing in caption.objects] for caption in captions]
    return np.array([[*row, *[False] * (MAX_OBJECTS - len(row))] for row in values])


def _of_scene(reading: Reading, captions: Sequence[Caption], k: int) -> dict[str, Distances]:
    scenes = reading.scenes

    def known(values: np.ndarray) -> Values:
        return np.where(reading.readable, values, np.nan).reshape(len(captions), k)

    out = {name: _differ(known(getattr(scenes, name))) for name in SCENE_DISCRETE}
    turns = known(scenes.direction / (2 * np.pi))
    out["direction"] = _around(np.where(known(scenes.gradient) == 1, turns, np.nan))
    out["count"] = _differ(known(scenes.count))
    for i, caption in enumerate(captions):
        for name in SCENE_DISCRETE:
            if getattr(caption, name, None) is not None:
                out[name][i] = np.nan
        if not caption.more:
            out["count"][i] = np.nan
    return out


def _minus(values: Values) -> Distances:
    return np.asarray(values[:, :, None] - values[:, None])


def _differ(values: Values) -> Distances:
    """1 where two discrete values differ."""
    off = _minus(values)
    return np.where(np.isnan(off), np.nan, (off != 0).astype(float))


def _around(turns: Values) -> Distances:
    """How far two points of a circle of length 1 are apart."""
    off = abs(_minus(turns)) % 1
    return np.minimum(off, 1 - off)
