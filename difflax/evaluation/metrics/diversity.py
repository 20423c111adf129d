"""How different images are from each other."""

import numpy as np
from jaxtyping import Float, Int

from difflax.evaluation.metrics.description import Metric
from difflax.evaluation.metrics.features import check_features, normalize

FEATURE_DIVERSITY = Metric(
    name="feature_diversity",
    label="Diversity in CLIP features",
    unit="cosine distance",
    definition="Mean of 1 − cosine over all pairs of one prompt's seeds, then over prompts.",
    source="mean pairwise distance as in Zhu et al. 2017 (BicycleGAN), here in CLIP image features",
    bounds=(0.0, 2.0),
)
PIXEL_DIVERSITY = Metric(
    name="pixel_diversity",
    label="Diversity in pixels",
    unit="standard deviation",
    definition="Root mean variance of a pixel among one prompt's seeds, then the mean over prompts.",
    source="equal to the root of half the mean squared pixel distance between two seeds",
    note="Unbiased variance, mean over pixels and channels, values in [0, 1].",
    bounds=(0.0, None),
)


def feature_diversity(
    features: Float[np.ndarray, "n d"], prompts: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " p"]:
    """Mean ``1 - cosine`` over the pairs of seeds of each prompt, by ascending prompt index; in [0, 2].

    Raises ValueError for a prompt with a single image.
    """
    features = normalize(features)

    def spread(rows: Float[np.ndarray, "s d"]) -> float:
        if len(rows) < 2:
            raise ValueError("diversity needs at least 2 seeds a prompt")
        # Σ over all pairs of the cosine is |Σ f|² less the s ones of the diagonal.
        pairs = len(rows) * (len(rows) - 1)
        return 1.0 - (np.sum(rows.sum(0) ** 2) - len(rows)) / pairs

    return np.array([spread(features[prompts == p]) for p in np.unique(prompts)])


def pixel_diversity(images: Float[np.ndarray, "s h w c"]) -> float:
    """Root mean unbiased variance of the pixels among the ``s`` ≥ 2 seeds of one prompt."""
    if len(images) < 2:
        raise ValueError("diversity needs at least 2 seeds a prompt")
    return float(np.sqrt(np.mean(np.var(images, axis=0, ddof=1, dtype=np.float64))))


def vendi_score(features: Float[np.ndarray, "n d"]) -> float:
    """The effective number of different images, from 1 (all alike) to ``n`` (Friedman and Dieng 2023, eq. 2).

    It is ``exp(-Σ λ ln λ)`` over the eigenvalues of ``K/n``, with ``K`` the cosines of all pairs. With unit
    rows ``F`` these are those of ``FᵀF/n``, so that no matrix of all pairs is made.

    Raises:
        UserError: no images, or features that are not finite.
    """
    unit = normalize(check_features(features, "the generated images", 1))
    small = unit @ unit.T if len(unit) < unit.shape[1] else unit.T @ unit
    values = np.linalg.eigvalsh(small / len(unit))
    values = values[values > 0]
    return float(np.exp(-np.sum(values * np.log(values))))
