"""Alignment: does a picture show what its caption names?

The objects that a caption names are matched with those that were read in the way that is right most often; so
two red circles may be told in any order. Every column holds 1 (right), 0 (wrong) or NaN (not named) for each
picture:

- "accuracy": everything that is named is right, and the number of objects;
- "shape", "colour", "texture", "size", "place": right for every object of which it is named;
- "background", "tone", "light", "relation", "count";
- "accuracy_1_named", "accuracy_2_named" and so on to "accuracy_7_or_more_named": the accuracy of captions
  that fix so many factors;
- "binding": of pictures that show all named words of each factor somewhere, whether each object has its own.
  It is 0 where attributes are swapped, and NaN where words are missing or fewer than two objects are named.

A picture that the judge cannot read shows nothing.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from difflax.data.shapes import factors
from difflax.data.shapes.captions import OBJECT_FACTORS, Caption, relation
from difflax.evaluation.judges.shapes.reading import Reading

COLUMNS = ("accuracy", *OBJECT_FACTORS, "background", "tone", "light", "relation", "count", "binding")
NAMED = {"1": (1, 1), "2": (2, 2), "3": (3, 3), "4_to_6": (4, 6), "7_or_more": (7, 99)}
"""How many factors a caption fixes, least and most, in the column ``accuracy_…_named``."""
UNSEEN = -1  # the value of every factor of an object that is not there, or of which nothing is known


def object_values(reading: Reading) -> dict[str, Int[np.ndarray, "n 3"]]:
    """The factors of `OBJECT_FACTORS` of every object that was read, `UNSEEN` where nothing is known."""
    scenes = reading.scenes
    values = {name: np.asarray(getattr(scenes, name)) for name in ("shape", "colour", "texture", "size")}
    values["place"] = factors.place(scenes.x, scenes.y)
    seen = scenes.present & reading.known & reading.readable[:, None]
    return {name: np.where(seen, value, UNSEEN) for name, value in values.items()}


def match(reading: Reading, captions: Sequence[Caption]) -> list[tuple[int, ...]]:
    """For each picture the rows of the objects that its caption names, in the caption's order.

    Of several ways that are right equally often, objects that are there come first, then those further left.
    """
    values = object_values(reading)
    out: list[tuple[int, ...]] = [()] * len(captions)
    for caption, pictures in _by_caption(captions).items():
        for i, rows in zip(pictures, _match_one(reading, values, caption, pictures), strict=True):
            out[i] = tuple(rows.tolist())
    return out


def _by_caption(captions: Sequence[Caption]) -> dict[Caption, Int[np.ndarray, " n"]]:
    """Which pictures each caption is of."""
    found = defaultdict(list)
    for i, caption in enumerate(captions):
        found[caption].append(i)
    return {caption: np.array(pictures) for caption, pictures in found.items()}


def _match_one(reading, values, caption: Caption, pictures: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n m"]:
    there = reading.scenes.present[pictures]
    by_place = np.argsort(np.where(there, reading.scenes.x[pictures], np.inf), -1)
    ways = [
        by_place[:, list(way)]
        for way in itertools.permutations(range(factors.MAX_OBJECTS), len(caption.objects))
    ]
    scores = []
    for rows in ways:
        own = {name: np.take_along_axis(value[pictures], rows, 1) for name, value in values.items()}
        right = sum(_slots_right(own, caption, name) for name in OBJECT_FACTORS)
        if caption.relation is not None:
            right = right + (_relations(reading, pictures, rows) == caption.relation)
        scores.append(right + 0.1 * np.take_along_axis(there, rows, 1).sum(1))
    return np.stack(ways)[np.argmax(scores, 0), np.arange(len(pictures))]


def _slots_right(
    own: dict[str, Int[np.ndarray, "n m"]], caption: Caption, name: str
) -> Int[np.ndarray, " n"]:
    """For how many objects a factor is as named, given the factors of the objects in the caption's order."""
    wanted = [(k, getattr(thing, name)) for k, thing in enumerate(caption.objects)]
    right = [own[name][:, k] == value for k, value in wanted if value is not None]
    return np.sum(right, 0) if right else np.zeros(len(own[name]), int)


def _relations(reading: Reading, pictures: Int[np.ndarray, " n"], rows: Int[np.ndarray, "n 2"]):
    """How the first object stands to the second, as an index in `RELATIONS`; `UNSEEN` without one."""
    x, y = (np.take_along_axis(v[pictures], rows, 1) for v in (reading.scenes.x, reading.scenes.y))
    there = reading.readable[pictures] & (rows < reading.scenes.count[pictures, None]).all(1)
    return np.where(there, relation(x, y), UNSEEN)


def alignment(reading: Reading, captions: Sequence[Caption]) -> dict[str, Float[np.ndarray, " n"]]:
    """The columns of the module's docstring."""
    values = object_values(reading)
    rows = match(reading, captions)
    out = {name: np.full(len(captions), np.nan) for name in COLUMNS}
    out |= {f"accuracy_{name}_named": np.full(len(captions), np.nan) for name in NAMED}
    for caption, pictures in _by_caption(captions).items():
        own = np.array([rows[i] for i in pictures], int).reshape(len(pictures), len(caption.objects))
        for name, column in _align(reading, values, caption, pictures, own).items():
            out[name][pictures] = column
    return out


def _align(
    reading: Reading, values: dict[str, np.ndarray], caption: Caption, pictures, rows: Int[np.ndarray, "n m"]
) -> dict[str, Float[np.ndarray, " n"]]:
    """The columns of pictures of one caption that ask for something, ``rows`` being its objects in each."""
    values = {name: value[pictures] for name, value in values.items()}
    own = {name: np.take_along_axis(value, rows, 1) for name, value in values.items()}
    readable, scenes, out = reading.readable[pictures], reading.scenes, {}
    for name in OBJECT_FACTORS:
        if named := sum(getattr(thing, name) is not None for thing in caption.objects):
            out[name] = _slots_right(own, caption, name) == named
    background = np.asarray(scenes.background)[pictures]
    light = np.asarray(scenes.light)[pictures]
    shown = {"background": background, "tone": factors.is_dark(background), "light": light}
    for name, value in shown.items():
        if (wanted := getattr(caption, name)) is not None:
            out[name] = readable & (value == wanted)
    if caption.relation is not None:
        out["relation"] = _relations(reading, pictures, rows) == caption.relation
    out["count"] = readable & np.isin(scenes.count[pictures] + reading.stray[pictures], caption.counts)
    out["accuracy"] = np.all(list(out.values()), 0)
    for name, (least, most) in NAMED.items():
        if least <= caption.named <= most:
            out[f"accuracy_{name}_named"] = out["accuracy"]
    if len(caption.objects) > 1 and sum(map(len, caption.objects)) > 2:
        bound = np.all([out[name] for name in OBJECT_FACTORS if name in out], 0)
        out["binding"] = np.where(_all_words(values, caption), bound, np.nan)
    return {name: np.asarray(column, np.float64) for name, column in out.items()}


def _all_words(values: dict[str, Int[np.ndarray, "n 3"]], caption: Caption) -> Bool[np.ndarray, " n"]:
    """Whether all that is named of objects is shown, as often as it is named, by whichever objects."""
    shown = np.ones(len(values["shape"]), bool)
    for name in OBJECT_FACTORS:
        wanted = Counter(getattr(thing, name) for thing in caption.objects)
        for word, number in wanted.items():
            if word is not None:
                shown &= (values[name] == word).sum(1) >= number
    return shown
