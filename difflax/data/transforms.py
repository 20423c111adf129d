"""From decoded pixels to the uint8 image that a batch holds: which part of a picture, and at which size.

Pillow's Lanczos filter widens with the reduction, so that what is made smaller is anti-aliased.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from difflax.data.pictures import Pixels, check_pixels

Crop = Literal["center", "random", "none"]
"""What is kept of a picture of another aspect ratio: its middle, a part that is drawn each time that it is
seen, or all of it, whose sides are then resized each for itself.
"""


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


def frame(original: tuple[int, int], height: int, width: int, corner: tuple[int, int] | None = None) -> Frame:
    """The frame of what `fit` makes of a picture of height and width ``original``."""
    scale, upper, left = _middle(original, height, width)
    return Frame(original, corner or (round(upper / scale), round(left / scale)))


def fit(
    image: Pixels, height: int, width: int, channels: int, corner: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "h2 w2 c2"]:
    """The image at a wanted shape: a part of its aspect ratio, resized.

    One channel becomes three equal ones; RGB becomes one of luma (ITU-R 601).

    Args:
        corner: top and left of the part in pixels of the resized picture, see `draw_corner`; ``None``: the
            middle.
    """
    scale, upper, left = _middle(image.shape[:2], height, width)
    if corner is not None:
        # The room is a rounded number of pixels, of which the last may end beyond the picture.
        upper, left = (min(scale * side, 2 * most) for side, most in zip(corner, (upper, left), strict=True))
    return _resized(
        image, height, width, channels, (left, upper, left + scale * width, upper + scale * height)
    )


def squeeze(image: Pixels, height: int, width: int, channels: int) -> UInt8[np.ndarray, "h2 w2 c2"]:
    """All of the image at a wanted shape, whatever becomes of its aspect ratio; channels as for `fit`."""
    whole = (0.0, 0.0, float(image.shape[1]), float(image.shape[0]))
    return _resized(image, height, width, channels, whole)


def draw_corner(
    original: tuple[int, int], height: int, width: int, rng: np.random.Generator
) -> tuple[int, int]:
    """A corner for `fit` of a picture of height and width ``original``; each place is as likely as others."""
    scale, _, _ = _middle(original, height, width)
    resized = (round(side / scale) for side in original)
    top, left = (
        int(rng.integers(side - wanted + 1)) for side, wanted in zip(resized, (height, width), strict=True)
    )
    return top, left


def _resized(
    image: Pixels, height: int, width: int, channels: int, box: tuple[float, float, float, float]
) -> UInt8[np.ndarray, "h2 w2 c2"]:
    if image.shape == (height, width, channels):
        return image
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture = picture.convert("L" if channels == 1 else "RGB")
    picture = picture.resize((width, height), Image.Resampling.LANCZOS, box=box)
    return np.asarray(picture).reshape(height, width, channels)


def _middle(original: tuple[int, int], height: int, width: int) -> tuple[float, float, float]:
    """Original pixels a wanted pixel, and top and left of the middle that is cut out, in original pixels."""
    scale = min(original[0] / height, original[1] / width)
    return scale, (original[0] - scale * height) / 2, (original[1] - scale * width) / 2
