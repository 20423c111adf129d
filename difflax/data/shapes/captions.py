"""Captions: which factors of which objects they fix, and how that is said.

A caption is drawn in two steps. A *plan* says what is named: how many of the objects, which of their factors,
background, light, a relation. It depends on the number of objects alone. Then the objects that are named are
taken from the scene in random order, and the plan's factors get their values. So, given a caption, everything
that it leaves open has the distribution of `difflax.data.shapes.truth`, exactly.

"a red circle and something small" is about a picture of just two objects; "a red circle among other shapes"
of two or three. A long caption names nearly everything, a short one a factor or two; how many captions are
long is a setting. The words fix the caption: `parse` returns what is named, whatever the phrasing.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from difflax.core.types import UserError
from difflax.data.shapes import factors
from difflax.data.shapes.factors import (
    COLOURS,
    LIGHTS,
    MAX_OBJECTS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    TONES,
    Scenes,
)
from difflax.data.shapes.streams import Draws

RELATIONS = ("left of", "right of", "above", "below")
OBJECT_FACTORS = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "texture": TEXTURES,
    "size": SIZES,
    "place": PLACES,
}
"""The words of the factors that a caption may name of an object."""
SCENE_FACTORS = {"background": tuple(factors.BACKGROUNDS), "tone": tuple(TONES), "light": LIGHTS}
"""The words of the factors that a caption may name of the scene."""

NUMBERS = ("no", "one", "two", "three")
OPENINGS = ("", "a picture of ", "there is ", "an image showing ")
NOUNS = ("shape", "object")
SAID_PLACES = tuple(
    {
        1: (f"at the {name}", f"near the {name} edge"),
        3: (f"on the {name}", f"near the {name} edge"),
        5: (f"on the {name}", f"near the {name} edge"),
        7: (f"at the {name}", f"near the {name} edge"),
        4: ("in the centre", "in the middle"),
    }.get(index, (f"in the {name}", f"in the {name} corner"))
    for index, name in enumerate(PLACES)
)
BEHIND = (" on a {} background", " against a {} background", ", {} background")
OPEN = (" among other shapes", " with other shapes around", " and other shapes")
LIT = (", lit from {}", " with light from {}")
LIT_FROM = ("the left", "the right", "above", "below")
SAID_RELATIONS = (
    ("left of", "to the left of"),
    ("right of", "to the right of"),
    ("above", "over"),
    ("below", "under"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Named:
    """What a caption says of one object: indices of words, ``None`` for what it leaves open."""

    shape: int | None = None
    colour: int | None = None
    texture: int | None = None
    size: int | None = None
    place: int | None = None

    def __len__(self) -> int:
        return sum(value is not None for value in vars(self).values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caption:
    """What a caption fixes.

    Attributes:
        objects: the named ones, in the order of the words.
        more: whether there are others than these.
        relation: how the first of two objects stands to the second: along the axis on which their centres lie
            farther apart.
        background, tone, light: of the scene; a background and its tone are never both named.
    """

    objects: tuple[Named, ...]
    more: bool = False
    relation: int | None = None
    background: int | None = None
    tone: int | None = None
    light: int | None = None

    @property
    def counts(self) -> tuple[int, ...]:
        """How many objects there may be."""
        least = len(self.objects) + self.more
        return tuple(range(least, MAX_OBJECTS + 1)) if self.more else (least,)

    @property
    def named(self) -> int:
        """How many factors are fixed, the number of objects and a relation not counted."""
        scene = (self.background, self.tone, self.light)
        return sum(map(len, self.objects)) + sum(value is not None for value in scene)


# --- plans

Chances = np.random.Generator | Draws
"""What gives uniform numbers one by one."""
DRAWS = 64  # numbers that a caption and its words need at most


def draw_caption(rng: Chances, scene: Scenes, long: bool) -> Caption:
    """What a random caption names of a scene (`Scenes` without batch)."""
    count = int(scene.count)
    chance = rng.random
    if long:
        related = count == 2 and chance() < 0.4
        kinds = [_long_kinds(rng, placed=not related) for _ in range(count)]
        more, behind, lit = (
            False,
            ("background", "tone")[chance() < 0.3] if chance() < 0.8 else None,
            chance() < 0.5,
        )
    else:
        more = count > 1 and chance() < 0.5
        kinds = [_short_kinds(rng, 1 if count > 1 and not more else 2) for _ in range(1 if more else count)]
        related = count == 2 and not more and chance() < 0.25
        behind, lit = ("background", "tone")[chance() < 0.5] if chance() < 0.2 else None, chance() < 0.05
    order = _first_of(rng, [1.0] * count, len(kinds))
    things = [
        Named(**{kind: _value(scene, kind, k) for kind in named})
        for k, named in zip(order, kinds, strict=True)
    ]
    said = {
        None: {},
        "background": {"background": int(scene.background)},
        "tone": {"tone": int(factors.is_dark(scene.background))},
    }
    return Caption(
        objects=tuple(thing for thing, number in _grouped(things) for _ in range(number)),
        more=bool(more),
        relation=int(relation(scene.x[order], scene.y[order])) if related else None,
        light=int(scene.light) if lit else None,
        **said[behind],
    )


def _value(scene: Scenes, kind: str, k: int) -> int:
    """The index of a factor's word for one object."""
    values = factors.place(scene.x, scene.y) if kind == "place" else getattr(scene, kind)
    return int(values[k])


