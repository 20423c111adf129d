"""Captioned 32×32 scenes of one or two coloured shapes: the language, the captions and the renderer.

A scene is one object, or two objects in a relation. An object has a shape, a colour, a size and a cell of a
3×3 grid. An attribute that is ``None`` is not said: a caption is a scene with gaps, so captions
under-determine images, and `parse_caption` returns the same type that `sample_scene` does.

Four (shape, colour) pairs are `HELD_OUT`: no training scene has them, so a model that draws one has composed
it from its parts.

Everything random about example ``i`` of a split comes from one generator seeded by (seed, split, i): it is
the same whatever else was generated, in whatever order.
"""

import dataclasses
import functools
import re
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8

IMAGE_SIZE = 32
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (0.84, 0.14, 0.14),
    "green": (0.12, 0.62, 0.20),
    "blue": (0.16, 0.26, 0.84),
    "yellow": (0.92, 0.80, 0.10),
    "purple": (0.56, 0.14, 0.70),
    "cyan": (0.10, 0.76, 0.84),
}
RADII = {"small": 3.6, "large": 5.7}  # pixels; every shape fits the square of this half-width
SIZES = tuple(RADII)
ROWS = {"top": 6.5, "centre": 16.0, "bottom": 25.5}  # pixels from the upper edge
COLUMNS = {"left": 6.5, "centre": 16.0, "right": 25.5}  # pixels from the left edge
POSITIONS = (
    "top left", "top centre", "top right",
    "centre left", "centre", "centre right",
    "bottom left", "bottom centre", "bottom right",
)  # fmt: skip
INVERSE_RELATION = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
RELATIONS = tuple(INVERSE_RELATION)
LAYOUTS = {
    "left of": ((0, 2), (1, 3)),
    "right of": ((2, 0), (1, 3)),
    "above": ((0, 2), (3, 1)),
    "below": ((2, 0), (3, 1)),
}
"""Where two objects of a relation stand along it, and how many `POSITIONS` a cell along and across it is."""
HELD_OUT = (("circle", "yellow"), ("square", "purple"), ("triangle", "green"), ("cross", "blue"))
SEEN = tuple(pair for pair in ((s, c) for s in SHAPES for c in COLOURS) if pair not in HELD_OUT)
PAIRS = {"train": SEEN, "test": SEEN, "held_out": HELD_OUT}
"""The (shape, colour) pairs of each split."""
SPLITS = tuple(PAIRS)

BACKGROUND = 0.82  # the grey behind every scene
BACKGROUND_JITTER = 0.03  # ± grey level
POSITION_JITTER = 0.5  # ± pixels
RADIUS_JITTER = 0.05  # ± fraction of the radius
SHADE_JITTER = 0.08  # ± fraction of the colour's brightness
SUPERSAMPLING = 8  # subpixels a pixel and axis

FULLY_NAMED = 0.75  # the fraction of captions that name everything they could


@dataclasses.dataclass(frozen=True, kw_only=True)
class Object:
    """One coloured shape; ``None`` is an attribute that a caption leaves open."""

    shape: str
    colour: str
    size: str | None = None
    position: str | None = None

    @property
    def pair(self) -> tuple[str, str]:
        return self.shape, self.colour


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One object, or two of which the first stands in ``relation`` to the second ("first left of second")."""

    objects: tuple[Object, ...]
    relation: str | None = None

    def __post_init__(self):
        if len(self.objects) != (1 if self.relation is None else 2):
            raise ValueError(f"a relation joins two objects and one object has none: {self}")

    def mirrored(self) -> "Scene":
        """The same scene told from its other object: "b right of a" for "a left of b"."""
        if self.relation is None:
            return self
        return Scene(objects=self.objects[::-1], relation=INVERSE_RELATION[self.relation])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One captioned image with the scene it shows."""

    scene: Scene
    caption: str
    image: UInt8[np.ndarray, "32 32 3"]


def cell_centre(position: str) -> tuple[float, float]:
    """The centre (x, y) in pixels of one of `POSITIONS`."""
    row, column = divmod(POSITIONS.index(position), 3)
    return tuple(COLUMNS.values())[column], tuple(ROWS.values())[row]


# --- scenes


def sample_scene(
    rng: np.random.Generator, *, pairs: Sequence[tuple[str, str]] = SEEN, one_object_fraction: float = 0.75
) -> Scene:
    """A random scene in which nothing is left open and every object's (shape, colour) is one of ``pairs``.

    Two objects differ in shape or colour. They stand at opposite sides of the grid along their relation and
    at most one cell apart across it, so that the relation is plain and the objects never touch.
    """
    if rng.random() < one_object_fraction:
        shape, colour = pairs[rng.integers(len(pairs))]
        size, position = SIZES[rng.integers(2)], POSITIONS[rng.integers(9)]
        return Scene(objects=(Object(shape=shape, colour=colour, size=size, position=position),))
    cells = rng.integers(3, size=2)
    if abs(cells[0] - cells[1]) == 2:
        cells[1] = 1
    relation = RELATIONS[rng.integers(4)]
    ends, (step_along, step_across) = LAYOUTS[relation]
    chosen = rng.choice(len(pairs), size=2, replace=False)
    objects = []
    for along, across, which in zip(ends, cells, chosen, strict=True):
        shape, colour = pairs[which]
        position = POSITIONS[step_along * along + step_across * across]
        objects.append(Object(shape=shape, colour=colour, size=SIZES[rng.integers(2)], position=position))
    return Scene(objects=tuple(objects), relation=relation)


