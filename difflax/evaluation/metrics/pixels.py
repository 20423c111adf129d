"""What is measured on the pixels of one image."""

import numpy as np
from jaxtyping import Float

from difflax.evaluation.metrics.description import Metric

CLIPPED_LOW, CLIPPED_HIGH = 0.005, 0.995
LUMA = (0.299, 0.587, 0.114)
"""Weights of ITU-R BT.601."""

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


def clipped_fraction(images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, " n"]:
    """Share of each image's channel values that are ≤ 0.005 or ≥ 0.995; images in [0, 1]."""
    return np.mean((images <= CLIPPED_LOW) | (images >= CLIPPED_HIGH), axis=(1, 2, 3), dtype=np.float64)


def hsv_saturation(images: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
    """Mean HSV saturation of each image, ``(max - min) / max`` and 0 for black (Smith 1978); in [0, 1]."""
    high = images.max(-1).astype(np.float64)
    low = images.min(-1)
    saturation = np.divide(high - low, high, out=np.zeros_like(high), where=high > 0)
    return saturation.mean(axis=(1, 2))


def contrast(images: Float[np.ndarray, "n h w 3"]) -> Float[np.ndarray, " n"]:
    """RMS contrast of each image, the standard deviation of its luma over pixels (Peli 1990, eq. 3); images
    in [0, 1], so at most 0.5.
    """
    luma = images.astype(np.float64) @ np.array(LUMA)
    return luma.std(axis=(1, 2))
