"""What every metric of features asks of them, and rows taken block by block."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from difflax.core.types import UserError

BLOCK_BYTES = 2**27
"""Of one block of distances or kernel values in float64."""


def check_features(features: Float[np.ndarray, "n d"], what: str, at_least: int) -> Float[np.ndarray, "n d"]:
    """The features in float64.

    Args:
        what: they are of, for the error ("the generated images").
        at_least: rows that the metric needs.

    Raises:
        UserError: fewer rows, or a feature that is not finite.
    """
    if len(features) < at_least:
        raise UserError(f"{what} are {len(features)}, and this metric needs at least {at_least}: give more")
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if bad.size:
        rows = ", ".join(map(str, bad[:5]))
        raise UserError(
            f"{what}: the features of {bad.size} images are not finite (rows {rows}"
            f"{', …' if bad.size > 5 else ''}): look at these images and at the network's weights"
        )
    return features.astype(np.float64)


def check_widths(first: int, second: int) -> None:
    """Refuses features of two widths.

    Raises:
        UserError: they differ.
    """
    if first != second:
        raise UserError(
            f"features of {first} numbers cannot be compared with a reference of {second}: the reference is"
            " of another network; compute it with the same one"
        )


def normalize(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Features of unit length, in float64. Raises ValueError for a zero or non-finite vector."""
    features = features.astype(np.float64)
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise ValueError(f"features {bad[:5].tolist()} have zero or non-finite length")
    return features / norms


def blocks(rows: int, columns: int) -> Iterator[slice]:
    """Slices of ``rows``, so many at once that a block of ``columns`` numbers a row stays small."""
    size = max(1, BLOCK_BYTES // (8 * max(columns, 1)))
    for start in range(0, rows, size):
        yield slice(start, min(start + size, rows))


def squared_distances(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "n m"]:
    """``|x_i - y_j|²``, at least 0."""
    made = -2.0 * (x @ y.T)
    made += np.sum(x**2, axis=1)[:, None]
    made += np.sum(y**2, axis=1)
    return np.maximum(made, 0.0, out=made)
