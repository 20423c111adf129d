"""FID∞: what a Fréchet distance would be of infinitely many images (Chong and Forsyth 2020, "Effectively
Unbiased FID and Inception Score").

The distance of ``n`` images is biased by a term that is linear in ``1/n`` to first order and depends on the
model (eq. 4 and section 3), so that models are ranked wrongly at any ``n`` they share. A line through the
distances of growing parts of the images, over ``1/n``, is read at 0. The reference's own number of images
biases the result, too, and no part of the generated images takes that away.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float, Int

from difflax.core.types import UserError
from difflax.evaluation.metrics.description import Metric
from difflax.evaluation.metrics.features import check_features
from difflax.evaluation.metrics.frechet import GaussianFit, fit_gaussian, frechet_distance

POINTS = 15
SMALLEST = 5000
"""Chong and Forsyth's: sizes of the parts, evenly from the smallest to all images."""

THEIR_WIDTH = 2048
"""Features of the network that their smallest part was chosen for."""

FRECHET_INFINITY = Metric(
    name="frechet_infinity",
    label="Fréchet distance of infinitely many images",
    unit="CLIP image features",
    better="lower",
    definition=(
        "Where the line through the Fréchet distances of growing parts of the images, over one divided by"
        " their number, meets 0; parts are of whole prompts."
    ),
    source="Chong and Forsyth 2020, on CLIP features",
    note=(
        "Measured where there are twice as many images as the smallest part, which has as many for each"
        f" feature as theirs, {SMALLEST:,} of {THEIR_WIDTH:,}. What the number of real images"
        " adds stays in it."
    ),
)
FRECHET_BIAS = Metric(
    name="frechet_bias",
    label="Expected bias of the Fréchet distance",
    unit="CLIP image features",
    definition=(
        "By how much the Fréchet distance is too large because the images are few: the first-order estimate"
        " of the delete-a-group jackknife, (g - 1) times what leaving out a group of prompts adds on average."
    ),
    source="Shao and Tu 1995, section 2.3; that there is such a bias: Chong and Forsyth 2020",
    note="An estimate for the generated images alone; with fewer images than features it is too small.",
    part_of="frechet_distance",
)


def smallest_part(width: int) -> int:
    """Images of the first part, of features of that width: as many for each as Chong and Forsyth's."""
    return math.ceil(width * SMALLEST / THEIR_WIDTH)


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
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Extrapolation:
    """The Fréchet distance of infinitely many images.

    Args:
        seed: of the parts, each drawn without replacement.
        clusters: images that come together, such as those of one prompt: a part has all of a cluster or
            none, so that the line also takes away the bias of few clusters. By default every image is one.
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
    wanted = np.linspace(smallest, len(features), points).astype(int).tolist()
    if clusters is None:
        parts = [rng.choice(len(features), size, replace=False) for size in wanted]
    else:
        parts = [_whole(clusters, size, rng) for size in wanted]
    sizes = np.array([len(part) for part in parts])
    distances = [frechet_distance(fit_gaussian(features[part]), reference, trace=trace) for part in parts]
    slope, value = np.polyfit(1.0 / sizes, distances, 1)
    return Extrapolation(
        value=float(value),
        slope=float(slope),
        sizes=tuple(map(int, sizes)),
        distances=tuple(map(float, distances)),
    )


def _whole(clusters: Int[np.ndarray, " n"], size: int, rng: np.random.Generator) -> Int[np.ndarray, " m"]:
    """The images of as many whole clusters, drawn without replacement, as have ``size`` of them or more."""
    members, counts = np.unique(clusters, return_counts=True)
    order = rng.permutation(len(members))
    enough = int(np.searchsorted(np.cumsum(counts[order]), size)) + 1
    return np.flatnonzero(np.isin(clusters, members[order[:enough]]))
