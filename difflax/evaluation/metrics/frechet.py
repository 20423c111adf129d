"""The Fréchet distance between Gaussians fitted to features.

Of ``N(m1, C1)`` and ``N(m2, C2)`` (Dowson and Landau 1982; for images Heusel et al. 2017, eq. 6) it is
``|m1 - m2|² + Tr(C1 + C2 - 2 (C1 C2)^½)``. With any factors ``Ci = FiᵀFi`` the last trace is the nuclear norm
``‖F1 F2ᵀ‖_*``: ``Fi = Ui Ci^½`` with a partial isometry ``Ui``, and the singular values of ``C1^½ C2^½`` are
the roots of the eigenvalues of ``C1^½ C2 C1^½``. So no matrix square root is taken, nothing becomes complex,
and fewer images than features are no special case. What two packages compute instead stands in `TRACES`.

Covariances are unbiased (ddof 1), as all reference implementations have them.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from difflax.core.spelling import choose
from difflax.core.types import UserError
from difflax.evaluation.metrics.description import Metric
from difflax.evaluation.metrics.features import check_features, check_widths

FRECHET_DISTANCE = Metric(
    name="frechet_distance",
    label="Fréchet distance",
    unit="CLIP image features",
    better="lower",
    definition=(
        "Fréchet distance between Gaussians fitted to the unit-norm CLIP image features of generated images "
        "and of real images of the same prompt group."
    ),
    source="Heusel et al. 2017, eq. 6, on CLIP features as in Kynkäänniemi et al. 2023",
    note=(
        "It falls as the number of images grows, so it is comparable only at equal counts. The line of real "
        "images is the distance between two disjoint sets of them, the first as large as the generated set."
    ),
    bounds=(0.0, None),
)
SQRTM_EPSILON = 1e-6
"""What clean-fid adds to both diagonals where its root is not finite, and only there."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GaussianFit:
    """A Gaussian fitted to ``count`` feature vectors, its covariance as ``factorᵀ factor``."""

    mean: Float[np.ndarray, " d"]
    factor: Float[np.ndarray, "r d"]
    count: int

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        return self.factor.T @ self.factor


def fit_gaussian(features: Float[np.ndarray, "n d"]) -> GaussianFit:
    """Mean and unbiased covariance of at least two feature vectors, in float64."""
    features = features.astype(np.float64)
    if len(features) < 2:
        raise ValueError(f"a covariance needs at least 2 feature vectors, got {len(features)}")
    mean = features.mean(0)
    factor = (features - mean) / np.sqrt(len(features) - 1)
    if len(factor) > factor.shape[1]:
        factor = np.linalg.qr(factor, mode="r")
    return GaussianFit(mean=mean, factor=factor, count=len(features))


def gaussian_of(
    mean: Float[np.ndarray, " d"], covariance: Float[np.ndarray, "d1 d2"], count: int = 0
) -> GaussianFit:
    """The Gaussian of stored statistics, ``mu`` and ``sigma``.

    Args:
        count: of the vectors that they were computed from; 0 where nobody knows.

    Raises:
        UserError: shapes that do not fit each other, or numbers that are not finite.
    """
    width = len(mean)
    if covariance.shape != (width, width):
        raise UserError(f"statistics of a mean of {width} numbers and a covariance of {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise UserError("statistics that are not finite: compute them anew")
    values, vectors = np.linalg.eigh(np.asarray(covariance, np.float64))
    # Rounding makes eigenvalues of 0 slightly negative.
    factor = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    return GaussianFit(mean=np.asarray(mean, np.float64), factor=factor, count=count)


class RunningMoments:
    """Mean and scatter of features that come in batches, in float64: what a Gaussian is fitted to without all
    features in memory.

    Batches are joined by the formula for pairs of samples (Chan, Golub and LeVeque 1983), so that nothing
    cancels as it does in ``E[x²] - E[x]²``.
    """

    def __init__(self, width: int):
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def update(self, features: Float[np.ndarray, "n d"]) -> None:
        """Adds a batch.

        Raises:
            UserError: a feature that is not finite.
        """
        features = check_features(features, "the images", 0)
        if not len(features):
            return
        mean = features.mean(0)
        centred, shift = features - mean, mean - self.mean
        total = self.count + len(features)
        self.scatter += centred.T @ centred
        self.scatter += np.outer(shift, shift) * (self.count * len(features) / total)
        self.mean += shift * (len(features) / total)
        self.count = total

    @property
    def covariance(self) -> Float[np.ndarray, "d d"]:
        """Unbiased.

        Raises:
            UserError: of fewer than two vectors.
        """
        if self.count < 2:
            raise UserError(
                f"a Fréchet distance needs at least 2 images, and here is {self.count}: give more"
            )
        return self.scatter / (self.count - 1)

    def fit(self) -> GaussianFit:
        """The Gaussian of all that has come; errors as for `covariance`."""
        return gaussian_of(self.mean, self.covariance, self.count)


def _by_factors(first: GaussianFit, second: GaussianFit) -> float:
    return float(np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum())


def _by_eigenvalues(first: GaussianFit, second: GaussianFit) -> float:
    values = np.linalg.eigvals(first.covariance @ second.covariance)
    return float(np.sqrt(values.astype(np.complex128)).real.sum())


def _by_sqrtm(first: GaussianFit, second: GaussianFit) -> float:
    import scipy.linalg

    root = scipy.linalg.sqrtm(first.covariance @ second.covariance)
    if not np.isfinite(root).all():
        offset = SQRTM_EPSILON * np.eye(len(first.mean))
        root = scipy.linalg.sqrtm((first.covariance + offset) @ (second.covariance + offset))
    return float(np.trace(root).real)


TRACES: dict[str, Callable[[GaussianFit, GaussianFit], float]] = {
    "factors": _by_factors,
    "eigenvalues": _by_eigenvalues,
    "sqrtm": _by_sqrtm,
}
"""``Tr (C1 C2)^½`` as the module's docstring derives it, as torch-fidelity computes it (``Σ Re √λ`` over the
eigenvalues of ``C1 C2``) and as clean-fid does (`SQRTM_EPSILON`). All are equal but for rounding, which shows
where there are fewer images than features: then the first one is exact and the others are not.
"""


def frechet_distance(first: GaussianFit, second: GaussianFit, *, trace: str = "factors") -> float:
    """``|m1 - m2|² + Tr(C1 + C2 - 2 (C1 C2)^½)`` ≥ 0 (Heusel et al. 2017, eq. 6).

    Args:
        trace: how the last term is computed, one of `TRACES`.

    Raises:
        UserError: Gaussians of two widths, or no such ``trace``.
    """
    check_widths(len(first.mean), len(second.mean))
    shift = np.sum((first.mean - second.mean) ** 2)
    traces = np.sum(first.factor**2) + np.sum(second.factor**2)
    overlap = choose(TRACES, trace, "trace")(first, second)
    return float(max(shift + traces - 2.0 * overlap, 0.0))
