"""Images as CLIP's image tower wants them: its size, its mean, its standard deviation."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from difflax.core.bounds import Edge, Positive
from difflax.core.kinds import read_own_fields

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""Of OpenAI's training images, per RGB channel in [0, 1]; a checkpoint's ``preprocessor_config.json`` may
state others."""


def preprocess_images(
    images: Float[Array, "b h w c"],
    size: int,
    mean: tuple[float, ...] = CLIP_MEAN,
    std: tuple[float, ...] = CLIP_STD,
) -> Float[Array, "b {size} {size} 3"]:
    """Scales the shorter edge to ``size`` (bicubic, antialiased), crops the centre, normalises each channel;
    grey images (one channel) become three equal channels.

    The steps of CLIP's image processor on images in [0, 1]. It resizes 8-bit images and rounds to 8 bits in
    between; here nothing is rounded, and values that the cubic kernel throws beyond [0, 1] are clipped, as
    8 bits would.
    """
    batch, height, width, channels = images.shape
    scale = size / min(height, width)
    # Integer division as in torchvision's resize, which keeps the aspect ratio from above.
    height, width = (size if edge * scale == size else int(edge * scale) for edge in (height, width))
    if (height, width) != images.shape[1:3]:
        resized = jax.image.resize(images, (batch, height, width, channels), "bicubic", antialias=True)
        images = jnp.clip(resized, 0.0, 1.0)
    top, left = (height - size) // 2, (width - size) // 2
    images = images[:, top : top + size, left : left + size]
    return (images - jnp.asarray(mean, images.dtype)) / jnp.asarray(std, images.dtype)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PixelConfig:
    """What an image tower was trained to see: the edge in pixels, and each channel's mean and deviation."""

    size: Edge
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[Positive, Positive, Positive] = CLIP_STD

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "PixelConfig":
        """Reads the mapping of a CLIP checkpoint's ``preprocessor_config.json``, of any age."""
        size = config.get("crop_size")
        # An old file's is the number itself.
        size = size.get("height") if hasattr(size, "get") else size
        given = {"mean": config.get("image_mean", CLIP_MEAN), "std": config.get("image_std", CLIP_STD)}
        return cls(**read_own_fields(cls, {"size": size, **given}))

    def to_config(self) -> dict[str, Any]:
        """The mapping to write as ``preprocessor_config.json``."""
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.size},
            "resample": 3,  # PIL's number of bicubic
            "do_center_crop": True,
            "crop_size": {"height": self.size, "width": self.size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