def _long_kinds(rng: Chances, *, placed: bool) -> list[str]:
    chances = {"shape": 1, "colour": 1, "texture": 0.85, "size": 0.85, "place": 0.7 * placed}
    return [kind for kind, chance in chances.items() if rng.random() < chance]


def _short_kinds(rng: Chances, most: int) -> list[str]:
    kinds = list(OBJECT_FACTORS)
    number = 1 + int(rng.random() * most)
    return [kinds[i] for i in _first_of(rng, (0.35, 0.3, 0.1, 0.15, 0.1), number)]


def _first_of(rng: Chances, weights: Sequence[float], number: int) -> list[int]:
    """Which come first if they are drawn one after the other, each with its weight among those that are left:
    the least of exponential waiting times (Efraimidis and Spirakis 2006, "Weighted random sampling with a
    reservoir").
    """
    waiting = [-math.log1p(-rng.random()) / weight for weight in weights]
    return sorted(range(len(weights)), key=waiting.__getitem__)[:number]


def relation(x: np.ndarray, y: np.ndarray) -> Int[np.ndarray, "*n"]:
    """The index in `RELATIONS` of how the first of the objects along the last axis stands to the second."""
    dx, dy = x[..., 1] - x[..., 0], y[..., 1] - y[..., 0]
    return np.where(abs(dx) >= abs(dy), np.where(dx > 0, 0, 1), np.where(dy > 0, 2, 3))


# --- words


def say(caption: Caption, rng: Chances | None = None) -> str:
    """A random phrasing, or the plainest one."""
    chance = rng.random if rng else lambda: 0.0
    pick = lambda options: options[int(chance() * len(options))]  # noqa: E731
    noun = pick(NOUNS)
    if caption.relation is not None:
        first, second = (_phrase(thing, noun, 1, pick) for thing in caption.objects)
        text = f"{first} {pick(SAID_RELATIONS[caption.relation])} {second}"
    else:
        phrases = [_phrase(thing, noun, number, pick) for thing, number in _grouped(caption.objects)]
        text = " and ".join(filter(None, (", ".join(phrases[:-1]), phrases[-1])))
    text += pick(OPEN) if caption.more else ""
    scenery = caption.background, caption.tone
    words = [
        SCENE_FACTORS[f][v] for f, v in zip(("background", "tone"), scenery, strict=True) if v is not None
    ]
    text += "".join(pick(BEHIND).format(word) for word in words)
    text += pick(LIT).format(LIT_FROM[caption.light]) if caption.light is not None else ""
    return pick(OPENINGS) + text


def _grouped(objects: Sequence[Named]) -> list[tuple[Named, int]]:
    """Objects of which the same is said are told together."""
    return list(Counter(objects).items())


