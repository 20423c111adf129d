"""Maximum mean discrepancies between two sets of features (Gretton et al. 2012): KID and CMMD.

With a kernel ``k``, ``MMD² = E k(x, x') + E k(y, y') - 2 E k(x, y)``. KID (Bińkowski et al. 2018) takes the
unbiased estimate, without the terms of an image with itself, and ``k(x, y) = (x·y/d + 1)³``; it is the mean
over random subsets. CMMD (Jayasumana et al. 2024) takes the biased one, with them, and
``k(x, y) = exp(-|x - y|² / (2σ²))`` on CLIP features of unit length, σ = 10, times 1000.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from difflax.core.types import UserError
from difflax.evaluation.metrics.features import (
    blocks,
    check_features,
    check_widths,
    normalize,
    squared_distances,
)

SUBSETS, SUBSET_SIZE = 100, 1000
"""Of torch-fidelity, clean-fid and the paper's code."""

TORCH_FIDELITY_SEED = 2020

CMMD_SIGMA, CMMD_SCALE = 10.0, 1000.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class KernelDistance:
    """A kernel inception distance over subsets.

    Attributes:
        mean: over the subsets; it may be slightly negative, as the estimate is unbiased.
        deviation: among the subsets (ddof 0), which is no error of the mean: subsets share images.
        size: images of each subset, after clamping.
    """

    mean: float
    deviation: float
    size: int


def kernel_distance(
    features: Float[np.ndarray, "n d"],
    reference: Float[np.ndarray, "m d2"],
    *,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = TORCH_FIDELITY_SEED,
    clamp: bool = False,
) -> KernelDistance:
    """KID (Bińkowski et al. 2018, sec. 4). With its seed the subsets are torch-fidelity's own.

    Args:
        subsets: how many are drawn, each without replacement.
        size: images of each subset.
        seed: of NumPy's Mersenne Twister, which draws from both sets in turn.
        clamp: where there are fewer than ``size`` images, subsets are as large as they can be, and the
            reference is drawn first: clean-fid's form. Without it fewer are refused, as in torch-fidelity.

    Raises:
        UserError: too few images, features that are not finite or of two widths.
    """
    check_widths(features.shape[1], reference.shape[1])
    fewest = min(len(features), len(reference))
    if fewest < size and not clamp:
        raise UserError(
            f"KID draws subsets of {size} images, and here are {len(features)} generated and"
            f" {len(reference)} of reference: give more images or a smaller subset"
        )
    size = min(size, fewest)
    features = check_features(features, "the generated images", 2)
    reference = check_features(reference, "the reference images", 2)
    rng = np.random.RandomState(seed)
    values = np.empty(subsets)
    for subset in range(subsets):
        if clamp:
            y = reference[rng.choice(len(reference), size, replace=False)]
            x = features[rng.choice(len(features), size, replace=False)]
        else:
            x = features[rng.choice(len(features), size, replace=False)]
            y = reference[rng.choice(len(reference), size, replace=False)]
        values[subset] = _unbiased(x, y)
    return KernelDistance(mean=float(values.mean()), deviation=float(values.std()), size=size)


def _cubic(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def _unbiased(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n d"]) -> float:
    count = len(x)
    within = sum(kernel.sum() - np.trace(kernel) for kernel in (_cubic(x, x), _cubic(y, y)))
    return float(within / (count * (count - 1)) - 2.0 * _cubic(x, y).mean())


def cmmd(features: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d2"]) -> float:
    """CLIP maximum mean discrepancy ×1000, at least 0 (Jayasumana et al. 2024, eq. 3 and sec. 5).

    Args:
        features, reference: CLIP image features of any length; they are normalised here.

    Raises:
        UserError: no images, or features that are not finite or of two widths.
    """
    check_widths(features.shape[1], reference.shape[1])
    x = normalize(check_features(features, "the generated images", 1))
    y = normalize(check_features(reference, "the reference images", 1))
    return CMMD_SCALE * (_mean_gaussian(x, x) + _mean_gaussian(y, y) - 2.0 * _mean_gaussian(x, y))


def _mean_gaussian(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> float:
    """The mean kernel value, block by block. Of unit vectors it is near 1, so its distance from 1 is summed,
    which keeps the digits that count.
    """
    total = 0.0
    for rows in blocks(len(x), len(y)):
        total += np.expm1(squared_distances(x[rows], y) / (-2.0 * CMMD_SIGMA**2)).sum()
    return total / (len(x) * len(y))
