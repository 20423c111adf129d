"""What pictures of a caption look like: p(scene | caption), exactly.

A caption's plan depends on the number of objects alone, and the objects that it names are taken in random
order (`difflax.data.shapes.captions`), so by Bayes' rule

    p(scene | caption) ∝ p(scene) · 1[the named factors hold].

Discrete factors are independent in the prior but for the shape, colour and texture of one object, so those
that a caption names are simply set and the others drawn as ever. Layouts are drawn as ever and kept if the
named places and the relation hold (rejection). Where no place and no relation is named, the layout says
nothing about the discrete factors, and `table` gives their distributions in closed form.
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from difflax.core.types import UserError
from difflax.data.shapes import factors
from difflax.data.shapes.captions import Caption, Named, relation
from difflax.data.shapes.factors import MAX_OBJECTS, Scenes
from difflax.data.shapes.splits import COMBINATIONS

COMBINED = ("shape", "colour", "texture")
MAX_ROUNDS = 400  # of `PROPOSALS` layouts, before a caption is called impossible
ENOUGH_ROUNDS = 100
PROPOSALS = 512
LAYOUT_TRIES = 4  # at once; most scenes need one


def combinations_of(named: Named, combinations: Int[np.ndarray, "k 3"]) -> Float[np.ndarray, " k"]:
    """The probability of each (shape, colour, texture) of an object of which this is said.

    Raises:
        UserError: there is none among ``combinations``.
    """
    wanted = [getattr(named, part) for part in COMBINED]
    fits = np.all(
        [c == w for c, w in zip(combinations.T, wanted, strict=True) if w is not None] or [[True]], 0
    )
    weight = factors.combination_prior(combinations) * fits
    if weight.sum() == 0:
        raise UserError(f"no object of this split is {named}; ask for the truth of a held-out split")
    return weight / weight.sum()


def table(
    caption: Caption, factor: str, slot: int = 0, combinations: Int[np.ndarray, "k 3"] = COMBINATIONS["train"]
) -> Float[np.ndarray, " v"]:
    """The distribution of a discrete factor of a scene, or of the caption's object number ``slot``.

    ``factor`` is "count" (over 1, 2, 3), "background", "tone", "gradient", "light", or an object's "shape",
    "colour", "texture" or "size".

    Raises:
        ValueError: a place or a relation is named, so the answer depends on layouts: `draw` from the truth.
    """
    if caption.relation is not None or any(thing.place is not None for thing in caption.objects):
        raise ValueError("a caption that names a place or a relation has no closed form; draw from the truth")
    if factor in COMBINED:
        weight = combinations_of(caption.objects[slot], combinations)
        values = combinations[:, COMBINED.index(factor)]
        sizes = (len(factors.SHAPES), len(factors.COLOURS), len(factors.TEXTURES))
        return np.bincount(values, weight, minlength=sizes[COMBINED.index(factor)])
    if factor == "size":
        return _fixed_or_uniform(caption.objects[slot].size, len(factors.SIZES))
    return _SCENE_TABLES[factor](caption)


def _fixed_or_uniform(value: int | None, number: int) -> Float[np.ndarray, " v"]:
    return np.full(number, 1 / number) if value is None else np.eye(number)[value]


def _counts(caption: Caption) -> Float[np.ndarray, " 3"]:
    weight = np.array(factors.COUNT_PRIOR) * np.isin(factors.COUNTS, caption.counts)
    return weight / weight.sum()


def _backgrounds(caption: Caption) -> Float[np.ndarray, " v"]:
    if caption.tone is None:
        return _fixed_or_uniform(caption.background, len(factors.BACKGROUNDS))
    weight = factors.is_dark(np.arange(len(factors.BACKGROUNDS))) == caption.tone
    return weight / weight.sum()


def _tones(caption: Caption) -> Float[np.ndarray, " v"]:
    return np.bincount(factors.is_dark(np.arange(len(factors.BACKGROUNDS))), _backgrounds(caption))


_SCENE_TABLES = {
    "count": _counts,
    "background": _backgrounds,
    "tone": _tones,
    "gradient": lambda caption: _fixed_or_uniform(None, len(factors.GRADIENTS)),
    "light": lambda caption: _fixed_or_uniform(caption.light, len(factors.LIGHTS)),
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """Scenes of a caption; ``slots[i, k]`` is the row in scene i of the object that is named k-th."""

    scenes: Scenes
    slots: Int[np.ndarray, "n m"]


def draw(
    rng: np.random.Generator,
    caption: Caption,
    number: int,
    combinations: Int[np.ndarray, "k 3"] = COMBINATIONS["train"],
    least: int | None = None,
) -> Drawn:
    """So many independent scenes of a caption, objects that it does not name being of ``combinations``.

    Args:
        least: so few are enough after `ENOUGH_ROUNDS`, of a caption whose places rarely come together.

    Raises:
        UserError: practically no scene is like this.
    """
    kept, slots, found = [], [], 0
    for tried in range(1, MAX_ROUNDS + 1):
        some = _propose(rng, caption, PROPOSALS, combinations)
        good = layout_holds(caption, some.scenes, some.slots)
        kept.append(some.scenes[good])
        slots.append(some.slots[good])
        found += good.sum()
        if found >= number or (least is not None and tried >= ENOUGH_ROUNDS and found >= least):
            return Drawn(factors.concatenate(kept)[:number], np.concatenate(slots)[:number])
        if tried * PROPOSALS >= 20_000 and not found:
            break
    raise UserError(
        f"of {tried * PROPOSALS:,} scenes {found} are like the caption {caption}: it asks for next to nothing"
    )


def _propose(rng, caption: Caption, number: int, combinations) -> Drawn:
    """Scenes in which everything named holds, except perhaps places and relation."""
    drawn = factors.draw_discrete(rng, number, combinations)
    counts = drawn["count"] = rng.choice(factors.COUNTS, number, p=_counts(caption))
    slots = _random_rows(rng, counts)[:, : len(caption.objects)]
    each = np.arange(number)
    for k, named in enumerate(caption.objects):
        which = combinations[rng.choice(len(combinations), number, p=combinations_of(named, combinations))]
        for part, values in zip(COMBINED, which.T, strict=True):
            drawn[part][each, slots[:, k]] = values
        if named.size is not None:
            drawn["size"][each, slots[:, k]] = named.size
    drawn["background"] = rng.choice(len(factors.BACKGROUNDS), number, p=_backgrounds(caption))
    if caption.light is not None:
        drawn["light"] = np.full(number, caption.light)
    present = np.arange(MAX_OBJECTS) < counts[:, None]
    layout = factors.draw_layout(rng, drawn["shape"], drawn["colour"], drawn["size"], present, LAYOUT_TRIES)
    return Drawn(Scenes(**drawn, **layout), slots)


def _random_rows(rng: np.random.Generator, counts: Int[np.ndarray, " n"]) -> Int[np.ndarray, "n 3"]:
    """For each scene its rows in random order, those that are no objects last."""
    order = rng.random((len(counts), MAX_OBJECTS)) + (np.arange(MAX_OBJECTS) >= counts[:, None])
    return np.argsort(order, -1)


def layout_holds(caption: Caption, scenes: Scenes, slots: Int[np.ndarray, "n m"]) -> Bool[np.ndarray, " n"]:
    """Whether the named places and the relation hold, if the caption's objects are these rows."""
    x, y = (np.take_along_axis(values, slots, -1) for values in (scenes.x, scenes.y))
    good = np.ones(len(x), bool)
    for k, named in enumerate(caption.objects):
        if named.place is not None:
            good &= factors.place(x[:, k], y[:, k]) == named.place
    if caption.relation is not None:
        good &= relation(x, y) == caption.relation
    return good
