"""From encoded bytes to the uint8 image that a batch holds.

What is the same every epoch (`Transform.fit`) is apart from what is drawn anew (`Transform.augment`), so that
a loader may keep fitted images in memory.
"""

import dataclasses
import io

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from difflax.types import UserError


def decode(data: bytes, where: str) -> UInt8[np.ndarray, "h w c"]:
    """An encoded picture as one grey channel or RGB; transparency is laid over white.

    Args:
        data: PNG, JPEG, WebP or anything else that Pillow reads.
        where: the file or record, for the error.

    Raises:
        UserError: the bytes are no picture.
    """
    try:
        picture = Image.open(io.BytesIO(data))
        picture.load()
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise UserError(f"{where} cannot be read as an image ({error}): replace or remove it") from error
    if picture.mode == "1":
        picture = picture.convert("L")
    elif picture.mode not in ("L", "RGB") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    # Half the time of numpy.asarray, which counts when a data set is decoded into memory.
    flat = np.frombuffer(picture.tobytes(), np.uint8)
    return flat.reshape(picture.height, picture.width, len(picture.getbands()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Transform:
    """What is done to each image.

    Attributes:
        size: side in pixels of the square that images become: the shorter side is resized to it (Lanczos with
            anti-aliasing) and the middle is cut out; ``None`` leaves images as they are.
        flip: probability of a left-right flip, which makes captions that say "left" wrong.
    """

    size: int | None = None
    flip: float = 0.0

    def __post_init__(self):
        if self.size is not None and self.size < 1:
            raise UserError(f"transform size {self.size} must be at least 1 pixel")
        if not 0 <= self.flip <= 1:
            raise UserError(f"transform flip {self.flip} must be a probability between 0 and 1")

    def fit(self, image: UInt8[np.ndarray, "h w c"]) -> UInt8[np.ndarray, "h2 w2 c"]:
        """The image resized and cropped; the same every time."""
        height, width, channels = image.shape
        if self.size is None or height == width == self.size:
            return image
        scale = self.size / min(height, width)
        left, upper = ((side - self.size / scale) / 2 for side in (width, height))
        box = (left, upper, left + self.size / scale, upper + self.size / scale)
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        fitted = picture.resize((self.size, self.size), Image.Resampling.LANCZOS, box=box)
        return np.array(fitted).reshape(self.size, self.size, channels)

    def augment(
        self, image: UInt8[np.ndarray, "h w c"], rng: np.random.Generator
    ) -> UInt8[np.ndarray, "h w c"]:
        """The image with this epoch's random changes."""
        return image[:, ::-1] if rng.random() < self.flip else image

    @property
    def is_random(self) -> bool:
        return self.flip > 0
