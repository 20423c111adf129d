"""How far generated images lie where real ones do, and the other way round, by nearest neighbours.

Around each image lies a ball that reaches to its ``k``-th nearest neighbour in its own set.
Improved precision and recall (Kynkäänniemi et al. 2019, eqs. 1 and 2): shares of generated images in some
real image's ball, and of real images in some generated image's. Density and coverage (Naeem et al. 2020,
eqs. 3 and 4): mean number of real balls that hold a generated image, over ``k``, and share of real balls with
a generated image in them. An image counts where it lies strictly inside, as in the package ``prdc``.

Distances are taken block by block: of 50,000 images on either side, all of them would be 20 GB.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from difflax.evaluation.metrics.features import blocks, check_features, check_widths, squared_distances

NEAREST = 5
"""Of Naeem et al. 2020; Kynkäänniemi et al. 2019 take 3."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifolds:
    """Each in [0, 1] but for ``density``, which is about 1 for two sets of the same images and unbounded."""

    precision: float
    recall: float
    density: float
    coverage: float


def compare_manifolds(
    features: Float[np.ndarray, "n d"], reference: Float[np.ndarray, "m d2"], *, nearest: int = NEAREST
) -> Manifolds:
    """Precision, recall, density and coverage of generated images against a reference.

    Args:
        nearest: which neighbour the balls reach to, ``k`` above.

    Raises:
        UserError: no more images than ``nearest`` on a side, features that are not finite or of two widths.
    """
    check_widths(features.shape[1], reference.shape[1])
    made = check_features(features, "the generated images", nearest + 1)
    real = check_features(reference, "the reference images", nearest + 1)
    made_radii, real_radii = _squared_radii(made, nearest), _squared_radii(real, nearest)
    inside = np.zeros(len(made), np.int64)
    recalled, covered = 0, 0
    for rows in blocks(len(real), len(made)):
        distances = squared_distances(real[rows], made)
        inside += np.sum(distances < real_radii[rows, None], axis=0)
        recalled += int(np.sum((distances < made_radii).any(axis=1)))
        covered += int(np.sum(distances.min(axis=1) < real_radii[rows]))
    return Manifolds(
        precision=float(np.mean(inside > 0)),
        recall=recalled / len(real),
        density=float(inside.mean() / nearest),
        coverage=covered / len(real),
    )


def _squared_radii(features: Float[np.ndarray, "n d"], nearest: int) -> Float[np.ndarray, " n"]:
    radii = np.empty(len(features))
    for rows in blocks(len(features), len(features)):
        distances = squared_distances(features[rows], features)
        # The nearest of all is the image itself.
        radii[rows] = np.partition(distances, nearest, axis=1)[:, nearest]
    return radii
