"""From decoded pixels to the uint8 image that a batch holds."""

import dataclasses

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from difflax.data.pictures import check_pixels


def check_images(image_shape: tuple[int, int, int], flip: float) -> None:
    """Raises ValueError for a shape or probability that no source has."""
    if min(image_shape) < 1 or image_shape[-1] not in (1, 3):
        raise ValueError(f"images of height, width, channels = {image_shape}; channels are 1 or 3")
    check_pixels(*image_shape[:2])
    if not 0 <= flip <= 1:
        raise ValueError(f"flip must be a probability in [0, 1], got {flip}")


@dataclasses.dataclass(frozen=True)
class Frame:
    """What of an original picture an image shows (Stable Diffusion XL's micro-conditioning).

    Attributes:
        original_size: height and width before anything was done, in pixels.
        corner: top and left of the cut, in pixels of the resized picture.
    """

    original_size: tuple[int, int]
    corner: tuple[int, int] = (0, 0)


def frame(original: tuple[int, int], height: int, width: int) -> Frame:
    """The frame of what `fit` makes of a picture of height and width ``original``."""
    scale, upper, left = _middle(original, height, width)
    return Frame(original, (round(upper / scale), round(left / scale)))


def fit(
    image: UInt8[np.ndarray, "h w c"], height: int, width: int, channels: int
) -> UInt8[np.ndarray, "h2 w2 c2"]:
    """The image at a wanted shape: the middle of its aspect ratio, resized (Lanczos, anti-aliased).

    One channel becomes three equal ones; RGB becomes one of luma (ITU-R 601).
    """
    if image.shape == (height, width, channels):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    scale, upper, left = _middle((picture.height, picture.width), height, width)
    box = (left, upper, left + scale * width, upper + scale * height)
    picture = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(picture).reshape(height, width, channels)


def _middle(original: tuple[int, int], height: int, width: int) -> tuple[float, float, float]:
    """Original pixels a wanted pixel, and top and left of the middle that is cut out, in original pixels."""
    scale = min(original[0] / height, original[1] / width)
    return scale, (original[0] - scale * height) / 2, (original[1] - scale * width) / 2