def _phrase(thing: Named, noun: str, number: int, pick) -> str:
    words = [
        OBJECT_FACTORS[kind][value]
        for kind in ("size", "texture", "colour")
        if (value := getattr(thing, kind)) is not None
    ]
    noun = noun if thing.shape is None else SHAPES[thing.shape]
    plural = "" if number == 1 else "es" if noun.endswith("s") else "s"
    first = [*words, noun][0]
    article = ("an" if first[0] in "aeiou" else "a") if number == 1 else NUMBERS[number]
    where = [] if thing.place is None else [pick(SAID_PLACES[thing.place])]
    return " ".join([article, *words, noun + plural, *where])


def _one_of(words, name: str = "") -> str:
    """A regular expression of words, longest first."""
    return (
        f"({f'?P<{name}>' if name else '?:'}{'|'.join(sorted(map(re.escape, words), key=len, reverse=True))})"
    )


_OBJECT = re.compile(
    rf"(?P<number>an?|{'|'.join(NUMBERS[2:])}) "
    + "".join(rf"(?:{_one_of(OBJECT_FACTORS[kind], kind)} )?" for kind in ("size", "texture", "colour"))
    + rf"(?:{_one_of(SHAPES, 'shape')}|{_one_of(NOUNS)})(?:e?s)?"
    + rf"(?: {_one_of([said for ways in SAID_PLACES for said in ways], 'place')})?"
)
_PREFIX = re.compile(f"^{_one_of(OPENINGS)}")
_LIT_END = re.compile(rf"(?:, lit| with light) from {_one_of(LIT_FROM, 'light')}$")
_BEHIND_END = re.compile(
    rf"(?: on a| against a|,) {_one_of((*factors.BACKGROUNDS, *TONES), 'background')} background$"
)
_OPEN_END = re.compile(f"{_one_of(OPEN)}$")
_RELATION = re.compile(f" {_one_of([said for both in SAID_RELATIONS for said in both], 'relation')} (?=an? )")


def parse(text: str) -> Caption:
    """What a caption fixes, in any of its phrasings: the inverse of `say`.

    Raises:
        UserError: it is no caption of this world.
    """
    rest, scene = _PREFIX.sub("", text.strip().lower(), count=1), {}
    rest, light = _cut(_LIT_END, rest)
    if light:
        scene["light"] = LIT_FROM.index(light["light"])
    rest, behind = _cut(_BEHIND_END, rest)
    if behind:
        word = behind["background"]
        kind = "tone" if word in TONES else "background"
        scene[kind] = SCENE_FACTORS[kind].index(word)
    rest, more = _cut(_OPEN_END, rest)
    if found := _RELATION.search(rest):
        word = found["relation"]
        scene["relation"] = next(i for i, said in enumerate(SAID_RELATIONS) if word in said)
        phrases = [rest[: found.start()], rest[found.end() :]]
    else:
        phrases = re.split(", | and ", rest)
    objects = tuple(thing for phrase in phrases for thing in _parse_objects(phrase, text))
    caption = Caption(objects=objects, more=more is not None, **scene)
    if caption.counts[-1] > MAX_OBJECTS or not caption.counts or ("relation" in scene and len(objects) != 2):
        raise UserError(f"{text!r} is about more than {MAX_OBJECTS} objects, or a relation of other than two")
    return caption


def _cut(pattern: re.Pattern[str], text: str) -> tuple[str, re.Match[str] | None]:
    found = pattern.search(text)
    return (text[: found.start()], found) if found else (text, None)


def _parse_objects(phrase: str, text: str) -> list[Named]:
    found = _OBJECT.fullmatch(phrase)
    if not found:
        raise UserError(
            f"{text!r} is no caption of the shapes world: {phrase!r} should read like "
            '"a large striped red circle in the top left" or "two shapes"'
        )
    words = found.groupdict()
    number = NUMBERS.index(words.pop("number")) if words["number"] in NUMBERS else words.pop("number") and 1
    where = words.pop("place")
    named = {kind: OBJECT_FACTORS[kind].index(word) for kind, word in words.items() if word is not None}
    if where:
        named["place"] = next(i for i, said in enumerate(SAID_PLACES) if where in said)
    return [Named(**named)] * number
