"""Fidelity: is a picture one that the renderer could have drawn?

Whatever a picture shows, the judge draws what it read; what is left is wrong with the picture itself: blur,
noise, strange shapes, wrong colours. Saturation and clipped values are set against those of true pictures of
the same caption, because a caption may well ask for a colourful picture.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

from difflax.data.shapes.factors import Scenes
from difflax.data.shapes.render import render
from difflax.evaluation import metrics
from difflax.evaluation.judges.shapes.reading import Reading

TRUE_PICTURES = 32  # of each caption
HIGHEST_PSNR = 60.0  # dB


def residual_psnr(reading: Reading) -> Float[np.ndarray, " n"]:
    """In dB between each picture and the render of what was read off it, at most `HIGHEST_PSNR`."""
    return np.minimum(reading.psnr, HIGHEST_PSNR)


@dataclasses.dataclass(frozen=True)
class TrueLook:
    """The mean `metrics.hsv_saturation` and `metrics.clipped_fraction` of true pictures of a caption."""

    saturation: float
    clipped: float

    @classmethod
    def of_scenes(cls, scenes: Scenes, size: int) -> "TrueLook":
        """Of the first `TRUE_PICTURES` of a caption's true scenes, ``size`` pixels along a side."""
        pictures = render(scenes[:TRUE_PICTURES], size)
        return cls(
            float(metrics.hsv_saturation(pictures).mean()), float(metrics.clipped_fraction(pictures).mean())
        )

    def excess(
        self, saturation: Float[np.ndarray, " n"], clipped: Float[np.ndarray, " n"]
    ) -> dict[str, float]:
        """What pictures of the caption have above the truth, on average."""
        return {
            "saturation_excess": float(np.mean(saturation)) - self.saturation,
            "clipped_excess": float(np.mean(clipped)) - self.clipped,
        }
