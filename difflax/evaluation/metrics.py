"""What is measured on generated images, each metric with its definition, its source and its limits.

Everything here is a pure function of numpy arrays: images are float in [0, 1], features come from any
encoder. The statistics are computed in float64 whatever the input's precision.

The Fréchet distance between Gaussians ``N(m1, C1)`` and ``N(m2, C2)`` (Dowson and Landau 1982; for images
Heusel et al. 2017, eq. 6) is ``|m1 - m2|² + Tr(C1 + C2 - 2 (C1 C2)^½)``. With any factors ``Ci = FiᵀFi``
the last trace is the nuclear norm ``‖F1 F2ᵀ‖_*``: ``Fi = Ui Ci^½`` with a partial isometry ``Ui``, and the
singular values of ``C1^½ C2^½`` are the roots of the eigenvalues of ``C1^½ C2 C1^½``. So no matrix square
root is taken, nothing becomes complex, and fewer images than features are no special case.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

CLIPPED_LOW, CLIPPED_HIGH = 0.005, 0.995


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is named, read and plotted.

    Attributes:
        name: its key in tables and files.
        label: its name for people, without the unit.
        unit: the unit, or what the number is a share of; empty if there is none.
        better: which direction is good; "neither" where the number only describes.
        definition: what is computed, in one sentence.
        note: what to know before reading it.
        source: the paper that defines it.
        bounds: the smallest and largest possible value (``None``: unbounded).
        truth: the value of images that are as true as can be, where it is known exactly.
        part_of: the metric that this one is a detail of: it is drawn and listed with the other details.
    """

    name: str
    label: str
    unit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    definition: str
    source: str
    note: str = ""
    bounds: tuple[float | None, float | None] = (None, None)
    truth: float | None = None
    part_of: str = ""

    @property
    def sign(self) -> int:
        """1 where a high value is good, -1 where a low one is, 0 where neither is."""
        return {"higher": 1, "lower": -1, "neither": 0}[self.better]

    @property
    def axis_label(self) -> str:
        return f"{self.label} ({self.unit})" if self.unit else self.label


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
CLIPPED_FRACTION = Metric(
    name="clipped_fraction",
    label="Clipped values",
    unit="share of channel values",
    definition=f"Share of channel values ≤ {CLIPPED_LOW} or ≥ {CLIPPED_HIGH}, values in [0, 1].",
    source="what high scales do, and thresholding counters, in Saharia et al. 2022 (Imagen), § 2.3",
    bounds=(0.0, 1.0),
)
HSV_SATURATION = Metric(
    name="hsv_saturation",
    label="Saturation",
    unit="mean HSV saturation",
    definition="Mean over pixels of (max − min) / max of the three channels, 0 for black.",
    source="HSV of Smith 1978; measured against guidance by Sadat et al. 2024 (APG)",
    bounds=(0.0, 1.0),
)


def share_read(name: str, label: str, what: str, part_of: str = "") -> Metric:
    """A metric of images that a judge reads right (1) or wrong (0)."""
    return Metric(
        name=name,
        label=label,
        unit="share of images",
        better="higher",
        definition=f"Share of images in which the judge reads {what} right.",
        source="the judge named in the provenance",
        note="Images whose prompt does not name it are left out.",
        bounds=(0.0, 1.0),
        part_of=part_of,
    )


ACCURACY = share_read("accuracy", "Prompt accuracy", "every attribute that the prompt names")


def normalize(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Features of unit length, in float64. Raises ValueError for a zero or non-finite vector."""
    features = features.astype(np.float64)
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise ValueError(f"features {bad[:5].tolist()} have zero or non-finite length")
    return features / norms


def clip_score(
    image_features: Float[np.ndarray, "n d"], text_features: Float[np.ndarray, "n d"]
) -> Float[np.ndarray, " n"]:
    """``100 · max(0, cosine)`` of each image and its own text, in [0, 100] (Hessel et al. 2021, w = 100)."""
    cosine = np.sum(normalize(image_features) * normalize(text_features), axis=-1)
    return 100.0 * np.clip(cosine, 0.0, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GaussianFit:
    """A Gaussian fitted to ``count`` feature vectors, its covariance as ``factorᵀ factor``."""

    mean: Float[np.ndarray, " d"]
    factor: Float[np.ndarray, "r d"]
    count: int


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


def frechet_distance(first: GaussianFit, second: GaussianFit) -> float:
    """``|m1 - m2|² + Tr(C1 + C2 - 2 (C1 C2)^½)`` ≥ 0 (Heusel et al. 2017, eq. 6)."""
    shift = np.sum((first.mean - second.mean) ** 2)
    traces = np.sum(first.factor**2) + np.sum(second.factor**2)
    overlap = np.linalg.svd(first.factor @ second.factor.T, compute_uv=False).sum()
    return float(max(shift + traces - 2.0 * overlap, 0.0))


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


def clipped_fraction(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Share of each image's channel values that are ≤ 0.005 or ≥ 0.995; images in [0, 1]."""
    return np.mean((images <= CLIPPED_LOW) | (images >= CLIPPED_HIGH), axis=(1, 2, 3), dtype=np.float64)


def hsv_saturation(images: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
    """Mean HSV saturation of each image, ``(max - min) / max`` and 0 for black (Smith 1978); in [0, 1]."""
    high = images.max(-1).astype(np.float64)
    low = images.min(-1)
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    return saturation.mean(axis=(1, 2))
