"""Fidelity: is a picture one that the renderer could have drawn?

Whatever a picture shows, the judge draws what it read; what is left is wrong with the picture itself: blur,
noise, strange shapes, wrong colours. Saturation and clipped values are set against those of true pictures of
the same caption, because a caption may well ask for a colourful picture.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from difflax.data.shapes import truth
from difflax.data.shapes.captions import Caption
from difflax.data.shapes.render import render
from difflax.data.shapes.splits import COMBINATIONS
from difflax.evaluation import metrics, statistics
from difflax.evaluation.judges.shapes.reading import Reading
from difflax.evaluation.statistics import Estimate

TRUE_PICTURES = 64  # of each caption


def fidelity(
    images: Float[np.ndarray, "n h w 3"],
    reading: Reading,
    captions: Sequence[Caption],
    rng: np.random.Generator,
) -> dict[str, Float[np.ndarray, " n"]]:
    """Columns of each picture.

    Returns:
        "residual_psnr" in dB between a picture and the render of what was read off it, at most 60;
        "saturation_excess" and "clipped_excess": the picture's mean HSV saturation and its share of clipped
        values (`metrics`), less the means of true pictures of its caption.
    """
    saturation, clipped = metrics.hsv_saturation(images), metrics.clipped_fraction(images)
    true = {caption: _true_means(caption, images.shape[1], rng) for caption in dict.fromkeys(captions)}
    expected = np.array([true[caption] for caption in captions])
    return {
        "residual_psnr": np.minimum(reading.psnr, 60.0),
        "saturation_excess": saturation - expected[:, 0],
        "clipped_excess": clipped - expected[:, 1],
    }


def _true_means(
    caption: Caption, size: int, rng: np.random.Generator, combinations: Int[np.ndarray, "k 3"] | None = None
) -> tuple[float, float]:
    drawn = truth.draw(
        rng, caption, TRUE_PICTURES, COMBINATIONS["train"] if combinations is None else combinations
    )
    pictures = render(drawn.scenes, size)
    return float(metrics.hsv_saturation(pictures).mean()), float(metrics.clipped_fraction(pictures).mean())


def estimates(
    columns: dict[str, Float[np.ndarray, " n"]], prompts: Int[np.ndarray, " n"]
) -> dict[str, Estimate]:
    """The mean of each column with its band over prompts."""
    return {name: statistics.mean(column, prompts) for name, column in columns.items()}
