"""From encoded bytes to the uint8 image that a batch holds."""

import dataclasses
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from difflax.core.types import BadExample


def decode(data: bytes, where: str) -> UInt8[np.ndarray, "h w c"]:
    """An encoded picture as one grey channel or RGB; transparency is laid over white.

    Args:
        data: PNG, JPEG, WebP or anything else that Pillow reads.
        where: the file or record, for the error.

    Raises:
        BadExample: the bytes are no picture.
    """
    picture = _open(data, where)
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    flat = np.frombuffer(picture.tobytes(), np.uint8)
    return flat.reshape(picture.height, picture.width, len(picture.getbands()))


def size_of(data: bytes, where: str) -> tuple[int, int]:
    """Height and width of an encoded picture; arguments as for `decode`."""
    picture = _open(data, where)
    return picture.height, picture.width


def decode_alpha(data: bytes, where: str) -> UInt8[np.ndarray, "h w 1"]:
    """The opacity of an encoded picture, 255 everywhere if it has none; arguments as for `decode`."""
    alpha = _open(data, where).convert("RGBA").getchannel("A")
    return np.asarray(alpha)[..., None]


def _open(data: bytes, where: str) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise BadExample(f"{where} cannot be read as an image: replace or remove it") from error
    return picture


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