# --- captions

PLACED = (
    "{object} in the {position}",
    "in the {position} there is {object}",
    "there is {object} in the {position}",
)
UNPLACED = ("{object}", "there is {object}", "a picture of {object}")
RELATED = (
    "{first} {relation} {second}",
    "there is {first} {relation} {second}",
    "{first} is {relation} {second}",
)


def _one_of(name: str, words: Iterable[str]) -> str:
    """A named regular expression group of words, longest first so that "centre left" is not read "centre"."""
    return f"(?P<{name}>{'|'.join(sorted(words, key=len, reverse=True))})"


def _pattern(template: str) -> re.Pattern[str]:
    """The regular expression of a caption template; each object's groups carry its name."""
    objects = {
        name: f"a (?:{_one_of(f'{name}_size', SIZES)} )?"
        f"{_one_of(f'{name}_colour', COLOURS)} {_one_of(f'{name}_shape', SHAPES)}"
        for name in ("object", "first", "second")
    }
    position, relation = _one_of("object_position", POSITIONS), _one_of("relation", RELATIONS)
    return re.compile(template.format(position=position, relation=relation, **objects))


_PATTERNS = tuple(map(_pattern, (*PLACED, *UNPLACED, *RELATED)))


def phrasings(named: Scene) -> tuple[str, ...]:
    """Every caption of a scene that names just what ``named`` names, from both sides of a relation.

    A caption never names the cells of two related objects; their positions are left out.
    """
    if named.relation is None:
        (thing,) = named.objects
        templates = UNPLACED if thing.position is None else PLACED
        return tuple(t.format(object=_noun_phrase(thing), position=thing.position) for t in templates)
    return tuple(
        t.format(
            first=_noun_phrase(told.objects[0]), relation=told.relation, second=_noun_phrase(told.objects[1])
        )
        for told in (named, named.mirrored())
        for t in RELATED
    )


def parse_caption(caption: str) -> Scene:
    """What a caption names: the inverse of `phrasings`, with ``None`` for what it leaves open.

    Raises:
        ValueError: the caption is not of this language.
    """
    for pattern in _PATTERNS:
        if match := pattern.fullmatch(caption):
            groups = match.groupdict()
            objects = tuple(
                Object(**{k.partition("_")[2]: v for k, v in groups.items() if k.startswith(name + "_")})
                for name in ("object", "first", "second")
                if groups.get(f"{name}_shape")
            )
            return Scene(objects=objects, relation=groups.get("relation"))
    raise ValueError(f"not a caption of the shapes language: {caption!r}")


def sample_caption(rng: np.random.Generator, scene: Scene) -> str:
    """A random phrasing; a quarter leave out size, position or both (related objects: their sizes)."""
    drop_size = drop_position = False
    if rng.random() >= FULLY_NAMED:
        drop_size, drop_position = ((True, False), (False, True), (True, True))[rng.integers(3)]
    if scene.relation is not None:
        drop_size, drop_position = drop_size or drop_position, True
    objects = tuple(
        dataclasses.replace(
            o, size=None if drop_size else o.size, position=None if drop_position else o.position
        )
        for o in scene.objects
    )
    captions = phrasings(Scene(objects=objects, relation=scene.relation))
    return captions[rng.integers(len(captions))]


def _noun_phrase(thing: Object) -> str:
    return " ".join(word for word in ("a", thing.size, thing.colour, thing.shape) if word is not None)


# --- pictures


