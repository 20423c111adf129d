"""FID∞: what a Fréchet distance would be of infinitely many images (Chong and Forsyth 2020, "Effectively
Unbiased FID and Inception Score").

The distance of ``n`` images is biased by a term that is linear in ``1/n`` to first order and depends on the
model (eq. 4 and section 3), so that models are ranked wrongly at any ``n`` they share. A line through the
distances of growing parts of the images, over ``1/n``, is read at 0. The reference's own number of images
biases the result, too, and no part of the generated images takes that away.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.evaluation.metrics.features import check_features
from difflax.evaluation.metrics.frechet import GaussianFit, fit_gaussian, frechet_distance

POINTS = 15
SMALLEST = 5000
"""Chong and Forsyth's: sizes of the parts, evenly from the smallest to all images."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Extrapolation:
    """A line through Fréchet distances over ``1/n``.

    Attributes:
        value: where it meets ``1/n = 0``.
        slope: the bias of one image: that of ``n`` is about ``slope / n``.
        sizes: of the parts, in images.
        distances: of the parts.
    """

    value: float
    slope: float
    sizes: tuple[int, ...]
    distances: tuple[float, ...]


def frechet_infinity(
    features: Float[np.ndarray, "n d"],
    reference: GaussianFit,
    *,
    seed: int,
    points: int = POINTS,
    smallest: int = SMALLEST,
    trace: str = "factors",
) -> Extrapolation:
    """The Fréchet distance of infinitely many images.

    Args:
        seed: of the parts, each drawn without replacement.
        points: how many parts, at least 2.
        smallest: images of the first part; the last one is all of them.
        trace: as for `frechet_distance`.

    Raises:
        UserError: no more images than ``smallest``.
    """
    if len(features) <= smallest or points < 2:
        raise UserError(
            f"FID∞ needs more than {smallest} generated images and at least 2 parts, and here are"
            f" {len(features)} and {points}: give more, or another smallest part"
        )
    features = check_features(features, "the generated images", 2)
    rng = np.random.default_rng(seed)
    sizes = np.linspace(smallest, len(features), points).astype(int)
    parts = (features[rng.choice(len(features), size, replace=False)] for size in sizes)
    distances = [frechet_distance(fit_gaussian(part), reference, trace=trace) for part in parts]
    slope, value = np.polyfit(1.0 / sizes, distances, 1)
    return Extrapolation(
        value=float(value),
        slope=float(slope),
        sizes=tuple(map(int, sizes)),
        distances=tuple(map(float, distances)),
    )
