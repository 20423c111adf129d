"""What a scene is made of, and the one distribution that scenes are drawn from.

A scene is a background, a light and one to three objects, each in front of those before it. Discrete factors
are drawn first, independently of each other but for one rule: an object's (shape, colour, texture) is one of
the split's combinations (`difflax.data.shapes.splits`). The radius, place and rotation of every object come
after them, and are drawn again until `readable` holds. So the prior of every discrete factor is the
table that stands here, exactly, and only radii and places depend on each other.

Why the numbers are what they are: every factor must be readable at 32 × 32 pixels.

- The smallest radius, 0.16 of the picture, is 5.1 pixels; then the stripes (`render.STRIPE_PERIOD`) are 2.8
  pixels wide and the dots 3 pixels across. Between small and large lies a gap of a pixel, so that no size
  stands on the border of two words.
- The colours are saturated and their hues at least 20° apart; the texture's marks and the light change
  neither hue, by construction. Backgrounds are less saturated than any object, and dark or light.
- Objects may overlap, but each centre keeps its distance (`OVERLAP`) from every other, so the disc around an
  object is never hidden by more than a quarter by one other. Objects of one colour keep apart.
- Two objects alone never stand along a diagonal, so that it is no matter of a pixel which is left of the
  other and which above it (`CLEAR`).

And a small network must be able to learn it in minutes on two cores. What that takes is few places at once in
which everything is to be learned anew, above all within the cells of a latent, 8 pixels wide. So places are
continuous, but gather around nine points (`ANCHORS`), and objects are turned by little.

Lengths are shares of the picture's side, x to the right and y downwards, angles in radians.
"""

import dataclasses
from collections.abc import Sequence

import flax.struct
import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from difflax.data.shapes.streams import Streams, of_rows

MAX_OBJECTS = 3
COUNTS = (1, 2, 3)
COUNT_PRIOR = (0.5, 0.3, 0.2)

SHAPES = ("circle", "ring", "square", "triangle", "star", "heart")
ROTATION_PERIODS = np.array([0, 0, 1 / 4, 1 / 3, 1 / 5, 1]) * 2 * np.pi
"""The rotation after which each shape looks the same; 0: a rotation of it is not defined."""
MOST_TURNED = np.pi / 18
"""Objects stand upright but for so much, 10°, to either side; less than half of the shortest period."""

COLOURS = {
    "red": (0.86, 0.10, 0.12),
    "orange": (0.97, 0.50, 0.05),
    "yellow": (0.98, 0.85, 0.08),
    "green": (0.13, 0.66, 0.22),
    "teal": (0.05, 0.70, 0.68),
    "blue": (0.12, 0.32, 0.90),
    "purple": (0.50, 0.16, 0.82),
    "pink": (0.95, 0.24, 0.62),
}
TEXTURES = ("solid", "striped", "dotted")
TEXTURE_PRIOR = (0.5, 0.25, 0.25)

SIZES = ("small", "large")
RADII = np.array([(0.16, 0.175), (0.205, 0.22)])
"""The smallest and the largest radius of each size."""

BACKGROUNDS = {
    "white": (0.93, 0.93, 0.91),
    "cream": (0.95, 0.88, 0.72),
    "sky blue": (0.71, 0.83, 0.95),
    "grey": (0.30, 0.30, 0.31),
    "navy": (0.16, 0.20, 0.38),
    "brown": (0.34, 0.23, 0.19),
}
TONES = {"light": ("white", "cream", "sky blue"), "dark": ("grey", "navy", "brown")}
GRADIENTS = ("plain", "gradient")
LIGHTS = ("left", "right", "above", "below")
LIGHT_DIRECTIONS = np.array([(-1, 0), (1, 0), (0, -1), (0, 1)], np.float32)
"""The unit vector (x, y) towards each light."""

ANCHORS = np.array([0.25, 0.5, 0.75], np.float32)
"""Around these, in x and in y, places gather."""
JITTER = 0.03  # and lie evenly so far to either side, a pixel of 32
OVERLAP = 0.45  # two centres keep the larger radius and this share of the smaller one between them
CLEARANCE = 0.04  # between the discs of two objects of one colour
CLEAR = 0.08  # so much farther apart are two objects alone in one direction than in the other
TRIES = 32  # layouts drawn at once of every scene that has none yet

