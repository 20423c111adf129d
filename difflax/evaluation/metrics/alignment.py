"""How well an image fits its prompt, by an encoder of both."""

import numpy as np
from jaxtyping import Float

from difflax.evaluation.metrics.description import Metric
from difflax.evaluation.metrics.features import normalize

CLIP_SCORE = Metric(
    name="clip_score",
    label="CLIP score",
    unit="100 × cosine",
    better="higher",
    definition="100 · max(0, cosine) of the CLIP features of an image and of its prompt.",
    source="Hessel et al. 2021 (CLIPScore), with the weight w = 100 in place of 2.5",
    note="Comparable only between runs that use the same CLIP.",
    bounds=(0.0, 100.0),
)


def cosines(
    image_features: Float[np.ndarray, "n d"], text_features: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """The cosine of each image and its own text, in [-1, 1]."""
    return np.sum(normalize(image_features) * normalize(text_features), axis=-1)


def clip_score(
    image_features: Float[np.ndarray, "n d"], text_features: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """``100 · max(0, cosine)`` of each image and its own text, in [0, 100] (Hessel et al. 2021, w = 100)."""
    return 100.0 * np.clip(cosines(image_features, text_features), 0.0, 1.0)