def inside(shape: str, x: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    """Whether points lie in the shape of radius 1 around the origin; x grows to the right and y downwards.

    Every shape lies within |x| ≤ 1, |y| ≤ 1: the unit circle, a square of half-width 0.9, an isosceles
    triangle with its apex up, of base and height 2, and an upright cross with arms of half-width 0.34.
    """
    if shape not in _INSIDE:
        raise ValueError(f"no shape {shape!r}; shapes: {SHAPES}")
    return _INSIDE[shape](x, y)


def _inside_cross(x: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."]) -> Bool[np.ndarray, "..."]:
    x, y = np.abs(x), np.abs(y)
    return (np.minimum(x, y) <= 0.34) & (np.maximum(x, y) <= 1)


_INSIDE: dict[str, Callable[..., Bool[np.ndarray, "..."]]] = {
    "circle": lambda x, y: x * x + y * y <= 1,
    "square": lambda x, y: np.maximum(np.abs(x), np.abs(y)) <= 0.9,
    "triangle": lambda x, y: (2 * np.abs(x) <= y + 1) & (y <= 1),
    "cross": _inside_cross,
}


def coverage(shape: str, x: float, y: float, radius: float) -> Float[np.ndarray, "32 32"]:
    """The fraction of each pixel that a shape covers; centre and radius in pixels, by supersampling."""
    low_x, low_y = max(int(x - radius), 0), max(int(y - radius), 0)
    high_x, high_y = (min(int(np.ceil(c + radius)), IMAGE_SIZE) for c in (x, y))
    u = (_SUBPIXELS[low_x * SUPERSAMPLING : high_x * SUPERSAMPLING] - np.float32(x)) / np.float32(radius)
    v = (_SUBPIXELS[low_y * SUPERSAMPLING : high_y * SUPERSAMPLING] - np.float32(y)) / np.float32(radius)
    covered = inside(shape, u[None, :], v[:, None])
    blocks = covered.reshape(high_y - low_y, SUPERSAMPLING, high_x - low_x, SUPERSAMPLING)
    out = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    out[low_y:high_y, low_x:high_x] = blocks.mean((1, 3), dtype=np.float32)
    return out


_SUBPIXELS = ((np.arange(IMAGE_SIZE * SUPERSAMPLING) + 0.5) / SUPERSAMPLING).astype(np.float32)


def render(scene: Scene, rng: np.random.Generator | None = None) -> UInt8[np.ndarray, "32 32 3"]:
    """The anti-aliased picture of a scene whose sizes and positions are all given.

    ``rng`` draws the natural variation inside a caption (background grey, and each object's place, radius and
    shade, by the ``*_JITTER`` constants); without it the picture shows the nominal values.
    """
    jitter = (lambda n: rng.uniform(-1, 1, n)) if rng is not None else np.zeros
    grey = BACKGROUND + BACKGROUND_JITTER * jitter(1)[0]
    image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), grey, np.float32)
    for thing in scene.objects:
        if thing.size is None or thing.position is None:
            raise ValueError(f"cannot draw what is left open: {thing}")
        dx, dy, dr, ds = jitter(4)
        x, y = cell_centre(thing.position)
        radius = RADII[thing.size] * (1 + RADIUS_JITTER * dr)
        alpha = coverage(thing.shape, x + POSITION_JITTER * dx, y + POSITION_JITTER * dy, radius)[..., None]
        colour = np.asarray(COLOURS[thing.colour], np.float32) * np.float32(1 + SHADE_JITTER * ds)
        image += alpha * (colour - image)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


# --- examples and prompts


def make_example(seed: int, split: str, index: int, *, one_object_fraction: float = 0.75) -> Example:
    """Example ``index`` of a split; all its objects are of `SEEN` pairs, in "held_out" of `HELD_OUT` ones."""
    if split not in SPLITS:
        raise ValueError(f"no split {split!r}; splits: {SPLITS}")
    rng = np.random.default_rng((seed, zlib.crc32(split.encode()), index))
    scene = sample_scene(rng, pairs=PAIRS[split], one_object_fraction=one_object_fraction)
    return Example(scene=scene, caption=sample_caption(rng, scene), image=render(scene, rng))


def evaluation_prompts(kind: str, count: int, *, seed: int = 0) -> list[str]:
    """Captions to judge generated images by, the same for the same arguments; all that can be named is named.

    Args:
        kind: "seen" and "held_out" go through the one-object scenes of those pairs (360 and 72) in random
            order, again from the start when ``count`` is larger; "two_objects" draws related seen pairs.
        count: how many.
        seed: of the order and the phrasings; independent of the training data's.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in _PROMPTED:
        raise ValueError(f"no kind of prompts {kind!r}; kinds: {', '.join(_PROMPTED)}")
    rng = np.random.default_rng((seed, zlib.crc32(b"prompts"), zlib.crc32(kind.encode())))
    captions = [phrasings(scene) for scene in _PROMPTED[kind](rng, count)]
    return [c[rng.integers(len(c))] for c in captions]


def _related(rng: np.random.Generator, count: int) -> list[Scene]:
    """Scenes of two objects, whose cells no caption names."""
    drawn = [sample_scene(rng, one_object_fraction=0.0) for _ in range(count)]
    return [
        Scene(objects=tuple(dataclasses.replace(o, position=None) for o in s.objects), relation=s.relation)
        for s in drawn
    ]


def _in_turn(pairs: Sequence[tuple[str, str]], rng: np.random.Generator, count: int) -> list[Scene]:
    """The scenes of one object in random order, again and again."""
    every = one_object_scenes(pairs)
    order = rng.permutation(len(every))
    return [every[order[i % len(every)]] for i in range(count)]


_PROMPTED: dict[str, Callable[[np.random.Generator, int], list[Scene]]] = {
    "seen": functools.partial(_in_turn, SEEN),
    "held_out": functools.partial(_in_turn, HELD_OUT),
    "two_objects": _related,
}
"""The scenes of each kind of prompts."""


def one_object_scenes(pairs: Sequence[tuple[str, str]] = SEEN) -> tuple[Scene, ...]:
    """Every scene of one object of the given (shape, colour) pairs, in every size and position."""
    return tuple(
        Scene(objects=(Object(shape=shape, colour=colour, size=size, position=position),))
        for shape, colour in pairs
        for size in SIZES
        for position in POSITIONS
    )