PLACE_BORDERS = (0.375, 0.625)
PLACES = (
    "top left", "top", "top right",
    "left", "centre", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
"""The coarse places: the thirds that `PLACE_BORDERS` cut the picture into, row by row."""


Randomness = np.random.Generator | Streams
"""One stream for all scenes, or one for each."""
Numbers = np.ndarray | jax.Array
"""NumPy's arrays for all that is drawn and read, JAX's inside the judge's programs."""


@flax.struct.dataclass
class Scenes:
    """Many scenes as arrays, NumPy's or JAX's; discrete factors are indices into the tables above.

    Objects stand from back to front; rows from ``count`` on are no objects and mean nothing.

    Attributes:
        background, gradient, light: of the scene.
        direction: towards the bright end of the gradient, in [0, 2π); of a plain background it means nothing.
        count: how many objects, 1 to 3.
        shape, colour, texture, size: of each object.
        x, y, radius: centre and radius of its disc.
        rotation: clockwise from upright, in [-period / 2, period / 2) of the shape, 0 where it has none.
    """

    background: Int[Numbers, "*n"]
    gradient: Int[Numbers, "*n"]
    direction: Float[Numbers, "*n"]
    light: Int[Numbers, "*n"]
    count: Int[Numbers, "*n"]
    shape: Int[Numbers, "*n 3"]
    colour: Int[Numbers, "*n 3"]
    texture: Int[Numbers, "*n 3"]
    size: Int[Numbers, "*n 3"]
    x: Float[Numbers, "*n 3"]
    y: Float[Numbers, "*n 3"]
    radius: Float[Numbers, "*n 3"]
    rotation: Float[Numbers, "*n 3"]

    def __len__(self) -> int:
        return len(self.count)

    def __getitem__(self, rows) -> "Scenes":
        return Scenes(
            **{f.name: np.asarray(getattr(self, f.name))[rows, ...] for f in dataclasses.fields(self)}
        )

    @property
    def present(self) -> Bool[np.ndarray, "*n 3"]:
        """Which rows are objects."""
        return np.arange(MAX_OBJECTS) < np.asarray(self.count)[..., None]


def concatenate(parts: Sequence[Scenes]) -> Scenes:
    """The scenes of all parts, one after the other."""
    names = [field.name for field in dataclasses.fields(Scenes)]
    return Scenes(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def place(x: Float[np.ndarray, "*n"], y: Float[np.ndarray, "*n"]) -> Int[np.ndarray, "*n"]:
    """The index in `PLACES` of points of the picture."""
    return 3 * np.digitize(y, PLACE_BORDERS) + np.digitize(x, PLACE_BORDERS)


def is_dark(background: Int[np.ndarray, "*n"]) -> Int[np.ndarray | np.integer, "*n"]:
    """The index in `TONES` of a background."""
    return np.array([name in TONES["dark"] for name in BACKGROUNDS], int)[background]


def all_combinations() -> Int[np.ndarray, "k 3"]:
    """Every (shape, colour, texture), as indices."""
    sizes = (len(SHAPES), len(COLOURS), len(TEXTURES))
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), -1)


def combination_prior(combinations: Int[np.ndarray, "k 3"]) -> Float[np.ndarray, " k"]:
    """How often each of a split's combinations is drawn: evenly, but for the prior of the textures."""
    weight = np.array(TEXTURE_PRIOR)[combinations[:, 2]]
    return weight / weight.sum()


def readable(
    x: Float[np.ndarray, "*#n 3"],
    y: Float[np.ndarray, "*#n 3"],
    radius: Float[np.ndarray, "*#n 3"],
    colour: Int[np.ndarray, "*#n 3"],
    present: Bool[np.ndarray, "*#n 3"],
) -> Bool[np.ndarray, "*m"]:
    """Whether every object of a layout can be seen well enough to be read, see the module's docstring."""
    good = np.ones(np.broadcast_shapes(x.shape, colour.shape)[:-1], bool)
    for i in range(MAX_OBJECTS):
        for j in range(i):
            larger, smaller = (f(radius[..., i], radius[..., j]) for f in (np.maximum, np.minimum))
            apart = larger + smaller + CLEARANCE
            least = np.where(colour[..., i] == colour[..., j], apart, larger + OVERLAP * smaller)
            distance = np.hypot(x[..., i] - x[..., j], y[..., i] - y[..., j])
            good &= (distance >= least) | ~(present[..., i] & present[..., j])
    across, down = (abs(values[..., 0] - values[..., 1]) for values in (x, y))
    alone = present[..., 1] & ~present[..., 2]
    return good & ((abs(across - down) >= CLEAR) | ~alone)


