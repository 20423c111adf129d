"""What is measured on generated images, each metric with its definition, its source and its limits.

Everything here is a pure function of numpy arrays: images are float in [0, 1], features come from any
encoder. The statistics are computed in float64 whatever the input's precision.
"""

from difflax.evaluation.metrics.alignment import CLIP_SCORE, clip_score, cosines
from difflax.evaluation.metrics.description import ACCURACY, Metric, share_read
from difflax.evaluation.metrics.diversity import (
    FEATURE_DIVERSITY,
    PIXEL_DIVERSITY,
    feature_diversity,
    pixel_diversity,
    vendi_score,
)
from difflax.evaluation.metrics.extrapolation import (
    FRECHET_BIAS,
    FRECHET_INFINITY,
    Extrapolation,
    frechet_infinity,
    smallest_part,
)
from difflax.evaluation.metrics.features import normalize
from difflax.evaluation.metrics.frechet import (
    FRECHET_DISTANCE,
    TRACES,
    GaussianFit,
    RunningMoments,
    fit_gaussian,
    frechet_distance,
    gaussian_of,
)
from difflax.evaluation.metrics.kernels import KernelDistance, cmmd, kernel_distance
from difflax.evaluation.metrics.manifold import Manifolds, compare_manifolds
from difflax.evaluation.metrics.pixels import (
    CLIPPED_FRACTION,
    HSV_SATURATION,
    clipped_fraction,
    contrast,
    hsv_saturation,
)

__all__ = [
    "ACCURACY",
    "CLIPPED_FRACTION",
    "CLIP_SCORE",
    "FEATURE_DIVERSITY",
    "FRECHET_BIAS",
    "FRECHET_DISTANCE",
    "FRECHET_INFINITY",
    "HSV_SATURATION",
    "PIXEL_DIVERSITY",
    "TRACES",
    "Extrapolation",
    "GaussianFit",
    "KernelDistance",
    "Manifolds",
    "Metric",
    "RunningMoments",
    "clip_score",
    "clipped_fraction",
    "cmmd",
    "compare_manifolds",
    "contrast",
    "cosines",
    "feature_diversity",
    "fit_gaussian",
    "frechet_distance",
    "frechet_infinity",
    "gaussian_of",
    "hsv_saturation",
    "kernel_distance",
    "normalize",
    "pixel_diversity",
    "share_read",
    "smallest_part",
    "vendi_score",
]
