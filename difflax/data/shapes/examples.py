"""Captioned pictures by seed and number, and the prompts that models are judged by.

Everything random about example ``i`` of a split comes from numbers of its own, see
`difflax.data.shapes.streams`: it is the same whatever else is made, in whatever order, on every machine.
"""

import dataclasses
import functools
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from difflax.data.shapes import captions, factors
from difflax.data.shapes.captions import Caption, Named
from difflax.data.shapes.factors import Scenes
from difflax.data.shapes.render import pictures
from difflax.data.shapes.splits import COMBINATIONS
from difflax.data.shapes.streams import Draws, Streams

PICTURE_SIZES = (32, 64, 128, 256)
LONG_CAPTIONS = 0.5  # share of the captions that name nearly everything


@dataclasses.dataclass(frozen=True, kw_only=True)
class Example:
    """One captioned picture.

    Attributes:
        scene: what it shows (`Scenes` without batch).
        named: what its caption fixes.
        caption: the words.
        image: the picture.
    """

    scene: Scenes
    named: Caption
    caption: str
    image: UInt8[np.ndarray, "h w 3"]


def make_examples(
    seed: int,
    split: str,
    rows: Sequence[int],
    *,
    size: int = 32,
    long_captions: float = LONG_CAPTIONS,
    one_object: bool = False,
) -> list[Example]:
    """Examples of a split; their objects are of that split's combinations.

    Args:
        rows: which, not negative; each example is the same whatever others are made with it.
        size: pixels along a side, one of `PICTURE_SIZES`.
        long_captions: the share of long captions, in [0, 1].
        one_object: whether scenes have one object alone.
    """
    scenes, named, said = _captioned(seed, split, rows, long_captions, one_object)
    return [
        Example(scene=scenes[i], named=named[i], caption=said[i], image=image)
        for i, image in enumerate(pictures(scenes, size))
    ]


def make_captions(
    seed: int,
    split: str,
    rows: Sequence[int],
    *,
    long_captions: float = LONG_CAPTIONS,
    one_object: bool = False,
) -> list[str]:
    """The captions of `make_examples`, without their pictures."""
    return _captioned(seed, split, rows, long_captions, one_object)[2]


def _captioned(
    seed: int, split: str, rows: Sequence[int], long_captions: float, one_object: bool
) -> tuple[Scenes, list[Caption], list[str]]:
    streams = Streams(seed, split, rows)
    scenes = factors.draw_scenes(streams, len(rows), COMBINATIONS[split], one_object=one_object)
    # Of another stream, as layouts take as many numbers as they need.
    chances = Streams(seed, f"captions of {split}", rows).random((len(rows), captions.DRAWS))
    named, said = [], []
    for i, numbers in enumerate(chances.tolist()):
        draws = Draws(numbers)
        named.append(captions.draw_caption(draws, scenes[i], long=draws.random() < long_captions))
        said.append(captions.say(named[-1], draws))
    return scenes, named, said


def generator(seed: int, *names: str | int) -> np.random.Generator:
    return np.random.default_rng((seed, *(zlib.crc32(str(name).encode()) for name in names)))


def _one_object(rng: np.random.Generator, split: str) -> Caption:
    """One object of which shape, colour and texture are named."""
    shape, colour, texture = map(int, _combination(rng, split))
    return Caption(objects=(Named(shape=shape, colour=colour, texture=texture),))


def _two_objects(rng: np.random.Generator, split: str) -> Caption:
    """Two objects of different shape and colour, and how the first stands to the second."""
    while True:
        (s, c, _), (t, d, _) = _combination(rng, split), _combination(rng, split)
        if s != t and c != d:
            objects = tuple(Named(shape=int(a), colour=int(b)) for a, b in ((s, c), (t, d)))
            return Caption(objects=objects, relation=int(rng.integers(len(captions.RELATIONS))))


def _counting(rng: np.random.Generator, split: str) -> Caption:
    """One to three objects of one shape."""
    shape = int(_combination(rng, split)[0])
    return Caption(objects=(Named(shape=shape),) * int(rng.integers(1, 4)))


def _as_trained(rng: np.random.Generator, split: str, long_captions: float = LONG_CAPTIONS) -> Caption:
    """A caption of a scene of the prior, as training has them."""
    scene = factors.draw_scenes(rng, 1, COMBINATIONS[split])[0]
    return captions.draw_caption(rng, scene, long=rng.random() < long_captions)


def _combination(rng: np.random.Generator, split: str) -> np.ndarray:
    combinations = COMBINATIONS[split]
    return combinations[rng.choice(len(combinations), p=factors.combination_prior(combinations))]


PROMPTS = {
    "one object": _one_object,
    "two objects": _two_objects,
    "counting": _counting,
    "short": functools.partial(_as_trained, long_captions=0.0),
    "long": functools.partial(_as_trained, long_captions=1.0),
    "as trained": _as_trained,
}
"""What each kind of prompts is about."""


def evaluation_prompts(
    kind: str, count: int, *, split: str = "test", seed: int = 0, one_object: bool = False
) -> list[str]:
    """Distinct prompts to judge generated pictures by, the same for the same arguments.

    Args:
        kind: one of `PROMPTS`.
        count: how many; fewer come back where a kind has fewer.
        split: whose combinations of shape, colour and texture are asked for.
        seed: of the prompts; independent of the training data's.
        one_object: whether only those of one object are kept.
    """
    rng = generator(seed, "prompts", kind, split)
    found: dict[str, None] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        caption = PROMPTS[kind](rng, split)
        if caption.counts == (1,) or not one_object:
            found.setdefault(captions.say(caption))
    return list(found)