def draw_layout(
    rng: Randomness,
    shape: Int[np.ndarray, "n 3"],
    colour: Int[np.ndarray, "n 3"],
    size: Int[np.ndarray, "n 3"],
    present: Bool[np.ndarray, "n 3"],
    first_tries: int = TRIES,
) -> dict[str, Float[np.ndarray, "n 3"]]:
    """``x``, ``y``, ``radius`` and ``rotation`` of objects whose discrete factors are given.

    Each takes as many numbers as it needs: where each has its own stream, nothing is drawn of it afterwards.
    ``first_tries`` layouts are drawn of every scene at first, and `TRIES` of those that have none yet. Their
    numbers change which scenes come, and not how they are distributed.
    """
    turned = MOST_TURNED * (2 * rng.random(shape.shape, np.float32) - 1)
    rotation = np.where(ROTATION_PERIODS[shape] > 0, turned, 0)
    out = np.zeros((3, *shape.shape), np.float32)
    open_, tries = np.arange(len(shape)), first_tries
    while len(open_):
        low, high = np.moveaxis(RADII[size[open_]], -1, 0)
        draws = np.moveaxis(rng.random((len(open_), 3, tries, MAX_OBJECTS), np.float32), 1, 0)
        radius = low[:, None] + (high - low)[:, None] * draws[2]
        x, y = _place_of(draws[:2])
        good = readable(x, y, radius, colour[open_, None], present[open_, None])
        found, first = good.any(-1), good.argmax(-1)
        kept = np.flatnonzero(found)
        out[:, open_[kept]] = np.stack([x, y, radius])[:, kept, first[kept]]
        open_, rng, tries = open_[~found], of_rows(rng, ~found), TRIES
    return {"x": out[0], "y": out[1], "radius": out[2], "rotation": rotation.astype(np.float32)}


def _place_of(draws: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Coordinates around `ANCHORS` from numbers that are uniform in [0, 1)."""
    anchor = np.minimum((draws * len(ANCHORS)).astype(int), len(ANCHORS) - 1)
    return ANCHORS[anchor] + JITTER * (2 * (draws * len(ANCHORS) - anchor) - 1).astype(np.float32)


def draw_discrete(
    rng: Randomness, number: int, combinations: Int[np.ndarray, "k 3"], *, one_object: bool = False
) -> dict[str, np.ndarray]:
    """All factors of so many scenes from the prior but for `draw_layout`'s, by name; see `draw_scenes`."""
    objects = (number, MAX_OBJECTS)
    count = np.ones(number, int) if one_object else rng.choice(COUNTS, number, p=COUNT_PRIOR)
    which = rng.choice(len(combinations), objects, p=combination_prior(combinations))
    shape, colour, texture = np.moveaxis(combinations[which], -1, 0)
    return {
        "count": count,
        "shape": shape,
        "colour": colour,
        "texture": texture,
        "size": rng.integers(len(SIZES), size=objects),
        "background": rng.integers(len(BACKGROUNDS), size=number),
        "gradient": rng.integers(len(GRADIENTS), size=number),
        "direction": (rng.random(number) * 2 * np.pi).astype(np.float32),
        "light": rng.integers(len(LIGHTS), size=number),
    }


def draw_scenes(
    rng: Randomness, number: int, combinations: Int[np.ndarray, "k 3"], *, one_object: bool = False
) -> Scenes:
    """So many scenes from the prior, their objects of these (shape, colour, texture).

    Args:
        one_object: of those scenes of the prior alone that have one object.
    """
    drawn = draw_discrete(rng, number, combinations, one_object=one_object)
    present = np.arange(MAX_OBJECTS) < drawn["count"][:, None]
    layout = draw_layout(rng, drawn["shape"], drawn["colour"], drawn["size"], present)
    return Scenes(**drawn, **layout)
