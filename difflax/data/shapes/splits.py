"""Which combinations of shape, colour and texture a model is trained on, and which it must compose.

A combination is held out if it contains one of `HELD_OUT_PAIRS`. Its distance from training is the least
number of its three parts that must change until it is a combination of training (Okawa et al. 2023,
"Compositional abilities emerge multiplicatively", there of concept classes): at distance 1 two of its parts
never met, at distance 2 no two of its three parts ever met. Every part alone is trained in many combinations.
"""

import numpy as np
from jaxtyping import Int

from difflax.data.shapes.factors import COLOURS, SHAPES, TEXTURES, all_combinations

HELD_OUT_PAIRS = (
    ("circle", "yellow"),
    ("square", "purple"),
    ("ring", "red"),
    ("triangle", "blue"),
    ("star", "teal"),
    ("teal", "striped"),
    ("star", "striped"),
    ("heart", "green"),
    ("green", "dotted"),
    ("heart", "dotted"),
)
"""Words that no object of training has together."""

_WORDS = (SHAPES, tuple(COLOURS), TEXTURES)


def _distances(combinations: Int[np.ndarray, "k 3"]) -> Int[np.ndarray, " k"]:
    """The distance of each combination from those without a held-out pair."""
    names = [{words[i] for words, i in zip(_WORDS, c, strict=True)} for c in combinations]
    trained = combinations[[not any(set(pair) <= name for pair in HELD_OUT_PAIRS) for name in names]]
    return (combinations[:, None] != trained[None]).sum(-1).min(-1)


_ALL = all_combinations()
_DISTANCE = _distances(_ALL)

COMBINATIONS = {
    "train": _ALL[_DISTANCE == 0],
    "test": _ALL[_DISTANCE == 0],
    "held_out": _ALL[_DISTANCE == 1],
    "held_out_2": _ALL[_DISTANCE == 2],
}
"""The (shape, colour, texture) of each split, as indices; the last two are at distance 1 and 2."""
SPLITS = tuple(COMBINATIONS)
